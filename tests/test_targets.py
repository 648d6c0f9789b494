from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.errors import TargetError
from pellucid.targets import (
    BoxTarget,
    ClassTarget,
    ContrastTarget,
    RegionTarget,
    RegressionTarget,
    SingleLogitTarget,
    Target,
    check_count,
    default_task,
    from_dict,
    gauge_free,
    join,
    parse,
)

LOGITS = torch.tensor([[3.0, -1.0, 0.5], [0.0, 2.0, 4.0]])
LINEAR: list[tuple[Target, torch.Tensor, list[float]]] = [
    (ClassTarget(), LOGITS, [3, 4]),
    (ClassTarget(1), LOGITS, [-1, 2]),
    (ClassTarget(torch.tensor([2, 0])), LOGITS, [0.5, 0]),
    (ContrastTarget(0, 1), LOGITS, [4, -2]),
    (ContrastTarget(torch.tensor([0, 2]), 1), LOGITS, [4, 2]),
    (SingleLogitTarget(), torch.tensor([[-50.0], [2.0]]), [50, 2]),
    (SingleLogitTarget(True), torch.tensor([-50.0, 2.0]), [-50, 2]),
    (SingleLogitTarget(torch.tensor([True, False])), torch.tensor([[-50.0], [2.0]]), [-50, -2]),
    (RegressionTarget(), torch.tensor([7.0, 8.0]), [7, 8]),
    (RegressionTarget(2), LOGITS, [0.5, 4]),
]


@pytest.mark.parametrize(("target", "output", "expected"), LINEAR)
def test_scores_weights_rows_and_words(target: Target, output: torch.Tensor, expected: list[float]) -> None:
    decided = target.resolve(output)
    for t in (target, decided, from_dict(json.loads(json.dumps(decided.as_dict())))):
        assert t(output).tolist() == expected
    columns = output if output.ndim == 2 else output[:, None]
    assert (decided.weights(output) * columns).sum(1).tolist() == expected
    turned = torch.tensor([1, 0, 1])
    assert decided.rows(turned)(output[turned]).tolist() == [expected[1], expected[0], expected[1]]
    assert decided.describe(None, 1)


def test_words() -> None:
    names = ("cat", "dog", "fish")
    assert ClassTarget().resolve(LOGITS).describe(names, 1) == "fish"
    assert ClassTarget(1).describe() == "class 1"
    assert ContrastTarget(0, 2).describe(names) == "cat against fish"
    single = SingleLogitTarget().resolve(torch.tensor([-1.0, 1.0]))
    assert [single.describe(("healthy", "ill"), i) for i in (0, 1)] == ["healthy", "ill"]
    assert [single.describe(("ill",), i) for i in (0, 1)] == ["not ill", "ill"]
    assert RegressionTarget(1).describe(("age", "weight")) == "weight"


def test_a_decided_target_follows_no_later_output() -> None:
    decided = ClassTarget().resolve(LOGITS)
    assert decided(-LOGITS).tolist() == [-3, -4]


