"""Do methods keep their order when the network is trained again? Kendall's W over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pellucid.record import Finding, Record, Table


def rank_stability(table: Table, *, without: Sequence[str] = ()) -> list[Finding]:
    """Kendall's W of the order of the methods' means, one seed each, per network, metric and part. Higher is better.

    W = 12 S / (m^2 (n^3 - n) - m T) for m seeds and n methods, with S the sum of squared deviations of the methods' sums
    of ranks and T the sum of t^3 - t over groups of t equal means in a seed. 1: the same order with every seed, 0: no
    agreement. Means are taken over the samples that all methods have a value for in that seed, and only methods that
    every seed has are ranked.
    without: methods to leave out. Controls belong there when the question is whether methods can be told from each other:
    a random map that is last with every seed raises W. With two methods W is 0 or 1 for two seeds and coarse for more.
    """
    found: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for r in table.records:
        if r.method and r.metric and r.method not in without:
            found[r.model, r.metric, r.part].append(r)
    return [_stability(model, metric, part, rows) for (model, metric, part), rows in found.items()]


def _stability(model: str, metric: str, part: str, records: Sequence[Record]) -> Finding:
    means = _means(records)
    methods = sorted(set.intersection(*(set(m) for m in means.values()))) if means else []
    found = Finding(
        "rank_stability",
        model,
        metric=metric,
        part=part,
        n=len(means),
        basis=f"{len(means)} seeds, {len(methods)} methods",
    )
    if len(means) < 2 or len(methods) < 2:
        return replace(found, status="needs two seeds and two methods")
    w = kendall_w(np.array([[by[m] for m in methods] for by in means.values()]))
    return replace(found, value=w) if np.isfinite(w) else replace(found, status="all means are equal")


def _means(records: Sequence[Record]) -> Mapping[int, Mapping[str, float]]:
    """Per seed, each method's mean over the samples that all of its methods have a value for."""
    values: dict[int, dict[str, dict[tuple[str, int | None], float]]] = defaultdict(lambda: defaultdict(dict))
    for r in records:
        if r.value is not None:
            values[r.seed][r.method][r.sample, r.fold] = r.value
    means = {}
    for seed, methods in values.items():
        shared = sorted(set.intersection(*(set(v) for v in methods.values())), key=str)
        if shared:
            means[seed] = {name: float(np.mean([v[s] for s in shared])) for name, v in methods.items()}
    return means


def kendall_w(scores: NDArray[np.float64]) -> float:
    """Kendall's W of `(judges, things)` scores, corrected for ties; nan where every judge finds all things equal."""
    from scipy import stats

    m, n = scores.shape
    sums = stats.rankdata(scores, axis=1).sum(0)
    ties = sum(float((t**3 - t).sum()) for t in (np.unique(row, return_counts=True)[1] for row in scores))
    most = m**2 * (n**3 - n) - m * ties
    return float(12 * ((sums - sums.mean()) ** 2).sum() / most) if most else float("nan")
