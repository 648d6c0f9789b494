"""What networks say of samples they have not seen, and what the content of a zone does to it: one pass over the data.

Three ways to change a zone, each with the same question: how far does what is in it move the score?

    shown      the sample is rendered, or a found drawing is painted, with the thing in the zone and without it
    given      the zone is put into other samples: its content is judged among strangers
    removed    the zone is rendered without the thing, or imputed from its surroundings
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks, spatial, targets
from pellucid.api import explain, logits_of
from pellucid.audit.decisions import decided
from pellucid.audit.zones import Zone
from pellucid.call import Call, has_evidence, weights_device
from pellucid.errors import OptionError
from pellucid.metrics.imputation import impute
from pellucid.sample import Dataset, Sample, collate, readable

ROUNDS = 3  # strangers that each zone is put into
LARGEST = 0.5  # share of the input; in a larger zone nothing is imputed, since too little is left to do it from
NAN = float("nan")


@dataclass(frozen=True)
class Part:
    """A network and samples that it did not see in training."""

    name: str
    network: nn.Module
    dataset: Dataset


@dataclass(frozen=True)
class Drawing:
    """A found drawing as a zone: what is painted into it, and the names of the samples that show it."""

    zone: Zone
    template: Float[Tensor, "channels *spatial"]
    shown_in: frozenset[str]
    box: str  # the zone around it, as one declares it


@dataclass(frozen=True)
class Question:
    """What is asked of every sample. positive: the class whose log-odds against the others are the score."""

    positive: int
    zones: Sequence[Zone] = ()
    drawings: Sequence[Drawing] = ()
    record: bool = False  # whether each decision is explained for the record
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class ZoneReading:
    """What a zone of one sample says and does, in units of the score; nan where it was not measured.

    area: the zone's share of the input; mass: its share of the size of the evidence; evidence: the sum of its cells.
    given: how far its content moves the scores of strangers; given_evidence: the evidence there, once it is there.
    removed: the score minus that without the zone's content. shown: the score with the thing minus that without it;
    with_it, without: the evidence in the zone then.
    """

    area: float = NAN
    mass: float = NAN
    evidence: float = NAN
    given: float = NAN
    given_evidence: float = NAN
    removed: float = NAN
    shown: float = NAN
    with_it: float = NAN
    without: float = NAN


@dataclass(frozen=True)
class Reading:
    """One sample, and what its network made of it.

    positive: whether its label is the class that the score speaks for. size: the sum of |evidence|; outside: the share of
    it outside the sample's mask, outside_area: of the input; unmasked: the score minus that with the mask's content
    imputed. digest: SHA-256 of the input's numbers. decision: what is put on record, where it was asked for.
    """

    index: int
    sample: str
    group: str
    part: str
    label: int
    positive: bool
    probabilities: tuple[float, ...]
    score: float
    size: float
    outside: float
    outside_area: float
    unmasked: float
    digest: str
    meta: Mapping[str, Any] = field(repr=False)
    zones: Mapping[str, ZoneReading] = field(repr=False)
    decision: Mapping[str, Any] = field(repr=False)

    @property
    def unit(self) -> str:
        """What is independent of other readings: the patient, where known."""
        return self.group or self.sample

    @property
    def answer(self) -> int:
        """The class that is most probable."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)


def observe(
    part: Part,
    question: Question,
    *,
    skipped: dict[str, str] | None = None,
    tick: Callable[[int], None] | None = None,
) -> list[Reading]:
    """Everything the network says of its samples, in their order.

    The samples are met in a drawn order, so that strangers come from all classes. skipped: where samples that cannot be
    read are noted. tick: called with the number of samples after each batch. Raises `OptionError` for a sample without
    a class or a task that has none.
    """
    order = torch.randperm(len(part.dataset), generator=torch.Generator().manual_seed(question.seed)).tolist()
    found: list[Reading] = []
    for rows in _batches(order, question.batch_size):
        samples = dict(readable(part.dataset, rows, skipped if skipped is not None else {}))
        for sample in samples.values():
            _check_has_class(sample)
        if samples:
            found += _observed(part, question, list(samples), list(samples.values()))
        if tick is not None:
            tick(len(rows))
    return sorted(found, key=lambda reading: reading.index)


def score_of(network: nn.Module, x: Tensor, positive: int) -> targets.Target:
    """The one number that the audit follows: the log-odds of a class. Raises `OptionError` where there is none."""
    with torch.no_grad(), hooks.untouched(network):
        output = Call(network, output=logits_of(network))(x.to(weights_device(network)))
    task = getattr(network, "task", None) or targets.default_task(output)
    if task == "binary":
        return targets.SingleLogitTarget(positive == 1)
    if task != "multiclass":
        raise OptionError(
            f"A {task} network cannot be audited.",
            why="The audit follows the log-odds of one class against the others.",
            hint="Use a network whose classes exclude one another.",
        )
    return targets.ContrastTarget(positive, 1 - positive) if output.shape[1] == 2 else targets.OneVsRestTarget(positive)