@pytest.mark.parametrize(
    ("target", "output", "says"),
    [
        (ClassTarget(3), LOGITS, "no class 3"),
        (ClassTarget(-1), LOGITS, "no class -1"),
        (ClassTarget(torch.tensor([0, 1, 2])), LOGITS, "3 targets for 2 inputs"),
        (ClassTarget(0), LOGITS[0], "need \\(batch, classes\\)"),
        (ClassTarget(0), [LOGITS], "output is list"),
        (ContrastTarget(0, 9), LOGITS, "no class 9"),
        (SingleLogitTarget(), LOGITS, "one output per input"),
        (SingleLogitTarget(), {"a": LOGITS}, "The output is dict"),
        (SingleLogitTarget(torch.tensor([True])), torch.zeros(2, 1), "1 targets for 2 inputs"),
        (RegressionTarget(3), LOGITS, "no output 3"),
        (RegionTarget(0), LOGITS, "map of logits"),
        (RegionTarget(5), torch.zeros(1, 2, 4), "no class 5"),
        (RegionTarget(0, torch.ones(3, dtype=torch.bool)), torch.zeros(1, 2, 4), "region has shape"),
        (RegionTarget(0, torch.zeros(4, dtype=torch.bool)), torch.zeros(1, 2, 4), "empty"),
        (BoxTarget(torch.zeros(4), 0), LOGITS, "'boxes' per image"),
        (BoxTarget(torch.zeros(3, 4), 0), [{"boxes": torch.zeros(0, 4)}], "3 boxes for 1 inputs"),
    ],
)
def test_what_does_not_fit_is_refused(target: Target, output: Any, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        target.resolve(output)


def test_region_is_the_mean_inside(rank: int) -> None:
    output = torch.randn(2, 3, *(4,) * rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region = torch.rand(2, *(4,) * rank, generator=torch.Generator().manual_seed(1)) > 0.5
    expected = [float(output[i, 1][region[i]].mean()) for i in range(2)]
    assert RegionTarget(1, region)(output).tolist() == pytest.approx(expected)
    shared = [float(output[i, 1][region[0]].mean()) for i in range(2)]
    assert RegionTarget(1, region[0])(output).tolist() == pytest.approx(shared)
    with pytest.raises(TargetError, match="cannot be combined"):
        RegionTarget(1, region).weights(output)


@pytest.mark.parametrize("decided", [False, True])
def test_regions_follow_their_inputs(rank: int, decided: bool) -> None:
    """One region for all stays; one per input is picked with the inputs, whatever the number of axes."""
    output = torch.randn(4, 3, *(4,) * rank, generator=torch.Generator().manual_seed(0))
    regions = torch.rand(4, *(4,) * rank, generator=torch.Generator().manual_seed(1)) > 0.5
    for region in (regions, regions[2]):
        target = RegionTarget(1, region)
        expected = target(output)
        target = target.resolve(output) if decided else target
        twice = target.rows(torch.tensor([3, 1, 0])).rows(torch.tensor([2, 1]))
        assert torch.equal(twice(output[[0, 1]]), expected[[0, 1]])
        assert torch.equal(twice.resolve(output[[0, 1]])(output[[0, 1]]), expected[[0, 1]])


def test_predicted_region() -> None:
    output = torch.tensor([[[1.0, 5.0, 0.0], [2.0, 1.0, 3.0]]])
    assert RegionTarget(1)(output).tolist() == [2.5]


def test_box_takes_the_detection_that_lies_best_on_it() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [21, 21, 30, 30]])
    found = [{"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7]), "labels": torch.tensor([1, 2, 1])}]
    wanted = torch.tensor([20.0, 20, 30, 30])
    assert BoxTarget(wanted, 2)(found).tolist() == pytest.approx([0.8])
    assert BoxTarget(wanted, 1)(found).tolist() == pytest.approx([0.7])  # the better box is of another class
    assert BoxTarget(torch.tensor([50.0, 50, 60, 60]), 1)(found).tolist() == [0]
    logits = [{"boxes": boxes, "logits": torch.arange(6.0).view(3, 2)}]
    assert BoxTarget(wanted, 1)(logits).tolist() == [3]
    nothing = [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}]
    each = BoxTarget(torch.stack([wanted, wanted * 0 + 5]), 2)
    assert each(found + nothing).tolist() == pytest.approx([0.8, 0])
    assert each.rows(torch.tensor([0]))(found).tolist() == pytest.approx([0.8])


NAMES = ("cat", "dog", "fish")


@pytest.mark.parametrize(
    ("wanted", "task", "output", "expected"),
    [
        (None, None, LOGITS, ClassTarget(torch.tensor([0, 2]))),
        (1, None, LOGITS, ClassTarget(torch.tensor([1, 1]))),
        (np.int64(1), None, LOGITS, ClassTarget(torch.tensor([1, 1]))),
        ("dog", None, LOGITS, ClassTarget(torch.tensor([1, 1]))),
        ("2", None, LOGITS, ClassTarget(torch.tensor([2, 2]))),
        (["fish", 0], None, LOGITS, ClassTarget(torch.tensor([2, 0]))),
        (torch.tensor([2, 0]), "multilabel", LOGITS, ClassTarget(torch.tensor([2, 0]))),
        (None, None, torch.tensor([[-1.0], [1.0]]), SingleLogitTarget(torch.tensor([False, True]))),
        (0, None, torch.tensor([-1.0, 1.0]), SingleLogitTarget(torch.tensor([False, False]))),
        ([1, 0], "binary", torch.tensor([[-1.0], [1.0]]), SingleLogitTarget(torch.tensor([True, False]))),
        (None, "regression", torch.tensor([[-1.0], [1.0]]), RegressionTarget(0)),
        (2, "regression", LOGITS, RegressionTarget(2)),
    ],
)
def test_what_a_user_means(wanted: Any, task: Any, output: torch.Tensor, expected: Target) -> None:
    target = parse(wanted, task=task, classes=NAMES)
    assert target.resolve(output).as_dict() == expected.as_dict()
    assert target(output).tolist() == expected(output).tolist()
    assert target.weights(output).tolist() == expected.weights(output).tolist()
    turned = torch.tensor([1])
    if wanted is not None:
        assert target.rows(turned)(output[turned]).tolist() == expected(output)[turned].tolist()


def test_single_logit_names() -> None:
    output = torch.tensor([[-1.0], [1.0]])
    for names, word, positive in (
        (("healthy", "ill"), "ill", True),
        (("healthy", "ill"), "healthy", False),
        (("ill",), "ill", True),
    ):
        decided = parse(word, classes=names).resolve(output)
        assert decided.as_dict() == {"kind": "single_logit", "positive": [positive] * 2}


@pytest.mark.parametrize(
    ("wanted", "options", "output", "says"),
    [
        ("dgo", {"classes": NAMES}, LOGITS, "Did you mean 'dog'"),
        ("dog", {}, LOGITS, "class names are not known"),
        (2, {}, torch.zeros(2, 1), "single logit"),
        (0, {"task": "multilable"}, LOGITS, "Did you mean 'multilabel'"),
        (0, {}, torch.zeros(2, 3, 4, 4), "RegionTarget"),
    ],
)
def test_what_cannot_be_meant(wanted: Any, options: Any, output: torch.Tensor, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        parse(wanted, **options).resolve(output)


def test_counts_are_checked_before_the_network_runs() -> None:
    check_count(parse(3), 4)
    check_count(ClassTarget(torch.tensor([1, 2])), 2)
    for wrong in (parse([1, 2, 3]), ClassTarget(torch.tensor([1, 2, 3])), ContrastTarget(0, torch.tensor([1, 2, 3]))):
        with pytest.raises(TargetError, match="3 targets for 4 inputs"):
            check_count(wrong, 4)


def test_joined_parts_are_the_whole() -> None:
    whole = ContrastTarget(torch.tensor([0, 2]), 1).resolve(LOGITS)
    parts = [whole.rows(torch.tensor([i])) for i in range(2)]
    assert join(parts).as_dict() == whole.as_dict()


def test_two_exclusive_classes_are_one_question() -> None:
    two = LOGITS[:, :2]
    for task in (None, "multiclass", "binary"):
        free = gauge_free(ClassTarget(1), two, task)  # type: ignore[arg-type]
        assert free(two).tolist() == (two[:, 1] - two[:, 0]).tolist()
    for target, output, task in (
        (ClassTarget(1), LOGITS, None),
        (ClassTarget(1), two, "multilabel"),
        (SingleLogitTarget(), two[:, :1], None),
        (ContrastTarget(0, 1), two, None),
    ):
        assert gauge_free(target, output, task) is target  # type: ignore[arg-type]


def test_default_tasks() -> None:
    assert default_task(LOGITS) == "multiclass"
    assert default_task(LOGITS[:, :1]) == default_task(LOGITS[:, 0]) == "binary"
    for odd in (torch.zeros(1, 2, 3), [LOGITS], torch.tensor(1.0)):
        with pytest.raises(TargetError, match="not clear"):
            default_task(odd)
