"""Does a network rely on a zone that it has no business with? Judged by what the zone's content does to the score.

Where evidence lies is shown beside it and decides nothing: a shortcut can be read from an empty corner, and the receptive
field spreads it over cells that lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import mean
from typing import Literal

import numpy as np

from pellucid.audit.differences import mean_difference
from pellucid.audit.observe import Reading, ZoneReading
from pellucid.record import Interval, mean_interval, sign_flip_p, t_interval
from pellucid.statistics import holm

How = Literal["shown", "given"]
Verdict = Literal["relied on", "not relied on", "not settled", "not measured"]
LEAST = 0.25  # log-odds: at a probability of one half, a change of six percentage points
LEVEL = 0.05
NO_INTERVAL = Interval(float("nan"), float("nan"), float("nan"), 0, 0)


@dataclass(frozen=True)
class ZoneFinding:
    """A zone's effect on the score, in log-odds, with the verdict that rests on it.

    how: "shown": the score with the thing in the zone minus that without it. "given": how far zones of the positive class
    move the scores of other samples, minus how far zones of the other classes do. p_value: of no effect; adjusted: for all
    zones. contrast: the same of the evidence in the zone. removed: mean size of the change when the zone is emptied.
    mass: the zone's share of the size of the evidence; area: of the input. trainings: networks that the interval is over.
    """

    zone: str
    how: How
    effect: Interval
    contrast: Interval
    removed: Interval
    mass: Interval
    area: float
    p_value: float
    adjusted: float = float("nan")
    trainings: int = 1
    verdict: Verdict = "not measured"


def zone_findings(trainings: Sequence[Sequence[Reading]], *, least: float = LEAST, seed: int = 0) -> list[ZoneFinding]:
    """Every zone of the readings, judged together.

    trainings: the readings of one network each, trained independently in the same way. With one, intervals are over
    patients: they speak of this very network, which has picked up some small effect of everything by chance; an effect
    of the training data shows over several (Student's t over their means). least: an effect that matters.
    """
    names = dict.fromkeys(name for reading in trainings[0] for name in reading.zones)
    found = [_finding(name, [_having(name, readings) for readings in trainings], seed) for name in names]
    adjusted = holm([f.p_value for f in found])
    return [replace(f, adjusted=p, verdict=_verdict(f.effect, p, least)) for f, p in zip(found, adjusted, strict=True)]


def _verdict(effect: Interval, p_value: float, least: float) -> Verdict:
    if not isfinite(effect.low):
        return "not measured"
    if -least < effect.low and effect.high < least:
        return "not relied on"
    return "relied on" if p_value < LEVEL and abs(effect.mean) >= least else "not settled"


def _having(name: str, readings: Sequence[Reading]) -> list[tuple[Reading, ZoneReading]]:
    return [(r, r.zones[name]) for r in readings if name in r.zones]


Rows = Sequence[tuple[Reading, ZoneReading]]


def _finding(name: str, trainings: Sequence[Rows], seed: int) -> ZoneFinding:
    how: How = "shown" if any(isfinite(z.shown) for _, z in trainings[0]) else "given"
    judge = _shown if how == "shown" else _given
    each = [judge(rows, seed) for rows in trainings]
    effect, contrast, p_value = each[0] if len(each) == 1 else _over_trainings(each)
    rows = trainings[0]
    return ZoneFinding(
        name, how, effect, contrast, _mean(rows, lambda z: abs(z.shown if how == "shown" else z.removed), seed), _mean(rows, lambda z: z.mass, seed),
        mean(z.area for _, z in rows), p_value, trainings=len(each),
    )  # fmt: skip


Judged = tuple[Interval, Interval, float]  # effect, contrast of the evidence, p-value of no effect


def _shown(rows: Rows, seed: int) -> Judged:
    effect = _mean(rows, lambda z: z.shown, seed)
    p_value = sign_flip_p([z.shown for _, z in rows], [r.unit for r, _ in rows], seed=seed)
    return effect, _mean(rows, lambda z: z.with_it - z.without, seed), p_value


def _given(rows: Rows, seed: int) -> Judged:
    rows = [(r, z) for r, z in rows if isfinite(z.given)]
    positive, units = [r.positive for r, _ in rows], [r.unit for r, _ in rows]
    if all(positive) or not any(positive):
        return NO_INTERVAL, NO_INTERVAL, float("nan")
    effect = mean_difference([z.given for _, z in rows], positive, units, seed=seed)
    evidence = mean_difference([z.given_evidence for _, z in rows], positive, units, seed=seed)
    return effect.interval, evidence.interval, effect.p_value


def _over_trainings(each: Sequence[Judged]) -> Judged:
    from scipy import stats

    effects, contrasts = ([interval.mean for interval in column] for column in list(zip(*each, strict=True))[:2])
    spread = float(np.std(effects, ddof=1))
    p_value = float(stats.ttest_1samp(effects, 0).pvalue) if spread > 0 else float(not any(effects))
    return t_interval(effects), t_interval(contrasts), p_value


def _mean(rows: Rows, of: Callable[[ZoneReading], float], seed: int) -> Interval:
    known = [(of(z), r.unit) for r, z in rows if isfinite(of(z))]
    if not known:
        return NO_INTERVAL
    values, units = zip(*known, strict=True)
    return mean_interval(values, units, seed=seed)
