"""How well a network predicts: plain counting, quick enough for thousands of resamples.

A score that is not defined on the given rows (a resample with one class only) is nan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def auc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve by ranks (Mann and Whitney), ties counted half.

    scores `(n, classes)` and labels `(n,)` (a class index) or `(n, classes)` of 0/1: each class against the rest, mean
    over the classes that have both. scores `(n,)`: one class. Not a number where no class has both.
    """
    from scipy.stats import rankdata

    columns = scores.reshape(len(scores), -1)
    truth = (
        labels == 1
        if labels.ndim == 2
        else (labels[:, None] == (np.arange(columns.shape[1]) if columns.shape[1] > 1 else 1))
    )
    positive = truth.sum(0)
    negative = len(truth) - positive
    usable = (positive > 0) & (negative > 0)
    if not usable.any():
        return float("nan")
    ranks = rankdata(columns[:, usable], axis=0)
    above = (ranks * truth[:, usable]).sum(0) - positive[usable] * (positive[usable] + 1) / 2
    return float((above / (positive[usable] * negative[usable])).mean())


def balanced_accuracy(predicted: Array, labels: Array) -> float:
    """Mean recall over the classes that occur; for several labels `(n, labels)` the mean over labels.

    Not a number where fewer than two classes occur, since guessing would then be right.
    """
    if labels.ndim == 2:
        return float(np.mean([balanced_accuracy(predicted[:, k], labels[:, k]) for k in range(labels.shape[1])]))
    found, member = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        return float("nan")
    return float((np.bincount(member, weights=predicted == labels) / np.bincount(member)).mean())


def accuracy(predicted: Array, labels: Array) -> float:
    """Share of right decisions."""
    return float((predicted == labels).mean())


def brier(probabilities: Array, labels: Array) -> float:
    """Mean squared distance of the probabilities `(n, classes)` from the truth, summed over classes (Brier 1950); 0 to 2."""
    return float(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1).mean())


def log_loss(probabilities: Array, labels: Array) -> float:
    """Mean of -log of the probability of the true class, in nats."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, np.finfo(float).tiny)).mean())


def calibration_error(probabilities: Array, labels: Array, *, bins: int = 15) -> float:
    """How far confidence and accuracy of the decisions are apart, mean over bins of equal numbers (Nguyen and O'Connor 2015).

    With few rows even perfect calibration does not give 0: compare with an interval.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(labels)))
    return float(sum(abs(confidence[i].mean() - right[i].mean()) * len(i) for i in parts) / len(labels))


def temperature(logits: Array, labels: Array) -> float:
    """The number by which to divide logits so that their probabilities fit best (Guo et al. 2017); fit it on validation data.

    logits `(n, classes)`, or `(n, 1)` of a sigmoid head. Evidence that adds up to a logit adds up to the divided one when
    it is divided too.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    columns = np.concatenate([np.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return float(-log_softmax(columns / np.exp(log_t), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


def both_classes(probabilities: Array) -> Array:
    """One column per class; the single probability of a sigmoid head is that of its positive answer."""
    return np.concatenate([1 - probabilities, probabilities], 1) if probabilities.shape[1] == 1 else probabilities


# Scores that measure a loss.
LESS_IS_BETTER = frozenset({"brier", "calibration_error"})

# name -> score of probabilities (n, classes) and labels (n,)
SCORES: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": lambda probabilities, labels: accuracy(both_classes(probabilities).argmax(1), labels),
    "balanced_accuracy": lambda probabilities, labels: balanced_accuracy(both_classes(probabilities).argmax(1), labels),
    "auc": lambda probabilities, labels: auc(both_classes(probabilities), labels),
    "brier": lambda probabilities, labels: brier(both_classes(probabilities), labels),
    "calibration_error": lambda probabilities, labels: calibration_error(both_classes(probabilities), labels),
}
