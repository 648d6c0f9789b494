"""Tests and intervals for paired studies: AUC, differences between methods, many comparisons, non-inferiority.

SciPy does the counting where it can; what it lacks (DeLong, Holm, matched-pairs effect sizes) is written out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import BadInput, OptionError

Array: TypeAlias = NDArray[Any]
Verdict: TypeAlias = Literal["non-inferior", "inferior", "inconclusive"]


@dataclass(frozen=True)
class Estimate:
    """An estimate with its interval and the two-sided p-value of no difference (nan where none is tested)."""

    value: float
    low: float
    high: float
    p_value: float
    n: int


# --- AUC ---------------------------------------------------------------------------------------------------------------


def delong_interval(scores: Array, labels: Array, *, level: float = 0.95) -> Estimate:
    """The AUC of scores `(n,)` for labels of 0 and 1, with DeLong's interval (DeLong et al. 1988) on the logit scale.

    On that scale the interval stays in 0 to 1 and is not symmetric near the ceiling. An AUC of exactly 0 or 1 has no
    variance to speak of: the interval is nan, use exact or bootstrap ones with more data. p_value: of an AUC of 1/2.
    Presumes independent rows: with several images of a patient use `record.bootstrap` over patients.
    """
    from scipy.special import expit, logit
    from scipy.stats import norm

    areas, covariance = _delong(scores[None], labels)
    area, deviation = float(areas[0]), float(np.sqrt(covariance[0, 0]))
    p_value = 2 * float(norm.sf(abs(area - 0.5) / deviation)) if deviation > 0 else float("nan")
    if not 0 < area < 1 or deviation == 0:
        return Estimate(area, float("nan"), float("nan"), p_value, len(labels))
    half = norm.ppf((1 + level) / 2) * deviation / (area * (1 - area))
    return Estimate(area, float(expit(logit(area) - half)), float(expit(logit(area) + half)), p_value, len(labels))


def delong_difference(first: Array, second: Array, labels: Array, *, level: float = 0.95) -> Estimate:
    """The AUC of `first` minus that of `second` on the same rows, with DeLong's interval and test."""
    from scipy.stats import norm

    areas, covariance = _delong(np.stack([first, second]), labels)
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    deviation = float(np.sqrt(max(variance, 0.0)))
    half = float(norm.ppf((1 + level) / 2)) * deviation
    p_value = 2 * float(norm.sf(abs(difference) / deviation)) if deviation > 0 else 1.0 if difference == 0 else 0.0
    return Estimate(difference, difference - half, difference + half, p_value, len(labels))


def _delong(scores: Array, labels: Array) -> tuple[Array, Array]:
    """AUCs of the rows of `scores` and their covariance, through mid-ranks (Sun and Xu 2014)."""
    from scipy.stats import rankdata

    truth = np.asarray(labels) == 1
    m, n = int(truth.sum()), int((~truth).sum())
    if m < 2 or n < 2:
        raise BadInput(
            f"There are {m} positive and {n} negative rows.",
            why="DeLong's variance needs at least two of each.",
            hint="Use more data, or report the AUC without an interval.",
        )
    whole = rankdata(scores, axis=1)
    above = (whole[:, truth] - rankdata(scores[:, truth], axis=1)) / n
    below = 1 - (whole[:, ~truth] - rankdata(scores[:, ~truth], axis=1)) / m
    covariance = np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n
    return above.mean(1), covariance


# --- shares ------------------------------------------------------------------------------------------------------------


def wilson_interval(right: int, n: int, *, level: float = 0.95) -> Estimate:
    """A share with Wilson's interval: accuracy, sensitivity, specificity of independent rows."""
    from scipy.stats import binomtest

    found = binomtest(right, n).proportion_ci(confidence_level=level, method="wilson")
    return Estimate(right / n, float(found.low), float(found.high), float("nan"), n)


def mcnemar_p(first: Array, second: Array) -> float:
    """The exact two-sided p-value of equal accuracy, from the rows on which exactly one of the two is right."""
    from scipy.stats import binomtest

    only_first = int((np.asarray(first, bool) & ~np.asarray(second, bool)).sum())
    only_second = int((~np.asarray(first, bool) & np.asarray(second, bool)).sum())
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


