"""A tree answers as scikit-learn's does, asks nothing that the network's own sum would answer, and is judged by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pellucid.errors import OptionError
from pellucid.hybrids.descriptors import Descriptors, Feature
from pellucid.hybrids.tree import Leaf, Question, Tree, grow, standing

FEATURES = tuple(Feature("spot", q, w) for q, w in (("sum", "everywhere"), ("peak", "everywhere"), ("sum", "left"), ("area", "everywhere")))  # fmt: skip


def table(values: np.ndarray, labels: np.ndarray, answers: np.ndarray | None = None, classes: int = 2) -> Descriptors:
    names = tuple(f"s{i}" for i in range(len(values)))
    given = labels if answers is None else answers
    return Descriptors(FEATURES, values, names, names, labels, given, tuple("abc"[:classes]))


def noisy(n: int = 200, classes: int = 2, seed: int = 0) -> Descriptors:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 4))
    score = values[:, 1] + 0.5 * values[:, 2] + rng.normal(size=n) * 0.4
    labels = np.digitize(score, [0.0, 1.0][: classes - 1])
    return table(values, labels, np.where(rng.random(n) < 0.1, (labels + 1) % classes, labels), classes)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("learn", ["answers", "labels"])
def test_it_answers_as_scikit_learn_does(classes: int, learn: str) -> None:
    from sklearn.tree import DecisionTreeClassifier

    known, new = noisy(classes=classes), noisy(300, classes, seed=1)
    wanted = known.answers if learn == "answers" else known.labels
    fitted = DecisionTreeClassifier(max_depth=3, min_samples_leaf=5, random_state=0).fit(known.values[:, 1:], wanted)
    tree = grow(known, learn=learn)  # type: ignore[arg-type]
    assert tree.answers(new).tolist() == fitted.predict(new.values[:, 1:]).tolist()


def test_the_sum_of_all_cells_is_not_asked_for() -> None:
    values = np.random.default_rng(0).normal(size=(100, 4))
    tree = grow(table(values, (values[:, 0] > 0).astype(int)))  # the sum alone would tell
    asked: list[Feature] = []

    def walk(node: Question | Leaf) -> None:
        if isinstance(node, Question):
            asked.append(node.feature)
            walk(node.no)
            walk(node.yes)

    walk(tree.root)
    assert asked
    assert FEATURES[0] not in asked


def test_questions_that_change_no_answer_are_left_out() -> None:
    values = np.zeros((40, 4))
    values[20:, 1] = 1.0
    values[:10, 3] = 1.0
    labels = np.array([0] * 20 + [1] * 20)
    labels[:4] = 1  # within the first twenty a further question is worth asking, but both ends still say 0
    tree = grow(table(values, labels))
    assert isinstance(tree.root, Question)
    assert tree.root == Question(FEATURES[1], 0.5, Leaf((16, 4)), Leaf((0, 20)))
    assert str(tree).splitlines()[0] == "strongest cell for spot: more than 0.5?"
    assert tree.boxes().yes.text == "b\n20 of 20"  # type: ignore[union-attr]


def test_a_tree_comes_back_from_its_plain_form() -> None:
    tree = grow(noisy(classes=3))
    assert Tree.from_dict(tree.as_dict()) == tree


def test_its_standing_by_hand() -> None:
    labels, network = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    found = standing(table(np.zeros((4, 4)), labels, network), np.array([0, 1, 0, 1]))
    assert (found.fidelity.mean, found.accuracy.mean, found.network.mean) == (0.5, 0.75, 0.75)
    assert found.difference.mean == 0
    assert found.balanced.mean == pytest.approx((2 / 3 + 1) / 2)
    assert found.usual == 0.75
    assert found.fidelity.low <= 0.5 <= found.fidelity.high
    assert found.rows()[0][0] == "answers as the network does"


def test_intervals_are_over_groups() -> None:
    """Ten copies of every sample in one group tell no more than the sample alone."""
    rng = np.random.default_rng(0)
    labels, said = rng.integers(0, 2, 30), rng.integers(0, 2, 30)
    one = table(np.zeros((30, 4)), labels)
    many = replace(table(np.zeros((300, 4)), labels.repeat(10)), groups=tuple(np.repeat(one.groups, 10)))
    narrow, wide = standing(one, said).accuracy, standing(many, said.repeat(10)).accuracy
    assert wide.high - wide.low == pytest.approx(narrow.high - narrow.low, abs=0.02)


def test_a_network_that_always_says_the_same_needs_no_question() -> None:
    tree = grow(table(np.random.default_rng(0).normal(size=(20, 4)), np.ones(20, dtype=int)))
    assert tree.root == Leaf((0, 20))
    assert str(tree) == "b (a 0, b 20)"


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(OptionError, match="Choose one of answers, labels"):
        grow(noisy(), learn="truth")  # type: ignore[arg-type]
