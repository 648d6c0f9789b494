"""Train a network anew so that a zone tells it nothing, and measure what that does with the shortcut and without it.

exchange   in training every sample gets the zone of another one, drawn without regard to its class: the zone is what
           it was, and goes with no class any more
penalty    evidence in the zone costs: the penalty "mask", with everything but the zone as mask
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from pellucid import files, study
from pellucid.api import logits_of
from pellucid.audit.differences import Array, Statistic
from pellucid.audit.observe import Part, probabilities
from pellucid.audit.performance import share_interval
from pellucid.audit.subject import Subject, explainable
from pellucid.audit.zones import Zone
from pellucid.call import Call, weights_device
from pellucid.errors import OptionError, nearest
from pellucid.hooks import untouched
from pellucid.performance import auc
from pellucid.record import Interval, bootstrap, mean_interval
from pellucid.sample import Dataset, Sample, Subset, collate
from pellucid.training.data import seed_of

NOTE = "mended.json"  # which zone of which run was mended, and how
How = Literal["exchange", "penalty"]
STRENGTH = 30.0  # of the penalty, whose mean is over all cells, of which the zone's are few
AS_IS, AGREES, CONTRADICTS = "as they are", "zone goes with the class", "zone goes against the class"
BATCH = 64


@dataclass(frozen=True)
class MendedRow:
    """A score under a condition, of the network before and after."""

    condition: str
    metric: str
    before: Interval
    after: Interval
    difference: Interval

    @property
    def key(self) -> str:
        return f"{self.condition.replace(' ', '_')}.{self.metric}"


@dataclass(frozen=True)
class Mended:
    """What mending did. folder: the run that was trained anew. about: how the conditions were made."""

    zone: str
    how: How
    folder: Path
    rows: tuple[MendedRow, ...]
    about: str

    def words(self) -> Iterator[str]:
        """What it did, where the zone goes against the class and as the samples are."""
        yield f"Trained anew, with {_DID[self.how]} in {self.zone}: {self.folder}."
        for row in self.rows:
            if row.metric == "accuracy":
                yield f"Accuracy, samples {'whose ' if row.condition != AS_IS else ''}{row.condition}: {row.before} before, {row.after} after; difference {row.difference}."
        yield "One training before and one after are compared; intervals are over patients and hold no training chance."


_DID = {"exchange": "the zones of other samples", "penalty": "a price on evidence"}


@dataclass(frozen=True)
class ExchangedZone(Subset):
    """Samples with the zone of another one, drawn without regard to its class."""

    zone: Zone
    seed: int = 0

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        inside = self.zone.of(sample)
        if inside is None:
            return sample
        chance = torch.Generator().manual_seed(seed_of("exchange", self.seed, index))
        other = super().__getitem__(int(torch.randint(len(self), (), generator=chance)))
        return sample.changed(input=torch.where(inside, other.input, sample.input), alternatives={})

    @property
    def fingerprint(self) -> str:
        return _changed_print(super().fingerprint, "exchange", self.zone, self.seed)


@dataclass(frozen=True)
class PricedZone(Subset):
    """Samples with everything but the zone as mask, for the penalty "mask"."""

    zone: Zone

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        inside = self.zone.of(sample)
        return sample.changed(mask=None if inside is None else ~inside)

    @property
    def fingerprint(self) -> str:
        return _changed_print(super().fingerprint, "penalty", self.zone, 0)


def _changed_print(fingerprint: str, how: str, zone: Zone, seed: int) -> str:
    return hashlib.sha256(f"{fingerprint}:{how}:{zone.name}:{seed}".encode()).hexdigest()


@dataclass(frozen=True)
class Conditions:
    """How samples are made to agree with their class in a zone, or to contradict it.

    effect: what the thing in the zone does to the log-odds of the class `positive`, where samples can be rendered with it
    and without: the positive class is then shown with it in agreement, if it speaks for that class. None: the zone comes
    from a sample of the same class, or of another.
    """

    zone: Zone
    positive: int
    effect: float | None
    seed: int = 0

    @property
    def about(self) -> str:
        """How the conditions were made, in words."""
        return _ABOUT_EXCHANGED if self.effect is None else _ABOUT_RENDERED

    def batches(self, dataset: Dataset, condition: str) -> Iterator[tuple[list[Sample], Tensor]]:
        """The samples, in a drawn order so that donors come from all classes, and what the networks get instead."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(dataset), generator=generator).tolist()
        agree = condition == AGREES
        for start in range(0, len(order), BATCH):
            samples = [dataset[i] for i in order[start : start + BATCH]]
            if condition == AS_IS:
                yield samples, collate(samples)
            elif self.effect is not None:
                yield samples, collate([self._shown(s, (self.effect > 0) == agree) for s in samples])
            else:
                yield from self._with_donors(samples, agree, generator)

    def _shown(self, sample: Sample, positive: bool) -> Sample:
        """positive: whether it is the positive class that is shown with the thing."""
        there = (sample.label == self.positive) == positive
        return sample.alternatives[f"{'with' if there else 'without'} {self.zone.thing}"]()

    def _with_donors(
        self, samples: list[Sample], same: bool, generator: torch.Generator
    ) -> Iterator[tuple[list[Sample], Tensor]]:
        """A sample for which there is no donor is left out."""
        kept, changed = [], []
        for i, sample in enumerate(samples):
            donors = [s for j, s in enumerate(samples) if j != i and (s.label == sample.label) == same]
            inside = self.zone.of(sample)
            if donors and inside is not None:
                donor = donors[int(torch.randint(len(donors), (), generator=generator))]
                kept.append(sample)
                changed.append(torch.where(inside, donor.input, sample.input))
        if kept:
            yield kept, torch.stack(changed)


