"""Two sets of samples beside each other: a difference, its interval, and how often chance gives one as large.

What is resampled and permuted are whole groups (patients), so that several images of one count as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.record import LEVEL, RESAMPLES, Interval
from pellucid.statistics import holm

Array = NDArray[Any]
PERMUTATIONS = (
    10_000  # of means; more than are drawn for the interval, since a small p-value has to outlive its correction
)
Statistic = Callable[[Array], float]  # of the rows with these indices; nan where it has no value


@dataclass(frozen=True)
class Difference:
    """The first side minus the second. p_value: two-sided, of no difference; adjusted: corrected for all that was tested."""

    interval: Interval
    p_value: float
    adjusted: float = float("nan")


def difference(
    statistic: Statistic,
    first: Sequence[bool] | Array,
    groups: Sequence[str],
    *,
    strata: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """`statistic` of the rows where `first` holds minus that of the others.

    groups: of each row; a group with rows on both sides is one unit on each. strata: of each row (its label): units
    change sides only with units of the same strata, so that sides which differ in nothing but their labels do not differ.
    interval: percentiles over units resampled on either side. p_value: of a permutation test over units.
    """
    units = _Units.of(first, groups, strata)
    rows = np.arange(len(units.member))

    def apart(sides: Array, counts: Array) -> float:
        inside = sides[units.member]
        times = counts[units.member]
        return statistic(np.repeat(rows[inside], times[inside])) - statistic(np.repeat(rows[~inside], times[~inside]))

    once = np.ones(len(units.sides), int)
    generator = np.random.default_rng(seed)
    drawn = [apart(units.sides, counts) for counts in units.drawn(generator, resamples)]
    null = [apart(sides, once) for sides in units.permuted(generator, resamples)]
    return _judged(apart(units.sides, once), np.array(drawn), np.array(null), groups)


def mean_difference(
    values: Sequence[float] | Array,
    first: Sequence[bool] | Array,
    groups: Sequence[str],
    *,
    strata: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """The difference of means: what `difference` gives, from sums and counts per unit and therefore at once."""
    units = _Units.of(first, groups, strata)
    sums = np.bincount(units.member, weights=np.asarray(values, float))
    sizes = np.bincount(units.member)

    def apart(sides: Array, counts: Array) -> Array:
        ours, theirs = counts * sides, counts * ~sides
        return (ours @ sums) / (ours @ sizes) - (theirs @ sums) / (theirs @ sizes)

    once = np.ones(len(units.sides), int)
    generator = np.random.default_rng(seed)
    drawn = apart(units.sides, units.drawn(generator, resamples))
    null = apart(units.permuted(generator, PERMUTATIONS), once)
    return _judged(float(apart(units.sides, once)), drawn, null, groups)


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """The same with p-values that keep the chance of any false finding among them (Holm 1979)."""
    adjusted = holm([d.p_value for d in found])
    return [replace(d, adjusted=p) for d, p in zip(found, adjusted, strict=True)]


def _judged(observed: float, drawn: Array, null: Array, groups: Sequence[str]) -> Difference:
    drawn, null = drawn[np.isfinite(drawn)], null[np.isfinite(null)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(drawn) else (np.nan, np.nan)
    as_large = int((np.abs(null) >= abs(observed) * (1 - 1e-12)).sum())
    p_value = (as_large + 1) / (len(null) + 1) if np.isfinite(observed) and len(null) else float("nan")
    return Difference(Interval(observed, float(low), float(high), len(groups), len(set(groups))), p_value)


@dataclass(frozen=True)
class _Units:
    """What changes sides as one. member: the unit of each row; sides, strata: of each unit."""

    member: Array
    sides: Array
    strata: Array

    @classmethod
    def of(cls, first: Sequence[bool] | Array, groups: Sequence[str], strata: Sequence[object] | None) -> _Units:
        side = np.asarray(first, bool)
        keys = [f"{group}\0{inside}" for group, inside in zip(groups, side.tolist(), strict=True)]
        _, start, member = np.unique(keys, return_index=True, return_inverse=True)
        labels: list[set[str]] = [set() for _ in start]
        for unit, stratum in zip(member.tolist(), strata or (), strict=False):
            labels[unit].add(str(stratum))
        _, kinds = np.unique(["\0".join(sorted(found)) for found in labels], return_inverse=True)
        return cls(member, side[start], kinds)

    def drawn(self, generator: np.random.Generator, times: int) -> Array:
        """How often each unit is drawn, with replacement, from its own side: `(times, units)`."""
        counts = np.zeros((times, len(self.sides)), int)
        for side in (True, False):
            own = np.flatnonzero(self.sides == side)
            if len(own):
                counts[:, own] = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=times)
        return counts

    def permuted(self, generator: np.random.Generator, times: int) -> Array:
        """The sides, shuffled within strata: `(times, units)`."""
        sides = np.tile(self.sides, (times, 1))
        for kind in np.unique(self.strata):
            own = np.flatnonzero(self.strata == kind)
            sides[:, own] = generator.permuted(sides[:, own], axis=1)
        return sides
