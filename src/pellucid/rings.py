"""Does the strongest evidence come from where it is drawn, or from the edge of what the cell sees?

A network whose pooling lets few cells decide (log-sum-exp, top-k) can learn to be sure wherever a finding just touches the edge
of a cell's receptive field. The logit is right; the map is a ring around what decides, and negative at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid import inputs
from pellucid.api import explain
from pellucid.call import unwrapped
from pellucid.errors import OptionError
from pellucid.inputs import Baseline
from pellucid.models.pooling import EvidenceHead
from pellucid.record import Interval, mean_interval
from pellucid.sample import Dataset, collate, readable
from pellucid.spatial import Geometry
from pellucid.targets import OneVsRestTarget

FEWEST = 8  # inputs of a class
IMAGES = 64  # looked at after a training
LEVEL = 0.95
ENOUGH = 0.5  # of what evenly spread evidence loses: below, the field's edge decides nothing


@dataclass(frozen=True)
class ClassRing:
    """Of the inputs with one answer: what their strongest cell loses without the inner half of its field, and without the rest.

    A loss is the share of the cell's evidence that is gone, over the share of the field that was erased: 1 where every
    sample counts alike. difference: inner minus outer, paired.
    """

    answer: str
    inner: Interval
    outer: Interval
    difference: Interval

    @property
    def found(self) -> bool:
        """Whether the evidence goes with the outer half, and more than with the inner one, beyond chance."""
        return self.difference.high < 0 and self.outer.low > ENOUGH

    def __str__(self) -> str:
        told = "a ring" if self.found else "no ring" if self.difference.low > 0 else "not settled"
        return f"{self.answer}: {told} (inner half {self.inner}, outer {self.outer}, n {self.inner.n})"


@dataclass(frozen=True)
class Rings:
    """One row per answer given often enough. field: samples per axis that were taken for what a cell sees."""

    rows: tuple[ClassRing, ...]
    field: tuple[float, ...]

    @property
    def found(self) -> bool:
        return any(row.found for row in self.rows)

    def __str__(self) -> str:
        return "; ".join(map(str, self.rows)) or f"too few inputs: {FEWEST} with one answer are needed"


def find_rings(
    model: nn.Module,
    x: Float[Tensor, "batch channels *spatial"],
    *,
    baseline: Baseline = "blur",
    groups: Sequence[str] = (),
    batch_size: int = 16,
    seed: int = 0,
) -> Rings:
    """Whether the evidence that decides comes from the inner half of its cell's field or from the field's edge.

    For the cell that adds most to the predicted class (of softmax classes: against the rest), its field (a square, or the whole input where it is
    smaller) is erased once within a quarter of its side from the cell's centre, and once beyond. Both losses of the cell's evidence, as it is
    before the pooling chooses, are set
    against the share of the field that was erased, so evenly spread evidence gives equal numbers, the usual bell shape
    a larger inner one, and a ring a larger outer one; an interval over patients tells it from chance, at 95 % for all answers together.

    model: a `SoftCAM` or another network with evidence. baseline: what is put in place of what is erased (see
    `inputs.baseline`). groups: the patient of every input.

    It does not tell whether the inner half is the right place: only masks do. A finding wider than the field looks
    even. Raises `OptionError` where it is not known where the cells look.
    """
    level = _level(unwrapped(model))
    target = OneVsRestTarget() if getattr(unwrapped(model), "task", None) == "multiclass" else None
    names = list(groups) or [str(i) for i in range(len(x))]
    found: list[tuple[str, str, float, float, float]] = []
    side: tuple[float, ...] = ()
    for rows in torch.split(torch.arange(len(x)), batch_size):
        part = x[rows]
        before = explain(model, part, target, method="evidence")
        side = _side(before.geometry)
        strongest = before.map.flatten(1).argmax(1)
        inner, outer = _halves(before.geometry, strongest.cpu(), side)
        blank = inputs.baseline(part, baseline)
        kept = []
        for half in (torch.zeros_like(inner), inner, outer):
            erased = torch.where(half[:, None].to(part.device), blank, part)
            said = explain(level, erased, before.target, method="evidence").map.flatten(1)
            kept.append(said.gather(1, strongest[:, None].to(said.device))[:, 0].double().cpu())
        share = [half.flatten(1).double().mean(1) for half in (inner, outer)]
        whole = share[0] + share[1]
        for i, row in enumerate(rows.tolist()):
            value = float(kept[0][i])
            if value > 0 and share[1][i] > 0:
                lost = [float((kept[0][i] - kept[h][i]) / (share[h - 1][i] / whole[i])) for h in (1, 2)]
                answer = before.target.describe(before.classes, i)
                found.append((answer, names[row], value, lost[0], lost[1]))
    return Rings(_judged(found, seed), side)


def _level(model: nn.Module) -> nn.Module:
    """The network with all cells weighing alike: what a cell says, whether or not the pooling chooses it."""
    if all(m.pooling == "mean" for m in model.modules() if isinstance(m, EvidenceHead)):
        return model
    level = deepcopy(model)
    for module in level.modules():
        if isinstance(module, EvidenceHead):
            module.pooling = "mean"
    return level


def _side(geometry: Geometry) -> tuple[float, ...]:
    if geometry.receptive_field is None or not geometry.registered:
        raise OptionError(
            "It is not known where the cells of this network look.",
            why="A ring is found by erasing the edge of a cell's field.",
            hint="Compare with masks instead: the metrics pointing_game and relevance_mass.",
        )
    return tuple(min(f, float(n)) for f, n in zip(geometry.receptive_field, geometry.input_size, strict=True))


def _halves(
    geometry: Geometry, cells: Tensor, side: Sequence[float]
) -> tuple[Bool[Tensor, "batch *spatial"], Bool[Tensor, "batch *spatial"]]:
    """The samples within a quarter of the field's side from each cell's centre, and the rest of its field."""
    rank = len(geometry.grid)
    inside = torch.ones(len(cells), *geometry.input_size, dtype=torch.bool)
    near = inside.clone()
    index = torch.unravel_index(cells, geometry.grid)
    for axis, (centres, at, n) in enumerate(zip(geometry.centres(), index, geometry.input_size, strict=True)):
        away = (torch.arange(n, dtype=torch.float64) - centres[at][:, None]).abs()
        shape = (len(cells), *(n if a == axis else 1 for a in range(rank)))
        inside &= (away <= side[axis] / 2).view(shape)
        near &= (away <= side[axis] / 4).view(shape)
    return near & inside, inside & ~near


def _judged(found: Sequence[tuple[str, str, float, float, float]], seed: int) -> tuple[ClassRing, ...]:
    answers = sorted({answer for answer, *_ in found})
    often = [a for a in answers if sum(row[0] == a for row in found) >= FEWEST]
    made = []
    for answer in often:
        rows = [row for row in found if row[0] == answer]
        groups = [row[1] for row in rows]
        usual = float(np.mean([row[2] for row in rows]))
        inner, outer = (np.array([row[k] for row in rows]) / usual for k in (3, 4))
        level = 1 - (1 - LEVEL) / len(often)
        made.append(
            ClassRing(
                answer,
                mean_interval(inner.tolist(), groups, seed=seed),
                mean_interval(outer.tolist(), groups, seed=seed),
                mean_interval((inner - outer).tolist(), groups, seed=seed, level=level),
            )
        )
    return tuple(made)


def note_on_rings(model: nn.Module, data: Dataset) -> str | None:
    """What is to be said after training with a pooling that lets few cells decide; None for other networks.

    data: samples to look at, held-out ones if there are any; `IMAGES` of them, evenly spread.
    """
    if not any(isinstance(m, EvidenceHead) and m.pooling in ("lse", "top_k") for m in model.modules()):
        return None
    few = [i * len(data) // IMAGES for i in range(IMAGES)] if len(data) > IMAGES else range(len(data))
    samples = [sample for _, sample in readable(data, few, {})]
    x = collate(samples).to(next(model.parameters()))
    try:
        found = find_rings(model, x, groups=[sample.group or sample.name for sample in samples])
    except OptionError as error:
        return f"Whether the map is a ring around what decides could not be tested: {error.message}"
    if not found.found:
        return f"Test for rings around what decides: {found}."
    return (
        f"The map is a ring around what decides: {found}. Do not read it; train with another pooling, or another seed."
    )