_ABOUT_RENDERED = "Every sample is rendered with the thing in the zone or without it: as goes with its class for the network before, or the other way round."
_ABOUT_EXCHANGED = "Every sample gets the zone of a sample of its own class, or of another class."


def mend(subject: Subject, conditions: Conditions, how: str, out: Path) -> Mended:
    """Train the run's networks anew into `out`, and compare them with those before on what neither learnt from.

    Raises what `anew` raises.
    """
    made, way = anew(subject, how)
    parts = _trained(subject, made, conditions, way, out)
    rows = [
        row
        for condition in (AS_IS, AGREES, CONTRADICTS)
        for row in compared(subject.parts, parts, conditions, condition)
    ]
    return Mended(conditions.zone.name, way, out, tuple(rows), conditions.about)


def _trained(subject: Subject, made: study.Study, conditions: Conditions, how: How, out: Path) -> list[Part]:
    """The same recipe on the changed data, fold by fold."""
    opened = study.open_study(made, out)
    note = {"zone": conditions.zone.name, "how": how, "of": subject.folder.name, "seed": conditions.seed}
    files.write_json(out / NOTE, note)
    parts = []
    for fold, before in zip(opened.folds, subject.parts, strict=True):
        rows = (fold.train.parent, fold.train.indices, conditions.zone)
        changed = ExchangedZone(*rows, conditions.seed) if how == "exchange" else PricedZone(*rows)
        folder = study.train_fold(made, opened, replace(fold, train=changed), out, progress=False)
        network, _ = explainable(folder, before.dataset, weights_device(before.network))
        parts.append(Part(before.name, network, before.dataset))
    study.seal(out)
    return parts


def anew(subject: Subject, how: str) -> tuple[study.Study, How]:
    """The run's own study, with the price where one is asked for in the place of any other penalty; and the way itself.

    Raises `OptionError` for a way that there is not, and for a network that was not trained by `pellucid train` or cannot
    be trained that way.
    """
    if how not in get_args(How):
        raise OptionError(f"There is no way of mending '{how}'.", hint=nearest(how, get_args(How)))
    made = subject.study
    if made is None or made.probe:
        raise OptionError(
            f"{subject.folder} cannot be trained anew.",
            why="It is no run of pellucid train." if made is None else "It is a frozen trunk with a fitted head.",
            hint="Name a run of pellucid train without --probe.",
        )
    if how == "exchange":
        return made, "exchange"
    if made.black_box:
        raise OptionError(
            f"{subject.folder} holds a black box.",
            why="A price on evidence needs evidence in training.",
            hint="Mend with --how exchange.",
        )
    price = {"penalty": "mask", "strength": STRENGTH, "penalty_classes": "all", "reduction": "mean", "compat": None}
    return replace(made, recipe=made.recipe.changed(**price)), "penalty"


def compared(
    before: Sequence[Part], after: Sequence[Part], conditions: Conditions, condition: str
) -> Iterator[MendedRow]:
    """Accuracy and AUC of both networks on the same samples under a condition, intervals over patients."""
    labels, units, (first, second) = _answered(before, after, conditions, condition)
    was, now = ((p.argmax(1) == labels).astype(float) for p in (first, second))

    def share(right: Array) -> Interval:
        return share_interval(right, units, seed=conditions.seed)

    def area(statistic: Statistic) -> Interval:
        return bootstrap(statistic, units, seed=conditions.seed)

    gained = mean_interval((now - was).tolist(), units, seed=conditions.seed)
    yield MendedRow(condition, "accuracy", share(was), share(now), gained)
    yield MendedRow(
        condition,
        "auc",
        area(lambda rows: auc(first[rows], labels[rows])),
        area(lambda rows: auc(second[rows], labels[rows])),
        area(lambda rows: auc(second[rows], labels[rows]) - auc(first[rows], labels[rows])),
    )


def _answered(
    before: Sequence[Part], after: Sequence[Part], conditions: Conditions, condition: str
) -> tuple[Array, list[str], tuple[Array, Array]]:
    """Label and patient of every sample, and both networks' probabilities."""
    known: list[Sample] = []
    said: tuple[list[Any], list[Any]] = ([], [])
    for parts in zip(before, after, strict=True):
        for samples, x in conditions.batches(parts[0].dataset, condition):
            known += samples
            for rows, part in zip(said, parts, strict=True):
                rows += _answers(part.network, x)
    labels = np.array([s.label for s in known])
    return labels, [s.group or s.name for s in known], (np.array(said[0]), np.array(said[1]))


def _answers(network: nn.Module, x: Tensor) -> tuple[tuple[float, ...], ...]:
    with torch.no_grad(), untouched(network):
        return probabilities(Call(network, output=logits_of(network))(x.to(weights_device(network))))
