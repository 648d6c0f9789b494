"""Against SciPy where it has the thing, literal definitions, published examples and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pellucid import performance
from pellucid.errors import BadInput, OptionError
from pellucid.statistics import (
    benjamini_hochberg,
    delong_difference,
    delong_interval,
    holm,
    mcnemar_p,
    non_inferiority,
    rank,
    wilcoxon,
    wilson_interval,
)


def literal_delong(scores: np.ndarray, labels: np.ndarray) -> tuple[list[float], np.ndarray]:
    """The structural components as DeLong et al. define them, pair by pair."""
    areas, v10, v01 = [], [], []
    for row in scores:
        positive, negative = row[labels == 1], row[labels == 0]
        psi = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in negative] for a in positive])
        areas.append(float(psi.mean()))
        v10.append(psi.mean(1))
        v01.append(psi.mean(0))
    covariance = np.cov(np.stack(v10)) / len(v10[0]) + np.cov(np.stack(v01)) / len(v01[0])
    return areas, covariance


@pytest.mark.parametrize("ties", [False, True])
def test_delong_is_the_definition(ties: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = labels + rng.normal(size=(2, 60)) * [[1], [1.5]]
    scores = scores.round() if ties else scores
    areas, covariance = literal_delong(scores, labels)
    found = delong_difference(scores[0], scores[1], labels)
    assert found.value == pytest.approx(areas[0] - areas[1], abs=1e-12)
    deviation = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.high - found.low == pytest.approx(2 * stats.norm.ppf(0.975) * deviation, rel=1e-9)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(found.value) / deviation), rel=1e-9)
    one = delong_interval(scores[0], labels)
    assert one.value == pytest.approx(performance.auc(scores[0], labels), abs=1e-12)
    logits = np.log(np.array([one.low, one.value, one.high]) / (1 - np.array([one.low, one.value, one.high])))
    half = stats.norm.ppf(0.975) * np.sqrt(covariance[0, 0]) / (one.value * (1 - one.value))
    assert np.diff(logits) == pytest.approx([half, half], rel=1e-9)
    assert delong_difference(scores[0], scores[0], labels).p_value == 1


def test_delong_covers_and_holds_its_level() -> None:
    rng = np.random.default_rng(1)
    inside, false = 0, 0
    truth = stats.norm.cdf(1 / np.sqrt(2))
    labels = np.repeat([0, 1], 40)
    for _ in range(400):
        common = rng.normal(size=80)
        a, b = (labels + 0.7 * common + np.sqrt(1 - 0.49) * rng.normal(size=80) for _ in range(2))
        one = delong_interval(a, labels)
        inside += one.low <= truth <= one.high
        false += delong_difference(a, b, labels).p_value < 0.05
    assert 0.92 <= inside / 400 <= 0.98
    assert 0.02 <= false / 400 <= 0.085


def test_delong_where_it_says_nothing() -> None:
    perfect = delong_interval(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert perfect.value == 1
    assert np.isnan(perfect.low)
    assert np.isnan(perfect.high)
    with pytest.raises(BadInput, match="1 positive and 3 negative"):
        delong_interval(np.arange(4.0), np.array([0, 0, 0, 1]))


def test_shares() -> None:
    found = wilson_interval(8, 10)  # Wilson's formula by hand
    z, p, n = 1.959963985, 0.8, 10
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (found.low, found.high) == (pytest.approx(middle - half, abs=1e-6), pytest.approx(middle + half, abs=1e-6))
    first = np.array([1] * 12 + [0] * 3 + [1] * 20)
    second = np.array([0] * 12 + [1] * 3 + [1] * 20)
    assert mcnemar_p(first, second) == pytest.approx(2 * stats.binom.cdf(3, 15, 0.5), abs=1e-12)
    assert mcnemar_p(first, first) == 1


def test_wilcoxon_over_patients() -> None:
    rng = np.random.default_rng(2)
    differences = rng.normal(0.3, 1, 24)
    alone = wilcoxon(differences, [str(i) for i in range(24)])
    assert alone.p_value == stats.wilcoxon(differences).pvalue
    signed = stats.rankdata(np.abs(differences)) * np.sign(differences)
    assert alone.effect == pytest.approx(signed.sum() / np.abs(signed).sum())
    walsh = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(differences, 2)]
    assert alone.shift == pytest.approx(float(np.median(walsh)))
    twice = wilcoxon(np.concatenate([differences, differences]), [str(i % 24) for i in range(48)])
    assert (twice.p_value, twice.n) == (alone.p_value, 24)  # two images of a patient are one piece of evidence
    assert wilcoxon([1, 2, 3, 4, 5], list("abcde")).effect == 1
    nothing = wilcoxon([0.0, 0.0], ["a", "b"])
    assert (nothing.effect, nothing.p_value) == (0, 1)
    many = wilcoxon(rng.normal(0.3, 1, 4000), [str(i) for i in range(4000)])
    assert many.shift == pytest.approx(0.3, abs=0.05)


def test_many_comparisons() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # the example of Holm's procedure worked by hand
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    for adjust in (holm, benjamini_hochberg):
        assert np.isnan(adjust([0.01, float("nan")])[1])
        assert adjust([0.01, float("nan")])[0] == pytest.approx(0.01)
        assert adjust([]) == []
    rng = np.random.default_rng(3)
    assert np.mean([min(holm(rng.uniform(size=8))) < 0.05 for _ in range(2000)]) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.005, 0.02, "non-inferior"),
        (-0.03, -0.012, "inferior"),
        (-0.02, 0.02, "inconclusive"),
        (-0.012, -0.002, "inconclusive"),
    ],
)
def test_non_inferiority_has_three_verdicts(low: float, high: float, verdict: str) -> None:
    found = non_inferiority((low + high) / 2, low, high, 50, margin=0.01)
    assert found.verdict == verdict
    assert str(found).startswith(verdict)
    assert ("half-width" in str(found)) == (verdict == "inconclusive")
    with pytest.raises(OptionError, match="margin"):
        non_inferiority(0, low, high, 50, margin=0)


def test_calibration() -> None:
    """Brier and expected calibration error by hand; a temperature that was planted is found."""
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    labels = np.array([0, 1, 1, 0])
    assert performance.brier(probabilities, labels) == pytest.approx((0.02 + 0.72 + 0.08 + 0.98) / 4)
    # confidence .6 .7 | .8 .9 with 0 of 2 and 2 of 2 right, in two bins of equal mass
    assert performance.calibration_error(probabilities, labels, bins=2) == pytest.approx((0.65 + 0.15) / 2)
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(4000, 3)) * 2
    drawn = np.array([rng.choice(3, p=row) for row in np.exp(logits) / np.exp(logits).sum(1, keepdims=True)])
    assert performance.temperature(logits * 2.5, drawn) == pytest.approx(2.5, rel=0.08)
    single = rng.normal(size=(4000, 1)) * 2
    answers = (rng.uniform(size=4000) < 1 / (1 + np.exp(-single[:, 0]))).astype(int)
    assert performance.temperature(single / 0.5, answers) == pytest.approx(2, rel=0.1)


# Table 6 of Demsar 2006: ranks of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets.
DEMSAR = [
    (4, 3, 2, 1), (1, 2, 3, 4), (4, 1, 2, 3), (4, 1, 3, 2), (4, 2, 3, 1), (1, 2.5, 4, 2.5), (3, 2, 4, 1), (2.5, 2.5, 4, 1),
    (4, 3, 2, 1), (2.5, 2.5, 2.5, 2.5), (4, 2.5, 1, 2.5), (3, 2, 4, 1), (4, 1, 2, 3), (3, 1, 4, 2),
]  # fmt: skip


def test_ranking_as_published() -> None:
    """Mean ranks, Nemenyi's differences (1.25 at 5 %, 1.12 at 10 %) and who is joined in figure 1a, worked by hand there."""
    scores = -np.array(DEMSAR, dtype=float)
    found = rank(scores)
    assert found.ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert (found.n, found.critical) == (14, pytest.approx(1.25, abs=5e-3))
    assert found.cliques() == [(3, 1, 2, 0)]
    lenient = rank(scores, level=0.9)
    assert lenient.critical == pytest.approx(1.12, abs=5e-3)
    assert lenient.cliques() == [(3, 1, 2), (2, 0)]


def test_ranking_counts_ties_as_scipy_does() -> None:
    scores = np.random.default_rng(0).normal(size=(9, 5)).round()
    found = rank(scores)
    assert found.p_value == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert sum(found.ranks) == pytest.approx(15)
    assert rank(np.ones((4, 3))).p_value == 1
    apart = rank(np.tile([3.0, 2, 1], (200, 1)))
    assert (apart.ranks, apart.cliques()) == ((1, 2, 3), [])


def test_ranking_says_what_it_needs() -> None:
    for scores in (np.ones((1, 3)), np.ones((5, 2)), np.full((5, 3), np.nan)):
        with pytest.raises(BadInput, match="cannot be ranked"):
            rank(scores)