def _batches(order: Sequence[int], size: int) -> list[Sequence[int]]:
    """A single sample left over joins the batch before it: it would have no stranger."""
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [[*batches[-2], *batches[-1]]]
    return batches


def _check_has_class(sample: Sample) -> None:
    if not isinstance(sample.label, int):
        raise OptionError(
            f"Sample '{sample.name}' has no class.",
            why="An audit compares answers with the truth.",
            hint="Give labelled data.",
        )


def _observed(part: Part, question: Question, rows: Sequence[int], samples: Sequence[Sample]) -> list[Reading]:
    x = collate(samples)
    voice = _Voice(part.network, score_of(part.network, x[:1], question.positive))
    said = voice(x)
    zones: list[dict[str, ZoneReading]] = [{} for _ in samples]
    generator = torch.Generator().manual_seed(question.seed + rows[0])
    for zone in question.zones:
        _tell(zones, zone.name, _of_zone(voice, said, zone, samples, x, generator))
    for drawing in question.drawings:
        _tell(zones, drawing.zone.name, _of_drawing(voice, said, drawing, samples, x))
    outside = _outside(voice, said, samples, x)
    decisions = decided(part.network, x) if question.record else [{}] * len(samples)
    return [
        Reading(
            index, s.name, s.group, part.name, int(s.label), int(s.label) == question.positive, said.probabilities[i], float(said.score[i]), float(said.size[i]),
            *outside[i], sha256(s.input.numpy().tobytes()).hexdigest(), s.meta, zones[i], decisions[i],
        )
        for i, (index, s) in enumerate(zip(rows, samples, strict=True)) if isinstance(s.label, int)
    ]  # fmt: skip


def _tell(zones: list[dict[str, ZoneReading]], name: str, found: Mapping[int, ZoneReading]) -> None:
    for i, reading in found.items():
        zones[i][name] = reading


