"""Scores of an audit against scikit-learn and SciPy, with Bayes' rule by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from audit.kit import reading
from pellucid.audit.observe import Reading
from pellucid.audit.performance import kappa, performance, predictive_value, share_interval

N = 80


def wilson(hits: int, n: int) -> tuple[float, float]:
    found = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return found.low, found.high


@pytest.fixture(scope="module")
def readings() -> list[Reading]:
    g = np.random.default_rng(0)
    labels = g.random(N) < 0.4
    scores = g.normal(labels * 1.5 - 0.7, 1.2)
    return [reading(k, positive=bool(y), score=float(s)) for k, (y, s) in enumerate(zip(labels, scores, strict=True))]


def test_every_score_is_that_of_scikit_learn(readings: list[Reading]) -> None:
    y = np.array([r.label for r in readings])
    s = np.array([r.score for r in readings])
    said = s > 0
    found = {name: interval.mean for name, interval in performance(readings).items()}
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(y, s))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, said))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, said))
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(y, said, weights="quadratic"))
    assert found["sensitivity"] == pytest.approx(metrics.recall_score(y, said))
    assert found["specificity"] == pytest.approx(metrics.recall_score(~y.astype(bool), ~said))
    assert found["positive_predictive_value"] == pytest.approx(metrics.precision_score(y, said))
    assert found["negative_predictive_value"] == pytest.approx(metrics.precision_score(1 - y, ~said))


def test_a_threshold_moves_shares_and_they_have_wilsons_interval(readings: list[Reading]) -> None:
    y, s = np.array([r.positive for r in readings]), np.array([r.score for r in readings])
    found = performance(readings, cut=1.0)
    hits, n = int((s > 1)[y].sum()), int(y.sum())
    assert found["sensitivity"].mean == pytest.approx(hits / n)
    assert (found["sensitivity"].low, found["sensitivity"].high) == pytest.approx(wilson(hits, n))
    assert (found["sensitivity"].n, found["sensitivity"].groups) == (n, n)
    assert found["auc"].mean == pytest.approx(metrics.roc_auc_score(y, s))


def test_images_of_one_patient_are_one() -> None:
    """Twenty images of four patients, all right: as sure as four, not as twenty."""
    found = share_interval([1.0] * 20, [f"p{k % 4}" for k in range(20)])
    assert (found.low, found.high) == pytest.approx(wilson(4, 4))
    mixed = share_interval([1.0] * 10 + [0.0] * 10, [f"p{k // 5}" for k in range(20)])  # two patients right, two wrong
    assert mixed.mean == 0.5
    assert (mixed.low, mixed.high) == (0, 1)  # all four draws from one side happen more often than in one of 40


def test_nothing_has_no_share() -> None:
    assert np.isnan(share_interval([], []).mean)


def test_predictive_values_at_another_prevalence_are_bayes() -> None:
    said = np.array([True] * 9 + [False] + [True] * 2 + [False] * 8)
    positive = np.array([True] * 10 + [False] * 10)
    assert predictive_value(said, positive, yes=True) == pytest.approx(9 / 11)
    assert predictive_value(said, positive, yes=True, prevalence=0.01) == pytest.approx(
        0.9 * 0.01 / (0.9 * 0.01 + 0.2 * 0.99)
    )
    assert predictive_value(said, positive, yes=False, prevalence=0.01) == pytest.approx(
        0.8 * 0.99 / (0.8 * 0.99 + 0.1 * 0.01)
    )
    assert np.isnan(predictive_value(said, np.ones(20, bool), yes=True))
    assert np.isnan(predictive_value(np.ones(20, bool), positive, yes=False))


def test_kappa_of_grades_is_scikit_learns() -> None:
    g = np.random.default_rng(1)
    labels, predicted = g.integers(0, 4, 100), g.integers(0, 4, 100)
    assert kappa(predicted, labels, 4) == pytest.approx(
        metrics.cohen_kappa_score(labels, predicted, weights="quadratic")
    )
    assert np.isnan(kappa(np.zeros(5, int), np.zeros(5, int), 2))
