"""Effects of a thing that is shown or not, on a network whose answer can be computed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from audit.kit import WEIGHT, MeanNet
from pellucid.audit.effects import Effect, effects, of_one_network, of_trainings
from pellucid.errors import OptionError
from pellucid.record import mean_interval
from pellucid.sample import Facts, Sample
from pellucid.targets import ClassTarget

THING = 3.0  # what the thing adds to every pixel of its zone


def zone() -> Tensor:
    """Three pixels wide, two high, in the corner: one whole cell and half of the next."""
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:2, :3] = True
    return inside


@dataclass(frozen=True)
class Recipe:
    index: int
    shown: bool

    def __call__(self) -> Sample:
        x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(self.index))
        return Sample(
            x + THING * zone() if self.shown else x,
            label=1,
            name=f"s{self.index}",
            group=f"p{self.index // 2}",
            zones={"thing": zone()},
        )


class Rendered:
    """Samples that can be rendered with the thing and without it."""

    classes = ("absent", "present")
    fingerprint = "rendered"

    def __init__(self, n: int = 5) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        recipes: dict[str, Any] = {"with thing": Recipe(index, True), "without thing": Recipe(index, False)}
        return Recipe(index, index % 2 == 0)().changed(alternatives=recipes)

    def facts(self, index: int) -> Facts:
        return Facts(f"s{index}", 1, f"p{index // 2}")


def test_effects_are_those_computed_by_hand() -> None:
    seen: list[tuple[int, int]] = []
    found = effects(
        MeanNet(), Rendered(), "thing", batch_size=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    difference = float(WEIGHT[1] - WEIGHT[0])
    share = torch.zeros(8, 8)
    share[:2, :2] = 1
    share[:2, 2:4] = 0.5  # half of the second cell lies in the zone
    for k, effect in enumerate(found):
        assert (effect.sample, effect.group) == (f"s{k}", f"p{k // 2}")
        assert effect.change == pytest.approx(difference * THING * 6 / 64, abs=1e-6)
        for shown, value in ((False, effect.evidence_without), (True, effect.evidence_with)):
            assert value == pytest.approx(
                difference * float((Recipe(k, shown)().input[0] * share).sum()) / 64, abs=1e-6
            )


def test_the_other_class_has_the_opposite_effect() -> None:
    """Of two softmax classes, each is explained against the other."""
    (one,), (other,) = (effects(MeanNet(), Rendered(1), "thing", target=ClassTarget(c)) for c in (1, 0))
    (default,) = effects(MeanNet(), Rendered(1), "thing")
    assert one == default
    assert (other.change, other.evidence_with) == pytest.approx((-one.change, -one.evidence_with), abs=1e-6)


def test_what_cannot_be_rendered_is_refused() -> None:
    with pytest.raises(OptionError, match="cannot be rendered 'with thign'") as error:
        effects(MeanNet(), Rendered(), "thign")
    assert "with thing" in error.value.hint


def made(values: list[float], groups: list[str] | None = None) -> list[Effect]:
    return [Effect(f"s{i}", (groups or [""] * len(values))[i], v, 2 * v, v / 2) for i, v in enumerate(values)]


def test_of_one_network_resamples_patients() -> None:
    values, groups = [1.0, 3.0, 2.0, 6.0], ["a", "a", "b", ""]
    summary = of_one_network(made(values, groups), seed=4)
    assert summary.change == mean_interval(values, ["a", "a", "b", "s3"], seed=4)
    assert (summary.change.n, summary.change.groups) == (4, 3)
    assert summary.contrast.mean == pytest.approx(np.mean([1.5 * v for v in values]))
    assert summary.contrast == mean_interval([1.5 * v for v in values], ["a", "a", "b", "s3"], seed=4)


def test_of_trainings_is_students_t_over_networks() -> None:
    networks = [[1.0, 2.0], [2.0, 4.0], [0.0, 3.0]]
    summary = of_trainings([made(v) for v in networks])
    means = [np.mean(v) for v in networks]
    wanted = stats.t.interval(0.95, 2, loc=np.mean(means), scale=stats.sem(means))
    assert (summary.change.low, summary.change.high) == pytest.approx(wanted)
    assert summary.change.n == 3
    wanted = stats.t.interval(0.95, 2, loc=1.5 * np.mean(means), scale=1.5 * stats.sem(means))
    assert (summary.contrast.low, summary.contrast.high) == pytest.approx(wanted)
    alone = of_trainings([made([1.0, 2.0])]).change
    assert alone.mean == 1.5
    assert np.isnan([alone.low, alone.high]).all()