# --- paired differences --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """A paired difference by ranks. shift: Hodges and Lehmann's, the median of all pairwise means.

    effect: matched-pairs rank-biserial correlation, -1 to 1: the share of the rank sum that speaks for the first, minus
    that for the second (Kerby 2014). p_value: Wilcoxon's signed-rank test. n: independent units (patients).
    """

    shift: float
    effect: float
    p_value: float
    n: int


def wilcoxon(differences: Sequence[float], groups: Sequence[str]) -> Paired:
    """Wilcoxon's signed-rank test on the mean difference of each group (patient), so that units are independent.

    Zeros are dropped, as Wilcoxon did; ties share ranks. Nothing but zeros: no effect, p 1.
    """
    from scipy.stats import rankdata
    from scipy.stats import wilcoxon as signed_rank

    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    means = np.bincount(member, weights=np.asarray(differences, dtype=float)) / np.bincount(member)
    i, j = np.triu_indices(len(means)) if len(means) <= 1500 else _some_pairs(len(means))
    shift = float(np.median((means[i] + means[j]) / 2))
    kept = means[means != 0]
    if not len(kept):
        return Paired(shift, 0.0, 1.0, len(names))
    ranks = rankdata(np.abs(kept))
    effect = float((ranks * np.sign(kept)).sum() / ranks.sum())
    return Paired(shift, effect, float(signed_rank(kept).pvalue), len(names))


def _some_pairs(n: int) -> tuple[Array, Array]:
    """A million pairs instead of all: enough for a median to three digits."""
    drawn = np.random.default_rng(0).integers(n, size=(2, 1_000_000))
    return drawn[0], drawn[1]


# --- many comparisons ----------------------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of any false finding (Holm 1979): for what was declared beforehand.

    nan stays nan and counts as no test.
    """
    given = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(given), np.nan)
    tested = np.flatnonzero(np.isfinite(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return [float(p) for p in adjusted]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the share of false findings (Benjamini and Hochberg 1995): for what is explored."""
    from scipy.stats import false_discovery_control

    given = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(given), np.nan)
    tested = np.isfinite(given)
    if tested.any():
        adjusted[tested] = false_discovery_control(given[tested])
    return [float(p) for p in adjusted]


# --- several methods on the same units -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of things that were compared on the same units, 1 for the best. p_value: Friedman's, of no difference.

    critical: Nemenyi's critical difference; mean ranks further apart than this differ at the level asked for.
    """

    ranks: tuple[float, ...]
    p_value: float
    critical: float
    n: int

    def cliques(self) -> list[tuple[int, ...]]:
        """The largest sets of two things or more whose mean ranks lie within the critical difference, best first."""
        order = sorted(range(len(self.ranks)), key=lambda k: (self.ranks[k], k))
        runs: list[tuple[int, ...]] = []
        for start in range(len(order)):
            run = tuple(k for k in order[start:] if self.ranks[k] - self.ranks[order[start]] <= self.critical)
            if len(run) > 1 and not (runs and set(run) <= set(runs[-1])):
                runs.append(run)
        return runs


def rank(scores: Array, *, level: float = 0.95) -> Ranking:
    """Rank things by scores `(units, things)`, more being better, as Demsar 2006 does; equal scores share their ranks.

    Units have to be independent (patients, data sets). Nemenyi's difference is corrected for all pairs and depends on
    which things are compared at all. Raises `BadInput` for fewer than two units or three things, or scores that are not finite.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    n, k = scores.shape
    if n < 2 or k < 3 or not np.isfinite(scores).all():
        raise BadInput(
            f"{k} things on {n} units cannot be ranked.",
            why="Three things or more, two units or more and finite scores are needed.",
            hint="Leave out units on which something has no score, or compare two things with wilcoxon().",
        )
    ranks = rankdata(-scores, axis=1).mean(0)
    varies = bool((np.ptp(scores, axis=1) > 0).any())
    p_value = float(friedmanchisquare(*scores.T).pvalue) if varies else 1.0
    critical = float(studentized_range.ppf(level, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n)))
    return Ranking(tuple(float(r) for r in ranks), p_value, critical, n)


# --- non-inferiority -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NonInferiority:
    """Whether "new minus old" may be called no worse than -margin. half_width: of the interval that decided."""

    verdict: Verdict
    margin: float
    difference: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        told = f"{self.verdict}: difference {self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}], margin {self.margin:g}, n {self.n}"
        return f"{told}, half-width {self.half_width:.4f}" if self.verdict == "inconclusive" else told


def non_inferiority(difference: float, low: float, high: float, n: int, *, margin: float) -> NonInferiority:
    """The verdict of a two-sided 95 % interval of new minus old, which is a one-sided test at 2.5 %.

    Non-inferior: the interval lies above -margin. Inferior: it lies below. Anything else is inconclusive, which is not
    equality: more data may decide. The margin has to be set before the data are seen, and is in the score's unit.
    """
    if not margin > 0:
        raise OptionError(
            f"margin={margin} is not possible.",
            why="It is the loss that would still be accepted.",
            hint="Give a positive number in the score's unit, declared beforehand.",
        )
    verdict: Verdict = "non-inferior" if low > -margin else "inferior" if high < -margin else "inconclusive"
    return NonInferiority(verdict, margin, difference, low, high, n)
