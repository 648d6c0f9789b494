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


def both_classes(probabilities: Array) -> Array:
    """One column per class; the single probability of a sigmoid head is that of its positive answer."""
    return np.concatenate([1 - probabilities, probabilities], 1) if probabilities.shape[1] == 1 else probabilities


# name -> score of probabilities (n, classes) and labels (n,)
SCORES: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": lambda probabilities, labels: accuracy(both_classes(probabilities).argmax(1), labels),
    "balanced_accuracy": lambda probabilities, labels: balanced_accuracy(both_classes(probabilities).argmax(1), labels),
    "auc": lambda probabilities, labels: auc(both_classes(probabilities), labels),
}
