"""How well a network answers, for an audit: the usual scores, those of a decision at a threshold, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.audit.observe import Reading
from pellucid.performance import auc, balanced_accuracy, brier, calibration_error
from pellucid.record import Interval, bootstrap, mean_interval
from pellucid.statistics import wilson_interval

Array = NDArray[Any]


def performance(
    readings: Sequence[Reading], *, cut: float = 0.0, prevalence: float | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Every score with its interval over patients. cut: a score above it says yes. prevalence: where the network is to be
    used; with it the predictive values are those to be expected there (Bayes), else those of these samples.
    """
    probabilities, labels = np.array([r.probabilities for r in readings]), np.array([r.label for r in readings])
    positive = np.array([r.positive for r in readings])
    said, units = np.array([r.score > cut for r in readings]), [r.unit for r in readings]

    def resampled(statistic: Any) -> Interval:
        return bootstrap(statistic, units, seed=seed)

    def predictive(rows: Array, yes: bool) -> float:
        return predictive_value(said[rows], positive[rows], yes=yes, prevalence=prevalence)

    def share(of: Array, right: Array) -> Interval:
        return share_interval(
            right[of].astype(float), [u for u, inside in zip(units, of, strict=True) if inside], seed=seed
        )

    return {
        "auc": resampled(lambda rows: auc(probabilities[rows], labels[rows])),
        "accuracy": share(np.ones_like(positive), probabilities.argmax(1) == labels),
        "balanced_accuracy": resampled(lambda rows: balanced_accuracy(probabilities[rows].argmax(1), labels[rows])),
        "kappa": resampled(lambda rows: kappa(probabilities[rows].argmax(1), labels[rows], probabilities.shape[1])),
        "sensitivity": share(positive, said),
        "specificity": share(~positive, ~said),
        "positive_predictive_value": resampled(lambda rows: predictive(rows, True)),
        "negative_predictive_value": resampled(lambda rows: predictive(rows, False)),
        "brier": resampled(lambda rows: brier(probabilities[rows], labels[rows])),
        "calibration_error": resampled(lambda rows: calibration_error(probabilities[rows], labels[rows])),
    }


def share_interval(values: Sequence[float] | Array, units: Sequence[str], *, seed: int = 0) -> Interval:
    """A share of zeros and ones. Wilson's interval where each unit has one sample, or all answers are alike (then over
    units, since resampling would find no spread at all); else over resampled units.
    """
    numbers, groups = np.asarray(values, float), len(set(units))
    if not len(numbers):
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    if groups < len(numbers) and 0 < numbers.mean() < 1:
        return mean_interval(numbers.tolist(), units, seed=seed)
    found = wilson_interval(round(float(numbers.mean()) * groups), groups)
    return Interval(found.value, found.low, found.high, len(numbers), groups)


def predictive_value(said: Array, positive: Array, *, yes: bool, prevalence: float | None = None) -> float:
    """The share of right answers among those that say yes (or no); nan where nobody says so.

    prevalence: the share of positives where the network is to be used; None: that of these samples.
    """
    if not positive.any() or positive.all():
        return float("nan")
    share = float(positive.mean()) if prevalence is None else prevalence
    hit = float((said == yes)[positive].mean()) * share
    miss = float((said == yes)[~positive].mean()) * (1 - share)
    return (hit if yes else miss) / (hit + miss) if hit + miss else float("nan")


def kappa(predicted: Array, labels: Array, classes: int) -> float:
    """Agreement beyond chance with quadratic weights (Cohen 1968): for two classes the plain kappa."""
    observed = np.zeros((classes, classes))
    np.add.at(observed, (labels, predicted), 1)
    expected = np.outer(observed.sum(1), observed.sum(0)) / len(labels)
    distance = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    chance = float((distance * expected).sum())
    return 1 - float((distance * observed).sum()) / chance if chance else float("nan")
