"""Does the share of a map on a tag tell how much a network relies on the tag?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import OptionError
from pellucid.performance import auc
from pellucid.record import LEVEL, Finding, Record, Table, bootstrap


@dataclass(frozen=True)
class Reliance:
    """One network seen by one method. share: of the map on the tag. effect: of the tag, in units of the score. reliance: the
    tag's share of the measured effects.
    """

    model: str
    seed: int
    share: float
    effect: float
    reliance: float


def tag_calibration(table: Table, *, relies: float = 0.5, seed: int = 0) -> list[Finding]:
    """Three findings per method over networks that rely on the tag more and less (trained at several strengths of it, and
    with several seeds), out of the records of the metric `tag_share`.

    A network's reliance is |effect of the tag| / (|effect of the tag| + |effect of the lesions|), means over inputs; its share
    is the sum of the map on the tag over that on tag and lesions. "slope" and "intercept": of the straight line of shares on
    reliances, 1 and 0 at best, with Student's t intervals. "auroc": does the share tell networks of reliance above
    `relies` from the others, with an interval over networks.

    Raises `OptionError` where the table has no such records.
    """
    return [
        finding
        for method, networks in reliances(table).items()
        for finding in (*_line(method, networks), _told_apart(method, networks, relies, seed))
    ]


def reliances(table: Table) -> dict[str, list[Reliance]]:
    """For every method the networks (model and seed) of the table. Raises `OptionError` where none was measured."""
    values: dict[tuple[str, str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in tagged(table):
        if r.value is not None:
            values[r.method, r.model, r.seed][r.part].append(r.value)
    found: dict[str, list[Reliance]] = defaultdict(list)
    for (method, model, number), parts in values.items():
        mean = {part: float(np.mean(v)) for part, v in parts.items()}
        share = _share(mean["tag"], mean["lesions"])
        reliance = _share(abs(mean["tag_effect"]), abs(mean["lesions_effect"]))
        found[method].append(Reliance(model, number, share, mean["tag_effect"], reliance))
    return found


def tagged(table: Table) -> list[Record]:
    """The records of `tag_share`. Raises `OptionError` where there are none."""
    found = [r for r in table.records if r.metric == "tag_share"]
    if not found:
        raise OptionError("The table has no 'tag_share'.", hint="Evaluate with metrics=['tag_share', ...] first.")
    return found


def _share(one: float, other: float) -> float:
    return one / (one + other) if one + other > 0 else float("nan")


def _line(method: str, networks: Sequence[Reliance]) -> Iterator[Finding]:
    from scipy import stats

    x, y = (np.array([getattr(n, name) for n in networks]) for name in ("reliance", "share"))
    about = _about(method, networks)
    why = _empty(networks) or ("needs three networks of different reliance" if len(x) < 3 or np.ptp(x) == 0 else "")
    if why:
        yield from (Finding(part=part, status=why, **about) for part in ("slope", "intercept"))
        return
    found = stats.linregress(x, y)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 2))
    for part, value, error in (
        ("slope", found.slope, found.stderr),
        ("intercept", found.intercept, found.intercept_stderr),
    ):
        low, high = float(value - half * error), float(value + half * error)
        yield Finding(part=part, value=float(value), low=low, high=high, **about)


def _told_apart(method: str, networks: Sequence[Reliance], relies: float, seed: int) -> Finding:
    shares, truth = np.array([n.share for n in networks]), np.array([int(n.reliance > relies) for n in networks])
    about = {**_about(method, networks), "part": "auroc"}
    kind = "every" if truth.all() else "" if truth.any() else "no"
    why = _empty(networks) or (f"{kind} network's reliance is above {relies:g}" if kind else "")
    if why:
        return Finding(status=why, **about)
    found = bootstrap(partial(_auc, shares, truth), [str(k) for k in range(len(truth))], seed=seed)
    return Finding(value=found.mean, low=found.low, high=found.high, **about)


def _empty(networks: Sequence[Reliance]) -> str:
    """Why there is nothing to compare, where a network has no share."""
    return "a map is zero on tag and lesions" if any(n.share != n.share for n in networks) else ""


def _auc(shares: NDArray[Any], truth: NDArray[Any], rows: NDArray[np.intp]) -> float:
    return auc(shares[rows], truth[rows])


def _about(method: str, networks: Sequence[Reliance]) -> Mapping[str, Any]:
    n = len(networks)
    return {
        "summary": "tag_calibration",
        "method": method,
        "metric": "tag_share",
        "n": n,
        "basis": f"{n} networks, reliance {min(r.reliance for r in networks):.2f} to {max(r.reliance for r in networks):.2f}",
    }
