"""Methods of a table ranked on the same patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.record import Table
from pellucid.statistics import Ranking, rank


@dataclass(frozen=True)
class RankedMethods:
    """Methods with their mean ranks over patients. Drawn by `render.critical_difference`."""

    model: str
    metric: str
    part: str
    methods: tuple[str, ...]
    ranking: Ranking


def rank_methods(
    table: Table, model: str, metric: str, part: str = "", *, higher: bool, without: Sequence[str] = ()
) -> RankedMethods | None:
    """Rank all methods of a network by one score, patient by patient; None with fewer than three methods or two patients.

    A patient counts with the mean over those of its samples (and trainings) that every method has a value for.
    higher: whether more is better. without: methods to leave out, such as controls.
    """
    values: dict[str, dict[tuple[str, int, int | None], float]] = defaultdict(dict)
    group = {}
    for r in table.records:
        if (r.model, r.metric, r.part) == (model, metric, part) and r.value is not None and r.method not in without:
            values[r.method][r.sample, r.seed, r.fold] = r.value
            group[r.sample] = r.group or r.sample
    methods = sorted(values)
    shared = sorted(set.intersection(*(set(v) for v in values.values())), key=str) if values else []
    patients = sorted({group[sample] for sample, _, _ in shared})
    if len(methods) < 3 or len(patients) < 2:
        return None
    place = {name: k for k, name in enumerate(patients)}
    member = np.array([place[group[sample]] for sample, _, _ in shared])
    scores = np.array([[values[m][key] for m in methods] for key in shared]) * (1 if higher else -1)
    means = np.stack([np.bincount(member, weights=column) for column in scores.T], 1) / np.bincount(member)[:, None]
    return RankedMethods(model, metric, part, tuple(methods), rank(means))
