from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.errors import BadInput, OptionError
from pellucid.sample import collate
from pellucid.training.metrics import Predictions, auc, balanced_accuracy, predict


def test_auc_by_hand() -> None:
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    assert auc(np.array([1.0, 1.0]), np.array([0, 1])) == 0.5
    assert math.isnan(auc(np.array([1.0, 2.0]), np.array([1, 1])))


@pytest.mark.parametrize("classes", [2, 4])
def test_auc_equals_sklearn(classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(80, classes)).round(1)  # with ties
    labels = generator.integers(classes, size=80)
    many = generator.integers(2, size=(80, classes))
    each = [metrics.roc_auc_score(labels == k, scores[:, k]) for k in range(classes)]
    assert auc(scores, labels) == pytest.approx(np.mean(each), rel=1e-12)
    assert auc(scores, many) == pytest.approx(metrics.roc_auc_score(many, scores, average="macro"), rel=1e-12)
    assert auc(scores[:, 0], (labels == 1).astype(int)) == pytest.approx(
        metrics.roc_auc_score(labels == 1, scores[:, 0]), rel=1e-12
    )


def test_a_class_that_does_not_occur_is_left_out_of_the_auc() -> None:
    scores, labels = np.array([[0.0, 1, 9], [1, 0, 2], [3, 2, 5]]), np.array([0, 1, 0])
    assert auc(scores, labels) == pytest.approx((0.5 + 0.0) / 2)


def test_balanced_accuracy_equals_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    labels, predicted = generator.integers(3, size=60), generator.integers(3, size=60)
    assert balanced_accuracy(predicted, labels) == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted), rel=1e-12
    )
    assert math.isnan(balanced_accuracy(predicted, np.zeros(60, dtype=int)))
    both = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    assert balanced_accuracy(both, np.array([[1, 0], [1, 0], [0, 1], [0, 1]])) == pytest.approx((1.0 + 0.5) / 2)


def made(logits: list[list[float]], labels: list[int], groups: list[str]) -> Predictions:
    task = "binary" if len(logits[0]) == 1 else "multiclass"
    return Predictions(
        tuple(map(str, range(len(labels)))),
        tuple(groups),
        torch.tensor(labels),
        torch.tensor(logits),
        ("a", "b"),
        task,
        {},
    )  # type: ignore[arg-type]


def test_one_logit_and_two_say_the_same() -> None:
    values, labels, groups = [0.3, -1.2, 2.0, 0.1, -0.4, 0.9], [1, 0, 1, 0, 0, 1], list("abcdef")
    one, two = made([[v] for v in values], labels, groups), made([[0.0, v] for v in values], labels, groups)
    assert one.auc() == two.auc()
    assert one.balanced_accuracy() == two.balanced_accuracy()
    assert one.scores() == pytest.approx(two.scores(), rel=1e-6)
    assert torch.allclose(one.probabilities[:, 0], two.probabilities[:, 1])


def test_intervals_resample_groups_and_leave_out_one_class_draws() -> None:
    labels = [0, 1] * 6
    logits = [[0.0, 3.0 * y - 1.5] for y in labels]
    perfect = made(logits, labels, [f"p{i}" for i in range(12)])
    interval = perfect.auc(resamples=200)
    assert (interval.mean, interval.low, interval.high, interval.n, interval.groups) == (1.0, 1.0, 1.0, 12, 12)
    # Two patients of one class each: half of the draws have one class and say nothing.
    two = made(logits, sorted(labels), ["p0"] * 6 + ["p1"] * 6)
    assert two.auc(resamples=200).groups == 2
    assert two.auc(resamples=200).low == two.auc(resamples=200).mean


def test_saturated_logits_keep_their_order() -> None:
    """Probabilities of 1 would tie; log-odds do not."""
    found = made([[0.0, 60.0], [0.0, 50.0], [0.0, 55.0], [0.0, 45.0]], [1, 0, 1, 0], list("abcd"))
    assert found.auc(resamples=10).mean == 1.0


def test_predictions_are_the_networks(rank: int, toy: Any, net: Any) -> None:
    data = toy(n=12, size=(8, 6, 4)[:rank], bad=(5,))
    model = net(rank).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = predict(model, data, batch_size=5)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    good = [i for i in range(12) if i != 5]
    expected = model.eval()(collate([data[i] for i in good]))
    torch.testing.assert_close(found.logits, expected.detach())
    assert found.names == tuple(f"s{i}" for i in good)
    assert found.labels.tolist() == [data[i].label for i in good]
    assert found.groups == tuple(f"p{i // 2}" for i in good)
    assert found.skipped == {"s5": "File 5 is damaged."}


def test_wrong_networks_and_data(toy: Any) -> None:
    with pytest.raises(OptionError, match="does not fit 2 classes"):
        predict(nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), toy())
    with pytest.raises(BadInput, match="cannot be used"):
        predict(nn.Sequential(nn.Flatten(), nn.Linear(128, 2)), toy(n=4, bad=(0, 1)))
