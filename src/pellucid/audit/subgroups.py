"""Performance and evidence by subgroup, and whether subgroups differ by more than chance.

A subgroup is what the samples' notes say in a column. Each is compared with all others of the column, labels kept in
proportion, and the p-values are corrected for all comparisons that were made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.audit.differences import Difference, corrected, difference, mean_difference
from pellucid.audit.observe import Reading
from pellucid.audit.performance import share_interval
from pellucid.errors import OptionError, nearest
from pellucid.performance import auc
from pellucid.record import Interval, bootstrap, mean_interval

MINIMUM = 20  # samples, below which nothing is told of a subgroup
PER_CLASS = 5  # samples of either class, below which AUC, sensitivity and specificity are not told
DISTINCT = 12  # numbers with more values than this are cut at their quartiles

Array = NDArray[Any]


@dataclass(frozen=True)
class SubgroupRow:
    """A measure in one subgroup. n: samples it would rest on. interval, against: None where they are too few.

    against: the subgroup minus all others of the column that are large enough, tested; of two subgroups only the first
    is, since the other says the same.
    """

    column: str
    value: str
    measure: str
    n: int
    interval: Interval | None
    against: Difference | None


def subgroup_rows(
    readings: Sequence[Reading], columns: Sequence[str], *, cut: float = 0.0, minimum: int = MINIMUM, seed: int = 0
) -> list[SubgroupRow]:
    """Every measure in every subgroup of every column; samples without an entry belong to none.

    Raises `OptionError` for a column that the samples do not have.
    """
    found = [
        row
        for column in columns
        for values in [np.array(subgroups(readings, column))]
        for measure in measures(readings, cut)
        for row in _rows(readings, values, column, measure, minimum, seed)
    ]
    adjusted = iter(corrected([row.against for row in found if row.against is not None]))
    return [row if row.against is None else replace(row, against=next(adjusted)) for row in found]


def subgroups(readings: Sequence[Reading], column: str) -> list[str]:
    """What each sample's notes say; numbers of many values as their quarter; empty where they say nothing."""
    known = dict.fromkeys(key for r in readings for key in r.meta)
    if column not in known:
        raise OptionError(
            f"The samples have no column '{column}'.",
            why="Subgroups are read from the notes that come with the samples.",
            hint=nearest(column, known),
        )
    values = ["" if r.meta.get(column) is None else str(r.meta[column]) for r in readings]
    return _quarters(values) if len(set(values)) > DISTINCT else values


def _quarters(values: Sequence[str]) -> list[str]:
    """Numbers as the quarter that they fall into; anything else stays."""
    try:
        numbers = np.array([float(v) if v else np.nan for v in values])
    except ValueError:
        return list(values)
    cuts = np.nanquantile(numbers, (0.25, 0.5, 0.75))
    names = [
        f"up to {cuts[0]:g}",
        *(f"above {a:g} to {b:g}" for a, b in pairwise(cuts)),
        f"above {cuts[2]:g}",
    ]
    return ["" if np.isnan(v) else names[int(np.searchsorted(cuts, v))] for v in numbers]


@dataclass(frozen=True)
class Measure:
    """usable: rows that it is defined for. values: whose mean it is; None: it is the AUC. per_class: it needs samples of
    both classes. share: the values are 0 and 1.
    """

    name: str
    usable: Array
    values: Array | None
    per_class: bool = False
    share: bool = False


def measures(readings: Sequence[Reading], cut: float = 0.0) -> Iterator[Measure]:
    """What is compared: how well the network answers, and where its evidence lies. cut: a score above it says yes."""
    positive = np.array([r.positive for r in readings])
    said = np.array([r.score > cut for r in readings])
    probabilities = np.array([r.probabilities for r in readings])
    labels = np.array([r.label for r in readings])
    everyone = np.ones(len(readings), bool)
    yield Measure("auc", everyone, None, per_class=True)
    yield Measure("accuracy", everyone, (probabilities.argmax(1) == labels).astype(float), share=True)
    yield Measure("sensitivity", positive, said.astype(float), per_class=True, share=True)
    yield Measure("specificity", ~positive, (~said).astype(float), per_class=True, share=True)
    yield Measure("brier", everyone, ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1))
    for name, values in (
        ("size of the evidence", [r.size for r in readings]),
        ("evidence outside the mask", [r.outside for r in readings]),
    ):
        known = np.isfinite(values)
        if known.any():
            yield Measure(name, known, np.array(values))
    for zone in dict.fromkeys(name for r in readings for name in r.zones):
        mass = np.array([r.zones[zone].mass if zone in r.zones else np.nan for r in readings])
        if np.isfinite(mass).any():
            yield Measure(f"evidence in {zone}", np.isfinite(mass), mass)


def _rows(
    readings: Sequence[Reading], values: Array, column: str, measure: Measure, minimum: int, seed: int
) -> Iterator[SubgroupRow]:
    names = [v for v, _ in sorted(Counter(values[values != ""].tolist()).items(), key=lambda item: (-item[1], item[0]))]
    told = [v for v in names if _enough(readings, measure, values == v, minimum)]
    for name in names:
        own = measure.usable & (values == name)
        if name not in told:
            yield SubgroupRow(column, name, measure.name, int(own.sum()), None, None)
            continue
        among = np.flatnonzero(measure.usable & np.isin(values, told))
        told_already = len(told) == 2 and name == told[1]
        against = (
            _against(readings, measure, among, values[among] == name, seed)
            if len(told) > 1 and not told_already
            else None
        )
        yield SubgroupRow(
            column, name, measure.name, int(own.sum()), _interval(readings, measure, np.flatnonzero(own), seed), against
        )


def _enough(readings: Sequence[Reading], measure: Measure, member: Array, minimum: int) -> bool:
    positive = np.array([r.positive for r in readings])
    least = min(int((member & positive).sum()), int((member & ~positive).sum()))
    return (
        int((member & measure.usable).sum()) >= (PER_CLASS if measure.per_class else minimum)
        and int(member.sum()) >= minimum
        and (not measure.per_class or least >= PER_CLASS)
    )


def _interval(readings: Sequence[Reading], measure: Measure, rows: Array, seed: int) -> Interval:
    units = [readings[i].unit for i in rows]
    if measure.values is not None:
        own = measure.values[rows].tolist()
        return share_interval(own, units, seed=seed) if measure.share else mean_interval(own, units, seed=seed)
    return bootstrap(_auc([readings[i] for i in rows]), units, seed=seed)


def _against(readings: Sequence[Reading], measure: Measure, rows: Array, first: Array, seed: int) -> Difference:
    of = [readings[i] for i in rows]
    units, strata = [r.unit for r in of], [r.positive for r in of]
    if measure.values is not None:
        return mean_difference(measure.values[rows], first, units, strata=strata, seed=seed)
    return difference(_auc(of), first, units, strata=strata, seed=seed)


def _auc(readings: Sequence[Reading]) -> Any:
    scores, labels = np.array([r.score for r in readings]), np.array([int(r.positive) for r in readings])
    return lambda rows: auc(scores[rows], labels[rows])
