"""The cascade of randomised copies, the likeness of their maps, and the efficient form."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.metrics.efficient_parameter_randomisation import efficient_parameter_randomisation
from pellucid.metrics.parameter_randomisation import parameter_randomisation, structural_similarity
from pellucid.metrics.randomised import randomised
from pellucid.metrics.ranking import spearman
from reference.again import case, score, shown
from reference.nets import GapNet, SelfExplaining, inputs
from reference.untouched import unchanged

BOTH = pytest.mark.parametrize("metric", [parameter_randomisation, efficient_parameter_randomisation])


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def altered(model: nn.Module, x: Tensor, points: int) -> list[set[str]]:
    """Which parameters differ from the network's own at each point."""
    own = copy.deepcopy(model.state_dict())
    found = []
    for state in randomised(Call(model), x, chance(), points):
        found.append({name for name, value in state.state_dict().items() if not torch.equal(value, own[name])})
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    return found


def test_from_the_output_downwards() -> None:
    net = GapNet(2)
    head, upper, lower = ({f"{n}.weight", f"{n}.bias"} for n in ("fc", "features.2", "features.0"))
    assert altered(net, inputs(2), 3) == [head, head | upper, head | upper | lower]
    assert altered(net, inputs(2), 2) == [head, head | upper | lower]
    assert altered(net, inputs(2), 9) == [head, head | upper, head | upper | lower]
    assert altered(net, inputs(2), 1) == [head | upper | lower]


def test_the_order_is_that_of_running_not_of_listing() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.trunk = nn.Linear(3, 2), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.trunk(x.flatten(1)))

    torch.manual_seed(0)
    assert altered(Backwards(), torch.randn(2, 1, 4), 2)[0] == {"head.weight", "head.bias"}


def test_the_evidence_layer_of_a_softcam_is_the_topmost() -> None:
    softcam = pl.convert(GapNet(2).eval(), inputs(2))
    assert altered(softcam, inputs(2), 2)[0] == {"model.fc.weight", "model.fc.bias"}


def test_parameters_without_an_initialisation_are_shuffled() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(64.0))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) * self.scale

    net = Scaled()
    (state,) = randomised(Call(net), torch.ones(1, 1, 64), chance(), 1)
    assert not torch.equal(state.scale, net.scale)  # type: ignore[arg-type]
    assert torch.equal(state.scale.sort().values, net.scale)  # type: ignore[operator,union-attr]


def test_each_value_is_what_its_copy_gives(rank: int) -> None:
    """Every copy is explained once more, by the verb."""
    model, x = SelfExplaining(GapNet(rank)).eval(), inputs(rank)
    given = case(model, x, 1, "evidence")
    found = score(parameter_randomisation, given, points=3)
    maps = [pl.explain(m, x, 1).map.clone() for m in randomised(given.call, x, chance(), 3)]
    alike = [spearman(given.map, m) for m in maps]
    assert torch.equal(found["top_layer"], alike[0])
    assert torch.equal(found[""], alike[2])
    assert found["cascade"].tolist() == pytest.approx((sum(alike) / 3).tolist())  # type: ignore[union-attr]
    assert torch.equal(found["absolute"], spearman(given.map.abs(), maps[2].abs()))
    assert torch.equal(found["ssim"], structural_similarity(given.map, maps[2]))


def test_a_map_that_ignores_the_network_fails() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    found = score(parameter_randomisation, case(net, x, 1, "edge_map"))
    for values in found.values():
        assert values.tolist() == pytest.approx([1, 1, 1])
    assert score(efficient_parameter_randomisation, case(net, x, 1, "edge_map")).tolist() == [0, 0, 0]


def test_evidence_forgets_what_its_layer_forgot() -> None:
    """Over many networks the map of random weights is as often like the own one as unlike it."""
    alike = []
    for seed in range(60):
        model, x = SelfExplaining(GapNet(2, seed=seed)).eval(), inputs(2, side=32, batch=1, seed=seed)
        given = case(model, x, 1, "evidence")
        alike.append(score(parameter_randomisation, given, generator=chance(seed), points=2))
    for part in ("", "top_layer"):
        assert abs(float(torch.stack([a[part] for a in alike]).mean())) < 0.2


def test_similarity_equals_scikit_image(rank: int) -> None:
    """Their local windows, of which the middle one is the whole map."""
    metrics = pytest.importorskip("skimage.metrics")
    a, b = torch.randn(2, 2, *(7,) * rank, generator=chance()).double()
    b = b + a
    for value, x, y in zip(structural_similarity(a, b).tolist(), a, b, strict=True):
        p, q = ((m / m.abs().max()).numpy() for m in (x, y))
        _, whole = metrics.structural_similarity(p, q, win_size=7, data_range=2, full=True, use_sample_covariance=False)
        assert value == pytest.approx(float(whole[(3,) * rank]), abs=1e-9)
    assert structural_similarity(a, 5 * a).tolist() == pytest.approx([1, 1])
    assert math.isnan(float(structural_similarity(torch.ones(1, 4), torch.rand(1, 4))))


def test_entropy_equals_quantus(rank: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functions = pytest.importorskip("quantus.functions.complexity_func")
    own, other = torch.randn(2, 3, *(6,) * rank, generator=chance()).double()
    other = other**3
    net = GapNet(rank)

    def again(**_: Any) -> Any:
        return shown(other)

    for bins in (10, 100):
        found = efficient_parameter_randomisation(Call(net), inputs(rank), own, again, chance(), bins=bins)
        for value, a, b in zip(found.tolist(), own, other, strict=True):
            h = [functions.discrete_entropy(a=m.numpy(), x=m.numpy(), n_bins=bins) for m in (a, b)]
            assert value == pytest.approx((h[1] - h[0]) / h[0], abs=1e-12)


def test_flat_and_undefined_maps_have_no_rise() -> None:
    own = torch.tensor([[1.0, 1, 1], [0, 1, 2], [0, 1, math.nan]])
    random = shown(torch.tensor([[0.0, 1, 2]] * 3))
    net = GapNet(1)
    found = efficient_parameter_randomisation(Call(net), inputs(1), own, lambda **_: random, chance())  # type: ignore[arg-type]
    assert [math.isnan(v) for v in found.tolist()] == [True, False, True]
    alike = parameter_randomisation(Call(net), inputs(1), own, lambda **_: random, chance())  # type: ignore[arg-type]
    for values in alike.values():
        assert [math.isnan(v) for v in values.tolist()] == [True, False, True]


@BOTH
def test_the_network_and_the_chance_of_others_stay(metric: Any) -> None:
    net, x = GapNet(2), inputs(2)  # in training mode, as the user left it
    given, before = case(net, x, 1, "grad_cam"), torch.get_rng_state()
    with unchanged(net):
        score(metric, given)
    assert torch.equal(torch.get_rng_state(), before)
    python = np.random.get_state()[1]
    assert np.array_equal(python, np.random.get_state()[1])


@BOTH
def test_what_is_missing_or_impossible_is_said(metric: Any) -> None:
    with pytest.raises(OptionError, match="explains anew"):
        metric(Call(GapNet(1)), inputs(1), torch.ones(1, 4), None, chance())
    for options, of in (({"points": 1}, parameter_randomisation), ({"bins": 1}, efficient_parameter_randomisation)):
        if metric is of:
            with pytest.raises(OptionError, match="=1"):
                metric(Call(GapNet(1)), inputs(1), torch.ones(1, 4), lambda **_: None, chance(), **options)
