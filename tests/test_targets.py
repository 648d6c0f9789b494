from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pellucid as pl
from pellucid.errors import TargetError
from pellucid.targets import (
    BoxTarget,
    ClassTarget,
    ContrastTarget,
    OneVsRestTarget,
    RegionTarget,
    RegressionTarget,
    SingleLogitTarget,
    Target,
    check_count,
    default_task,
    from_dict,
    gauge_free,
    join,
    offset,
    parse,
)
from reference.nets import GapNet, SelfExplaining, inputs

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
    assert OneVsRestTarget().describe(names) == "predicted class against the rest"
    assert OneVsRestTarget().resolve(LOGITS).describe(names, 1) == "fish against the rest"


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
        (OneVsRestTarget(3), LOGITS, "no class 3"),
        (OneVsRestTarget(), LOGITS[:, :1], "at least two classes"),
        (OneVsRestTarget(), LOGITS[:, 0], "need \\(batch, classes\\)"),
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
        ("dog against fish", None, LOGITS, ContrastTarget(torch.tensor([1, 1]), torch.tensor([2, 2]))),
        ("2 against cat", "multilabel", LOGITS, ContrastTarget(torch.tensor([2, 2]), torch.tensor([0, 0]))),
        ("dog against the rest", None, LOGITS, OneVsRestTarget(torch.tensor([1, 1]))),
        ("0 against rest", "multiclass", LOGITS, OneVsRestTarget(torch.tensor([0, 0]))),
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
        ("dog against fsh", {"classes": NAMES}, LOGITS, "Did you mean 'fish'"),
        ("dog against the rest", {"classes": NAMES, "task": "multilabel"}, LOGITS, "no rest"),
        (OneVsRestTarget(0), {"task": "regression"}, LOGITS, "no rest"),
        ("1 against 0", {}, torch.zeros(2, 1), "no class 1"),
    ],
)
def test_what_cannot_be_meant(wanted: Any, options: Any, output: torch.Tensor, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        parse(wanted, **options).resolve(output)


def test_class_names_may_hold_the_word_that_parts_the_sides() -> None:
    names = ("cat", "cat against dog", "dog", "rest")
    logits = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    for words, score in (
        ("cat against dog", 2),
        ("cat against dog against dog", -2),
        ("dog against cat against dog", 2),
        ("dog against rest", -4),
    ):
        assert parse(words, classes=names)(logits).tolist() == [score], words
    rest = parse("dog against the rest", classes=names)(logits)
    assert float(rest[0]) == pytest.approx(4 - math.log(math.e + math.e**2 + math.e**8))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_one_against_the_rest_is_the_log_odds_of_its_probability(classes: int) -> None:
    """logit(p) from the probabilities, and the three parts of the identity by their definitions, with NumPy."""
    logits = 4 * torch.randn(5, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for c in range(classes):
        target = OneVsRestTarget(c)
        y = logits.numpy()
        p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        others = np.delete(y, c, axis=1)
        pi = np.exp(others) / np.exp(others).sum(1, keepdims=True)
        entropy = -(pi * np.log(pi)).sum(1)
        expected = np.log(p[:, c]) - np.log(np.delete(p, c, axis=1).sum(1))
        assert np.abs(target(logits).numpy() - expected).max() < 1e-12
        assert np.abs(offset(target, logits).numpy() + entropy).max() < 1e-12
        weights = target.weights(logits).numpy()
        assert np.abs(np.delete(weights, c, axis=1) + pi).max() < 1e-12
        assert np.abs(weights[:, c] - 1).max() == 0
        assert np.abs((weights * y).sum(1) - entropy - expected).max() < 1e-12
    gradient = torch.autograd.functional.jacobian(lambda y: OneVsRestTarget(0)(y).sum(), logits)
    torch.testing.assert_close(gradient, OneVsRestTarget(0).weights(logits))  # linear at the input, by these weights


def test_one_against_the_rest_stays_finite_where_probabilities_do_not() -> None:
    logits = torch.tensor([[2000.0, 0.0, -1000.0], [-2000.0, 0.0, 1000.0]])
    assert OneVsRestTarget(0)(logits).tolist() == [2000, -3000]
    assert offset(OneVsRestTarget(0), logits).tolist() == [0, 0]
    assert offset(ClassTarget(0), logits).tolist() == [0, 0]


def test_one_against_the_rest_in_maps_and_ledger(rank: int) -> None:
    """Cells and constant add up to logit(p) of the network's own probabilities; the entropy is a row of its own."""
    net, x = GapNet(rank, classes=4).double().eval(), 3 * inputs(rank).double()
    net.fc.weight.data *= 5
    for method, model in (("evidence", SelfExplaining(net)), ("cam", SelfExplaining(net)), ("cam", net)):
        e = pl.explain(model, x, OneVsRestTarget(), method=method)
        p = net(x).detach().softmax(1)
        top = p.argmax(1)
        expected = p.amax(1).log() - p.scatter(1, top[:, None], 0).sum(1).log()
        parts = e.contributions()
        assert float((parts.cells.flatten(1).sum(1) + parts.constant - expected).abs().max()) < 1e-10
        assert float((e.score - expected).abs().max()) < 1e-10
        assert float(parts.residual.abs().max()) < 1e-10
    others = np.delete(net(x)[1].detach().numpy(), int(top[1]))
    pi = np.exp(others) / np.exp(others).sum()
    ledger = e[1].ledger()
    rows = {row.what: row.value for row in ledger.rows}
    assert rows["entropy of the rest (-H, nats)"] == pytest.approx((pi * np.log(pi)).sum(), abs=1e-12)
    bias = net.fc.bias.detach().numpy()
    assert rows["constant"] == pytest.approx(bias[int(top[1])] - (pi * np.delete(bias, int(top[1]))).sum(), abs=1e-12)
    assert sum(row.value for row in ledger.rows) == pytest.approx(float(expected[1]), abs=1e-10)
    assert f"probability {float(p[1].max()):.3f}" in e[1].text()
    assert not any("entropy" in row.what for row in pl.explain(model, x, 0, method="cam")[0].ledger().rows)


def test_the_map_of_one_against_the_rest_by_hand() -> None:
    net, x = GapNet(2, classes=3).double().eval(), inputs(2).double()
    z, y = net.features(x).detach(), net(x).detach()
    pi = y[:, [0, 2]].softmax(1)
    cells = torch.einsum("ck,bk...->bc...", net.fc.weight.detach(), z) / z[0, 0].numel()
    expected = cells[:, 1] - pi[:, 0, None, None] * cells[:, 0] - pi[:, 1, None, None] * cells[:, 2]
    found = pl.explain(SelfExplaining(net), x, "1 against the rest")
    torch.testing.assert_close(found.map, expected)


@pytest.mark.parametrize(
    ("target", "task", "combined"),
    [
        (1, None, lambda cells: cells[:, 1] - cells.mean(1)),
        (ContrastTarget(2, 0), None, lambda cells: cells[:, 2] - cells[:, 0]),
        (1, "multilabel", lambda cells: cells[:, 1]),
    ],
)
def test_canonical_maps_by_hand(target: Any, task: Any, combined: Any) -> None:
    """Centred, a against b, and the untouched map of a sigmoid; what is added to all classes changes only the last."""
    net, x = GapNet(2, classes=3).double().eval(), inputs(2).double()

    def cells() -> torch.Tensor:
        z = net.features(x).detach()
        return torch.einsum("ck,bk...->bc...", net.fc.weight.detach(), z) / z[0, 0].numel()

    before = pl.explain(SelfExplaining(net), x, target, task=task)
    torch.testing.assert_close(before.map, combined(cells()))
    net.fc.weight.data += torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after = pl.explain(SelfExplaining(net), x, target, task=task)
    torch.testing.assert_close(after.map, combined(cells()))
    changed = float((after.map - before.map).abs().max()) / float(before.map.abs().max())
    assert changed > 0.1 if task == "multilabel" else changed < 1e-12


def test_two_softmax_classes_and_one_sigmoid_have_the_same_one_map() -> None:
    """A softmax over two classes is a sigmoid of the difference: one log-odds map, and its negative for the other class."""
    two, one, x = GapNet(2, classes=2).double(), GapNet(2, classes=1).double(), inputs(2).double()
    one.features = two.features
    one.fc.weight.data = two.fc.weight.data[1:] - two.fc.weight.data[:1]
    one.fc.bias.data = two.fc.bias.data[1:] - two.fc.bias.data[:1]
    single = pl.explain(SelfExplaining(one), x, 1)
    for target in (1, OneVsRestTarget(1), ContrastTarget(1, 0)):
        both = pl.explain(SelfExplaining(two), x, target)
        torch.testing.assert_close(both.map, single.map)
        torch.testing.assert_close(both.score, single.score)
        torch.testing.assert_close(both.contributions().constant, single.contributions().constant)
    torch.testing.assert_close(pl.explain(SelfExplaining(two), x, 0).map, -single.map)


def test_one_against_the_rest_outlives_the_disk(tmp_path: Path) -> None:
    net, x = GapNet(2, classes=4).eval(), inputs(2)
    e = pl.explain(SelfExplaining(net), x, "2 against the rest")
    again = pl.Explanation.load(e[0].save(tmp_path))
    assert str(again.ledger()) == str(e[0].ledger())


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