@dataclass(frozen=True)
class _Said:
    """Answers to a batch: score, probabilities, and cells where the network has evidence."""

    score: Float[Tensor, "batch"]
    probabilities: tuple[tuple[float, ...], ...]
    cells: Float[Tensor, "batch *grid"] | None
    geometry: spatial.Geometry | None

    @property
    def size(self) -> Tensor:
        return torch.full_like(self.score, NAN) if self.cells is None else self.cells.abs().flatten(1).sum(1)

    def inside(self, masks: Tensor, rows: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """The sum of the cells in each input's mask, and that of their sizes."""
        if self.cells is None or self.geometry is None:
            return (torch.full((len(masks),), NAN),) * 2
        cells = self.cells if rows is None else self.cells[list(rows)]
        share = spatial.cells_in(masks, self.geometry)
        return (cells * share).flatten(1).sum(1), (cells.abs() * share).flatten(1).sum(1)


@dataclass(frozen=True)
class _Voice:
    """A network asked for the log-odds of a class, with its evidence where it has any."""

    network: nn.Module
    target: targets.Target

    def __call__(self, x: Tensor) -> _Said:
        if not has_evidence(self.network):
            return self._unexplained(x)
        e = explain(self.network, x, self.target, method="evidence")
        cells = e.contributions().cells.detach().cpu().double()
        return _Said(e.score.cpu().double(), probabilities(e.logits), cells, e.geometry)

    def _unexplained(self, x: Tensor) -> _Said:
        with torch.no_grad(), hooks.untouched(self.network):
            output = Call(self.network, output=logits_of(self.network))(x.to(weights_device(self.network)))
        return _Said(self.target.resolve(output)(output).cpu().double(), probabilities(output), None, None)


def probabilities(logits: Float[Tensor, "batch ..."]) -> tuple[tuple[float, ...], ...]:
    """One per class for each input; a single logit's are those of no and yes."""
    rows = logits.detach().double().cpu().reshape(len(logits), -1)
    yes = rows.sigmoid()
    p = rows.softmax(1) if rows.shape[1] > 1 else torch.cat([1 - yes, yes], 1)
    return tuple(map(tuple, p.tolist()))


def _of_zone(
    voice: _Voice, said: _Said, zone: Zone, samples: Sequence[Sample], x: Tensor, generator: torch.Generator
) -> dict[int, ZoneReading]:
    """The zone of every sample that has it."""
    masks = {i: mask for i, s in enumerate(samples) if (mask := zone.of(s)) is not None and bool(mask.any())}
    if not masks:
        return {}
    rows, inside = list(masks), torch.stack(list(masks.values()))
    own, size = said.inside(inside, rows)
    base = said.score[rows]
    given, evidence = _among_strangers(voice, x[rows], inside, base, generator)
    removed = (
        base - voice(_without(zone, [samples[i] for i in rows], x[rows], inside)).score
        if _removable(inside)
        else given * NAN
    )
    found = {
        i: ZoneReading(float(inside[k].double().mean()), float(size[k] / said.size[i]), float(own[k]), float(given[k]), float(evidence[k]), float(removed[k]))
        for k, i in enumerate(rows)
    }  # fmt: skip
    return _rendered(voice, zone, samples, found, inside) if zone.thing else found


def _among_strangers(
    voice: _Voice, x: Tensor, inside: Tensor, base: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """How far each sample's zone moves the scores of others, and the evidence there: means over `ROUNDS` of them."""
    moved, evidence = torch.zeros_like(base), torch.zeros_like(base)
    if len(x) < 2:
        return moved * NAN, evidence * NAN
    for _ in range(ROUNDS):
        order = torch.randperm(len(x), generator=generator)
        donors = torch.empty_like(order)
        donors[order] = order.roll(1)  # a circle: everyone gives once, and nobody to himself
        said = voice(torch.where(inside[:, None], x[donors], x))
        moved[donors] += (said.score - base) / ROUNDS
        evidence[donors] += said.inside(inside)[0] / ROUNDS
    return moved, evidence


def _removable(inside: Tensor) -> bool:
    return float(inside.double().flatten(1).mean(1).max()) <= LARGEST


def _without(zone: Zone, samples: Sequence[Sample], x: Tensor, inside: Tensor) -> Tensor:
    name = f"without {zone.thing}"
    if zone.thing and all(name in s.alternatives for s in samples):
        return collate([s.alternatives[name]() for s in samples])
    return impute(x, inside)


def _rendered(
    voice: _Voice, zone: Zone, samples: Sequence[Sample], found: dict[int, ZoneReading], inside: Tensor
) -> dict[int, ZoneReading]:
    """The same with what showing the thing does, where the samples can be rendered with it and without."""
    names = (f"with {zone.thing}", f"without {zone.thing}")
    rows = list(found)
    if not all(name in samples[i].alternatives for i in rows for name in names):
        return found
    shown, hidden = (voice(collate([samples[i].alternatives[name]() for i in rows])) for name in names)
    return _both(found, rows, shown, hidden, inside)


def _both(
    found: dict[int, ZoneReading], rows: Sequence[int], shown: _Said, hidden: _Said, inside: Tensor
) -> dict[int, ZoneReading]:
    changes, ours, theirs = shown.score - hidden.score, shown.inside(inside)[0], hidden.inside(inside)[0]
    return {
        i: replace(found[i], shown=float(changes[k]), with_it=float(ours[k]), without=float(theirs[k]))
        for k, i in enumerate(rows)
    }


def _of_drawing(
    voice: _Voice, said: _Said, drawing: Drawing, samples: Sequence[Sample], x: Tensor
) -> dict[int, ZoneReading]:
    """The drawing painted where it is not, and imputed away where it is."""
    mask = drawing.zone.of(samples[0])
    assert mask is not None
    inside = mask.expand(len(x), *mask.shape)
    there = torch.tensor([s.name in drawing.shown_in for s in samples])
    painted = torch.where(spatial.expand(~there, x) & mask, drawing.template.to(x), x)
    cleaned = impute(x, inside & spatial.expand(there, inside))
    own, size = said.inside(inside)
    area = float(mask.double().mean())
    found = {i: ZoneReading(area, float(size[i] / said.size[i]), float(own[i])) for i in range(len(samples))}
    return _both(found, range(len(samples)), voice(painted), voice(cleaned), inside)


def _outside(voice: _Voice, said: _Said, samples: Sequence[Sample], x: Tensor) -> list[tuple[float, float, float]]:
    """The shares of the evidence and of the input outside each mask, and what the mask's content does to the score; nan for
    a sample without one.
    """
    found = [(NAN, NAN, NAN)] * len(samples)
    masks = {i: s.mask for i, s in enumerate(samples) if s.mask is not None and bool(s.mask.any())}
    if masks:
        rows, inside = list(masks), torch.stack(list(masks.values()))
        size = said.inside(~inside, rows)[1] / said.size[rows]
        area = (~inside).double().flatten(1).mean(1)
        fall = said.score[rows] - voice(impute(x[rows], inside)).score if _removable(inside) else area * NAN
        for k, i in enumerate(rows):
            found[i] = float(size[k]), float(area[k]), float(fall[k])
    return found
