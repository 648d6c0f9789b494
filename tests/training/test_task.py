from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import BadInput, OptionError
from pellucid.training import task as tasks

InceptionOutputs = namedtuple("InceptionOutputs", ["logits", "aux_logits"])
GoogLeNetOutputs = namedtuple("GoogLeNetOutputs", ["logits", "aux_logits2", "aux_logits1"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cross_entropy_by_hand() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    expected = [torch.log(1 + torch.exp(torch.tensor(-2.0))), torch.log(1 + torch.exp(torch.tensor(1.0)))]
    torch.testing.assert_close(tasks.loss("multiclass", logits, labels), (expected[0] + expected[1]) / 2)


def test_auxiliary_classifiers() -> None:
    labels = torch.tensor([0, 1, 2])
    main, one, two = (random(3, 3, seed=s) for s in range(3))
    ce = F.cross_entropy
    torch.testing.assert_close(
        tasks.loss("multiclass", InceptionOutputs(main, one), labels), ce(main, labels) + 0.4 * ce(one, labels)
    )
    torch.testing.assert_close(
        tasks.loss("multiclass", GoogLeNetOutputs(main, one, two), labels),
        ce(main, labels) + 0.3 * (ce(one, labels) + ce(two, labels)),
    )
    torch.testing.assert_close(tasks.loss("multiclass", InceptionOutputs(main, None), labels), ce(main, labels))


def test_binary_equals_two_classes_with_zero_for_the_first() -> None:
    logit, labels, weights = random(6, 1), torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([1.0, 3.0])
    both = torch.cat([torch.zeros(6, 1), logit], 1)
    torch.testing.assert_close(tasks.loss("binary", logit, labels), F.cross_entropy(both, labels))
    torch.testing.assert_close(
        tasks.loss("binary", logit, labels, weights), F.cross_entropy(both, labels, weight=weights)
    )
    torch.testing.assert_close(tasks.loss("binary", logit[:, 0], labels), F.cross_entropy(both, labels))
    assert torch.equal(tasks.correct("binary", logit, labels), tasks.correct("multiclass", both, labels))
    assert torch.equal(tasks.correct("binary", logit[:, 0], labels), tasks.correct("multiclass", both, labels))


def test_several_labels() -> None:
    logits, labels = torch.tensor([[1.0, -1.0], [2.0, 3.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    expected = -F.logsigmoid(logits).mean()
    torch.testing.assert_close(tasks.loss("multilabel", logits, labels), expected)
    assert tasks.correct("multilabel", logits, labels).tolist() == [0.5, 1.0]


class Fixed(nn.Module):
    def __init__(self, width: int, output: Any = None) -> None:
        super().__init__()
        self.width, self.output = width, output

    def forward(self, x: Tensor) -> Any:
        return self.output if self.output is not None else x.new_zeros(len(x), self.width)


@pytest.mark.parametrize(
    ("width", "label", "classes", "expected"),
    [
        (2, 1, 2, "multiclass"),
        (5, 1, 5, "multiclass"),
        (1, 1, 2, "binary"),
        (1, 1, 1, "binary"),
        (3, torch.tensor([1, 0, 1]), 3, "multilabel"),
    ],
)
def test_task_is_found(width: int, label: Any, classes: int, expected: str) -> None:
    assert tasks.resolve(Fixed(width), torch.zeros(1, 1, 4), label, classes, "auto") == expected


def test_network_says_its_task() -> None:
    model = Fixed(2)
    model.task = "multilabel"  # type: ignore[assignment]
    assert tasks.resolve(model, torch.zeros(1, 1, 4), torch.tensor([0, 1]), 2, "auto") == "multilabel"
    model.task = "regression"  # type: ignore[assignment]
    with pytest.raises(OptionError, match="'regression' cannot be trained"):
        tasks.resolve(model, torch.zeros(1, 1, 4), 1, 2, "auto")


@pytest.mark.parametrize(("width", "classes"), [(10, 2), (1, 3), (3, 2)])
def test_outputs_that_do_not_fit_are_refused(width: int, classes: int) -> None:
    with pytest.raises(OptionError, match="does not fit"):
        tasks.resolve(Fixed(width), torch.zeros(1, 1, 4), 0, classes, "auto")


def test_outputs_that_are_no_logits_are_refused() -> None:
    with pytest.raises(OptionError, match="returns a tuple"):
        tasks.resolve(Fixed(2, output=(torch.zeros(1, 2), torch.zeros(1))), torch.zeros(1, 1, 4), 0, 2, "auto")


@pytest.mark.parametrize("label", [None, -1, 2, 0.5, torch.tensor([1, 0])])
def test_wrong_class_labels(label: Any) -> None:
    with pytest.raises(BadInput):
        tasks.label_of(label, 2, "multiclass")


@pytest.mark.parametrize("label", [None, 1, torch.tensor([1, 0, 1]), torch.tensor([2, 0])])
def test_wrong_multi_labels(label: Any) -> None:
    with pytest.raises(BadInput):
        tasks.label_of(label, 2, "multilabel")


def test_balanced_weights(toy: Any) -> None:
    data = toy(n=6, classes=("a", "b"))  # labels 0 0 1 1 0 0
    weights = tasks.weights_of("balanced", "multiclass", data)
    assert weights is not None
    assert weights.tolist() == pytest.approx([6 / (2 * 4), 6 / (2 * 2)])
    with pytest.raises(OptionError, match="3 class weights for 2 classes"):
        tasks.weights_of((1.0, 2.0, 3.0), "multiclass", data)
    with pytest.raises(OptionError, match="A class has no sample"):
        tasks.weights_of("balanced", "multiclass", toy(n=2))
    with pytest.raises(OptionError, match="one known class"):
        tasks.weights_of("balanced", "multilabel", data)


def test_focal_loss_by_hand() -> None:
    """(1 - p)^gamma * -log p of the right answer, for softmax, sigmoid and several labels."""
    logits, labels = random(5, 3, seed=1).double(), torch.tensor([0, 2, 1, 1, 0])
    p = logits.softmax(1)[torch.arange(5), labels]
    expected = ((1 - p) ** 2 * -p.log()).mean()
    torch.testing.assert_close(tasks.loss("multiclass", logits, labels, focusing=2.0), expected)
    weights = torch.tensor([1.0, 2.0, 3.0]).double()
    own = weights[labels]
    weighed = (own * (1 - p) ** 2 * -p.log()).sum() / own.sum()
    torch.testing.assert_close(tasks.loss("multiclass", logits, labels, weights, focusing=2.0), weighed)
    truth = torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]]).double()
    q = torch.where(truth > 0, logits.sigmoid(), (-logits).sigmoid())
    torch.testing.assert_close(
        tasks.loss("multilabel", logits, truth, focusing=1.5), ((1 - q) ** 1.5 * -q.log()).mean()
    )
    torch.testing.assert_close(
        tasks.loss("binary", logits[:, :1], truth[:, 0], focusing=1.5),
        ((1 - q[:, 0]) ** 1.5 * -q[:, 0].log()).mean(),
    )


def test_focal_loss_has_gradients_where_all_is_right() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    tasks.loss("multiclass", logits, torch.tensor([0]), focusing=0.5).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_smoothed_labels_by_hand() -> None:
    logits, labels = random(4, 3, seed=2), torch.tensor([0, 1, 2, 2])
    spread = torch.nn.functional.one_hot(labels, 3) * 0.9 + 0.1 / 3
    expected = -(spread * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(tasks.loss("multiclass", logits, labels, smoothing=0.1), expected)
    one, truth = logits[:, 0], torch.tensor([0.0, 1, 1, 0])
    soft = truth * 0.9 + 0.05
    expected = -(soft * one.sigmoid().log() + (1 - soft) * (-one).sigmoid().log()).mean()
    torch.testing.assert_close(tasks.loss("binary", one[:, None], truth, smoothing=0.1), expected)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_the_loss_of_a_batch_is_that_of_its_pieces_by_their_mass(task: tasks.Task) -> None:
    logits = random(7, 1 if task == "binary" else 2, seed=3)
    labels = (random(7, 2, seed=4) > 0).float() if task == "multilabel" else torch.tensor([0, 1, 1, 0, 1, 1, 0])
    weights = torch.tensor([1.0, 4.0])
    total = tasks.mass(task, labels, weights)
    pieces = sum(
        tasks.loss(task, logits[a:b], labels[a:b], weights) * tasks.mass(task, labels[a:b], weights) / total
        for a, b in ((0, 2), (2, 7))
    )
    torch.testing.assert_close(pieces, tasks.loss(task, logits, labels, weights))
