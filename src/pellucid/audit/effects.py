"""What one thing in the picture does to the decision: the score with it minus the score without it.

The counterfactual is rendered or supplied with the sample, so nothing is imputed, and the effect is the network's own
(Adebayo et al. 2022 and Sun et al. 2023 show why heatmaps alone do not answer this).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor, nn

from pellucid import spatial, targets
from pellucid.api import explain
from pellucid.errors import OptionError, nearest
from pellucid.record import Interval, mean_interval, t_interval
from pellucid.sample import Dataset, Sample, collate


@dataclass(frozen=True)
class Effect:
    """Of one sample, in units of the score: its change, and the evidence in the thing's zone with and without it."""

    sample: str
    group: str
    change: float
    evidence_with: float
    evidence_without: float


@dataclass(frozen=True)
class EffectSummary:
    """Means with intervals (see `of_one_network`, `of_trainings`). `contrast` is the zone's evidence with minus without."""

    change: Interval
    evidence_with: Interval
    evidence_without: Interval
    contrast: Interval


def effects(
    softcam: nn.Module,
    dataset: Dataset,
    thing: str = "marker",
    *,
    target: targets.Target | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[Effect]:
    """The effect of `thing` on every sample that can be rendered "with thing" and "without thing".

    target: the score; by default the log-odds of the second class against the first. The zone is the one named after
    the thing. Raises `OptionError` where samples cannot be rendered so.
    """
    target = target or targets.ContrastTarget(1, 0)
    found = []
    for start in range(0, len(dataset), batch_size):
        samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        with_it, zones = _score(softcam, _changed(samples, f"with {thing}"), thing, target)
        without, empty = _score(softcam, _changed(samples, f"without {thing}"), thing, target)
        rows = zip(samples, (with_it - without).tolist(), zones.tolist(), empty.tolist(), strict=True)
        found += [Effect(s.name, s.group, change, shown, left) for s, change, shown, left in rows]
        if progress is not None:
            progress(start + len(samples), len(dataset))
    return found


def _changed(samples: Sequence[Sample], name: str) -> list[Sample]:
    for sample in samples:
        if name not in sample.alternatives:
            raise OptionError(
                f"Sample '{sample.name}' cannot be rendered '{name}'.", hint=nearest(name, sample.alternatives)
            )
    return [s.alternatives[name]() for s in samples]


def _score(softcam: nn.Module, samples: Sequence[Sample], zone: str, target: targets.Target) -> tuple[Tensor, Tensor]:
    """The scores, and the evidence in the zone: each cell counts by the share of its pixels that lie in it."""
    e = explain(softcam, collate(samples), target, method="evidence")
    share = spatial.cells_in(torch.stack([s.zones[zone] for s in samples]), e.geometry)
    inside = (e.contributions().cells.cpu().double() * share).flatten(1).sum(1)
    return e.score.double().cpu(), inside


def of_one_network(found: Sequence[Effect], *, seed: int = 0) -> EffectSummary:
    """Means with intervals over patients: what is true of this very network, training chance and all."""
    groups = [f.group or f.sample for f in found]
    return _summary(found, lambda values: mean_interval(values, groups, seed=seed))


def of_trainings(found: Sequence[Sequence[Effect]]) -> EffectSummary:
    """Means with intervals over networks trained independently in the same way (one sequence of effects each).

    A single network has picked up some small effect of everything by chance, and an interval over patients is narrow
    enough to show it. Only repeated training tells whether data of this kind teach the effect.
    """
    means = [Effect("", "", *(mean(getattr(f, name) for f in one) for name in _NUMBERS)) for one in found]
    return _summary(means, t_interval)


_NUMBERS = ("change", "evidence_with", "evidence_without")


def _summary(found: Sequence[Effect], interval: Callable[[Sequence[float]], Interval]) -> EffectSummary:
    columns = [[getattr(f, name) for f in found] for name in _NUMBERS]
    columns.append([f.evidence_with - f.evidence_without for f in found])
    return EffectSummary(*[interval(column) for column in columns])
