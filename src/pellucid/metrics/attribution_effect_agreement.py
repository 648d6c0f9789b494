"""What a map says of the parts of its inputs against what they do, over all inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import OptionError
from pellucid.metrics.effect_agreement import MOMENTS
from pellucid.record import LEVEL, RESAMPLES, Finding, Record, Table, mean_interval


def attribution_effect_agreement(table: Table, *, seed: int = 0, resamples: int = RESAMPLES) -> list[Finding]:
    """Two findings per network and method, out of the records of the metric `effect_agreement`; intervals over groups.

    "rank_correlation": the mean over inputs of the correlation within each. "slope": of measured effects on the map's sums,
    one straight line with an intercept through the regions of all inputs (least squares). 1 means that a unit in the map
    is a unit of the score; only maps in the score's unit can be expected to come near.

    Raises `OptionError` where the table has no such records.
    """
    rows: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for r in table.records:
        if r.metric == "effect_agreement" and r.value is not None:
            rows[r.model, r.method].append(r)
    if not rows:
        raise OptionError(
            "The table has no 'effect_agreement' to pool.",
            hint="Evaluate with metrics=['effect_agreement', ...] first.",
        )
    return [
        finding
        for (model, method), records in rows.items()
        for finding in (_correlation(model, method, records, seed, resamples), _slope(model, method, records, seed, resamples))
    ]  # fmt: skip


def _correlation(model: str, method: str, records: Sequence[Record], seed: int, resamples: int) -> Finding:
    kept = [r for r in records if r.part == ""]
    about: dict[str, Any] = {"metric": "effect_agreement", "part": "rank_correlation", "n": len(kept)}
    if not kept:
        return Finding("attribution_effect_agreement", model, method, **about, status="no input has three regions")
    values, groups = [r.value for r in kept if r.value is not None], [r.group or r.sample for r in kept]
    found = mean_interval(values, groups, seed=seed, resamples=resamples)
    return Finding(
        "attribution_effect_agreement", model, method, value=found.mean, low=found.low, high=found.high,
        basis=f"{len(kept)} inputs of {found.groups} groups", **about,
    )  # fmt: skip


def _slope(model: str, method: str, records: Sequence[Record], seed: int, resamples: int) -> Finding:
    sums, regions = _sums(records)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    value, resampled = float(_line(sums.sum(0))), _line(drawn @ sums)
    resampled = resampled[np.isfinite(resampled)]
    about: dict[str, Any] = {"metric": "effect_agreement", "part": "slope", "n": regions}
    if not np.isfinite(value):
        return Finding(
            "attribution_effect_agreement", model, method, **about, status="the map is the same in all regions"
        )
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Finding(
        "attribution_effect_agreement", model, method, value=value, low=float(low), high=float(high),
        basis=f"{regions} regions of {len(sums)} groups", **about,
    )  # fmt: skip


def _sums(records: Sequence[Record]) -> tuple[NDArray[np.float64], int]:
    """Per group the number of regions and, over these, the sums of x, y, x^2 and xy; and the number of all regions."""
    inputs: dict[tuple[str, int, int | None], dict[str, float]] = defaultdict(dict)
    for r in records:
        if r.part in MOMENTS and r.value is not None:
            inputs[r.sample, r.seed, r.fold][r.part] = r.value
    group = {(r.sample, r.seed, r.fold): r.group or r.sample for r in records}
    found: Mapping[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(MOMENTS)))
    for key, moments in inputs.items():
        n = moments["regions"]
        found[group[key]][:] += [n, *(n * moments[part] for part in MOMENTS[1:])]
    sums = np.array([found[name] for name in sorted(found)]).reshape(-1, len(MOMENTS))
    return sums, int(sums[:, 0].sum())


def _line(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The slope of y on x from n and the sums of x, y, x^2, xy, `(..., 5)`; nan where all x are equal."""
    n, x, y, xx, xy = np.moveaxis(np.asarray(sums, dtype=float), -1, 0)
    spread = n * xx - x * x
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-12 * n * xx, (n * xy - x * y) / spread, np.nan)
