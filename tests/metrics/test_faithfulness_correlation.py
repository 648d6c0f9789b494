from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.metrics.faithfulness_correlation import faithfulness_correlation
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget, RegressionTarget
from reference.nets import GapNet, Linear, inputs

CLASSES = torch.tensor([0, 2, 1])


def scene(rank: int, channels: int = 2) -> tuple[Linear, Tensor, Geometry]:
    return (
        Linear((channels, *(6,) * rank)),
        inputs(rank, side=6).double()[:, :channels],
        Geometry.of_samples((6,) * rank),
    )


def test_one_for_weight_times_input_on_a_linear_network(rank: int) -> None:
    net, x, places = scene(rank)
    map = (net.weight.detach()[CLASSES] * x).sum(1)
    right, wrong = (faithfulness_correlation(Call(net), x, ClassTarget(CLASSES), m, places) for m in (map, -map))
    assert right["score"].tolist() == pytest.approx([1, 1, 1], abs=1e-12)
    assert wrong["score"].tolist() == pytest.approx([-1, -1, -1], abs=1e-12)
    assert bool((right["log_odds"] < 1).all())  # the other classes' logits move as well
    for i in range(3):
        scaled = faithfulness_correlation(
            Call(net), x[i : i + 1], RegressionTarget(int(CLASSES[i])), 9 * map[i : i + 1], places
        )
        assert scaled["score"].tolist() == pytest.approx([1], abs=1e-12)
        assert math.isnan(float(scaled["probability"]))


def test_equals_quantus_for_the_same_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantus = pytest.importorskip("quantus")
    net, x, places = scene(2, channels=1)
    net.eval()
    map = inputs(2, side=6, seed=5).double()[:, 0]
    ours = faithfulness_correlation(Call(net), x, ClassTarget(0), map, places, subsets=20, share=4 / 36)
    copies = torch.cat(net.seen[1:]).view(-1, 3, 36)
    chosen = [np.flatnonzero((copies[k, i] != x[i].flatten()).numpy()) for k in range(20) for i in range(3)]
    assert {len(c) for c in chosen} == {4}
    monkeypatch.setattr(np.random, "choice", lambda *given, **options: chosen.pop(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.FaithfulnessCorrelation(
            nr_runs=20,
            subset_size=4,
            perturb_baseline=0.0,
            normalise=False,
            abs=False,
            return_aggregate=False,
            disable_warnings=True,
        )
        theirs = metric(
            net, x.numpy().copy(), np.zeros(3, int), map[:, None].numpy().copy(), device="cpu", softmax=False
        )
    assert ours["score"].tolist() == pytest.approx([float(v) for v in theirs], abs=1e-6)


def test_equals_the_definition_written_out(rank: int) -> None:
    """With one cell per two samples: a subset holds half a cell."""
    net, x = GapNet(rank).double().eval(), inputs(rank, side=8).double()
    map = inputs(rank, side=4, seed=5).double()[:, 0]
    places = Geometry.unregistered((4,) * rank, (8,) * rank)
    found = faithfulness_correlation(Call(net), x, ClassTarget(CLASSES), map, places, subsets=12, share=0.25)
    fine = map
    for axis in range(1, rank + 1):
        fine = fine.repeat_interleave(2, axis) / 2
    seeds = torch.randint(2**62, (12,), generator=torch.Generator().manual_seed(0))
    for i, c in enumerate(CLASSES.tolist()):
        told, fell = [], []
        for seed in seeds.tolist():
            order = torch.randperm(8**rank, generator=torch.Generator().manual_seed(seed))[: 8**rank // 4]
            changed = x[i].flatten(1).clone()
            changed[:, order] = 0
            before, after = (net(v.view(1, *x.shape[1:])).detach().softmax(1)[0, c] for v in (x[i], changed))
            told.append(float(fine[i].flatten()[order].sum()))
            fell.append(float(before - after))
        assert float(found["probability"][i]) == pytest.approx(np.corrcoef(told, fell)[0, 1], abs=1e-9)


def test_chance_is_near_zero() -> None:
    net, x, places = scene(2)
    map = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert float(faithfulness_correlation(Call(net), x, ClassTarget(0), map, places)["score"].abs().max()) < 0.6


def test_flat_and_undefined_maps_have_no_value() -> None:
    net, x, places = scene(2)
    for value in (0.0, 0.1, math.nan):
        map = torch.full((3, 6, 6), value)
        assert bool(faithfulness_correlation(Call(net), x, ClassTarget(0), map, places)["score"].isnan().all())
    still = faithfulness_correlation(Call(net), torch.zeros_like(x), ClassTarget(0), x[:, 0], places)["score"]
    assert bool(still.isnan().all())  # the answer never changes


@pytest.mark.parametrize("options", [{"subsets": 0}, {"share": 0.0}, {"share": 1.0}])
def test_impossible_options(options: dict[str, float]) -> None:
    net, x, places = scene(2)
    with pytest.raises(OptionError):
        faithfulness_correlation(Call(net), x, ClassTarget(0), x[:, 0], places, **options)  # type: ignore[arg-type]
