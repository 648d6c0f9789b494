"""Intersection over union at a threshold that other patients chose."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from pellucid.errors import OptionError
from pellucid.record import Finding, Record, Table, mean_interval


def validated_iou(table: Table, *, folds: int = 5, seed: int = 0) -> list[Finding]:
    """The mean IoU of each method where every patient's threshold is the one with the best mean on the other patients.

    Reads the parts "at_t" of the metric `iou` (see its option `thresholds` for a finer ladder): groups are dealt into
    `folds`, the threshold of a fold is chosen on all others, and each of its samples counts with its value there. The
    interval resamples groups and takes the chosen thresholds as given. One finding per network, method and grid
    ("" samples, "cells" cells); `basis` names the thresholds chosen. With fewer than two groups there is no value.

    Raises `OptionError` where the table has no IoU, or for fewer than two folds.
    """
    if folds < 2:
        raise OptionError(f"folds={folds}.", why="Some choose and some are scored.", hint="Give 2 or more.")
    ladders: dict[tuple[str, str, str], dict[float, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for r in table.records:
        if r.metric == "iou":
            grid, _, threshold = r.part.rpartition("at_")
            ladders[r.model, r.method, grid.rstrip("_")][float(threshold)].append(r)
    if not ladders:
        raise OptionError(
            "The table has no 'iou' to choose thresholds for.", hint="Evaluate with metrics=['iou', ...] first."
        )
    return [_validated(*about, ladder, folds, seed) for about, ladder in ladders.items()]


def _validated(
    model: str, method: str, grid: str, ladder: Mapping[float, Sequence[Record]], folds: int, seed: int
) -> Finding:
    values = {
        t: {(r.sample, r.seed, r.fold): r.value for r in rows if r.value is not None} for t, rows in ladder.items()
    }
    group = {(r.sample, r.seed, r.fold): r.group or r.sample for rows in ladder.values() for r in rows}
    shared = sorted(set.intersection(*(set(v) for v in values.values())), key=str)
    names = sorted({group[s] for s in shared})
    if len(names) < 2:
        return Finding("validated_iou", model, method, "iou", grid, status="needs two patients", n=len(shared))
    dealt = np.random.default_rng(seed).permutation(len(names)) % folds
    fold = {name: int(f) for name, f in zip(names, dealt, strict=True)}
    chosen = {}
    for f in set(fold.values()):
        others = [s for s in shared if fold[group[s]] != f]
        chosen[f] = max(values, key=lambda t: (np.mean([values[t][s] for s in others]), -t))
    scored = [values[chosen[fold[group[s]]]][s] for s in shared]
    interval = mean_interval(scored, [group[s] for s in shared], seed=seed)
    counted = ", ".join(f"{t:g} ({n})" for t, n in sorted(Counter(chosen.values()).items()))
    return Finding(
        "validated_iou", model, method, "iou", grid, interval.mean, low=interval.low, high=interval.high, n=interval.n,
        basis=f"threshold (folds): {counted}",
    )  # fmt: skip
