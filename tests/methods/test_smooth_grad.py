from __future__ import annotations

import pytest
import torch

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods.saliency import saliency
from pellucid.methods.smooth_grad import smooth_grad
from pellucid.targets import ClassTarget
from reference import input_methods as literal
from reference.cam import error
from reference.nets import GapNet, inputs

CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.checks("smooth_grad", against="a literal version on the same draws", tolerance=1e-12)
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_equals_the_literal_version_on_the_same_draws(rank: int, batch_size: int, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank, side=8).double()
    own = source(5)
    draws = [torch.randn(x.shape[1:], generator=own).double() for _ in range(4)]
    expected = literal.smooth_grad(net, x, CLASSES, 0.2, draws)
    options = {"samples": 4, "noise": 0.2, "batch_size": batch_size}
    found = smooth_grad(Call(net), x, TARGET, reduce="none", generator=source(5), **options)  # type: ignore[arg-type]
    assert error(found.map, expected) < tolerance
    found = smooth_grad(Call(net), x, TARGET, generator=source(5), **options)  # type: ignore[arg-type]
    assert error(found.map, expected.abs().amax(1)) < tolerance


def test_without_noise_it_is_saliency(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    assert error(smooth_grad(Call(net), x, TARGET, noise=0, samples=3).map, saliency(Call(net), x, TARGET).map) < 1e-6


def test_comes_near_to_captum_as_chance_allows() -> None:
    """Two means over different draws: their difference is that of the standard errors."""
    attr = pytest.importorskip("captum.attr")
    net, x = GapNet(1).double().eval(), inputs(1, batch=1).double()
    sigma = 0.2 * float(x.max() - x.min())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = attr.NoiseTunnel(attr.Saliency(net)).attribute(x, nt_samples=600, stdevs=sigma, target=1, abs=False)
    options = {"noise": 0.2, "reduce": "none"}
    ours = smooth_grad(Call(net), x, ClassTarget(1), samples=600, batch_size=600, **options).map  # type: ignore[arg-type]
    single = torch.stack([smooth_grad(Call(net), x, ClassTarget(1), samples=1, generator=source(k), **options).map for k in range(50)])  # type: ignore[arg-type]  # fmt: skip
    assert float((ours - theirs).abs().max()) < 5 * (2 / 600) ** 0.5 * float(single.std(0).max())


def test_a_batch_in_parts_is_the_batch() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    whole = pl.explain(net, x, CLASSES, method="smooth_grad", seed=3).map
    assert error(pl.explain(net, x, CLASSES, method="smooth_grad", seed=3, batch_size=2).map, whole) < 1e-6
    assert error(pl.explain(net, x, CLASSES, method="smooth_grad", seed=4).map, whole) > 1e-3


def test_refusals() -> None:
    with pytest.raises(OptionError, match="samples=0"):
        smooth_grad(Call(GapNet(2)), inputs(2), TARGET, samples=0)
    with pytest.raises(OptionError, match="noise=-1"):
        smooth_grad(Call(GapNet(2)), inputs(2), TARGET, noise=-1)
