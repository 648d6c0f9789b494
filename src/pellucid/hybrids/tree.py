"""A shallow decision tree over descriptors of evidence: how far a few readable questions answer as the network does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from pellucid.errors import OptionError
from pellucid.hybrids.descriptors import WHOLE, Descriptors, Feature
from pellucid.performance import balanced_accuracy
from pellucid.record import Interval, bootstrap, mean_interval
from pellucid.render.decision_tree import Box

Array = NDArray[Any]
Lesson = Literal["answers", "labels"]
LESSONS: tuple[Lesson, ...] = ("answers", "labels")
FEWEST = 5  # samples that a leaf has to hold, so that no question is asked for one of them


@dataclass(frozen=True)
class Leaf:
    """An answer. counts: the samples that ended here, by class."""

    counts: tuple[int, ...]

    @property
    def answer(self) -> int:
        return int(np.argmax(self.counts))


@dataclass(frozen=True)
class Question:
    """Is the feature larger than the threshold?"""

    feature: Feature
    threshold: float
    no: Question | Leaf
    yes: Question | Leaf


@dataclass(frozen=True)
class Tree:
    """Questions to a row of descriptors. learned: what it was fitted to: the network's answers, or the labels. n: samples."""

    root: Question | Leaf
    classes: tuple[str, ...]
    learned: Lesson
    n: int

    def answers(self, descriptors: Descriptors) -> Int[np.ndarray, "samples"]:
        """The tree's answer to every row."""
        column = {feature: k for k, feature in enumerate(descriptors.features)}

        def follow(row: Array) -> int:
            node = self.root
            while isinstance(node, Question):
                node = node.yes if row[column[node.feature]] > node.threshold else node.no
            return node.answer

        return np.array([follow(row) for row in descriptors.values], dtype=int)

    def as_dict(self) -> dict[str, Any]:
        return {"classes": list(self.classes), "learned": self.learned, "n": self.n, "root": _plain(self.root)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Tree:
        return cls(_read(value["root"]), tuple(value["classes"]), value["learned"], value["n"])

    def boxes(self) -> Box:
        """As it is drawn."""
        return _box(self.root, self.classes)

    def __str__(self) -> str:
        return "\n".join(_lines(self.root, self.classes, ""))


def grow(descriptors: Descriptors, *, depth: int = 3, learn: Lesson = "answers", seed: int = 0) -> Tree:
    """A tree of at most `depth` questions to an answer, fitted by scikit-learn.

    learn: "answers" copies the network, "labels" learns the task from the network's evidence. The plain sum of all cells
    is not asked for: with the constant it is the network's own score, and would answer everything in one question.

    Where all samples have one class, the tree is that answer. Raises `OptionError` for an unknown lesson.
    """
    from sklearn.tree import DecisionTreeClassifier

    wanted = descriptors.answers if check_lesson(learn) == "answers" else descriptors.labels
    asked = [k for k, f in enumerate(descriptors.features) if (f.quantity, f.where) != ("sum", WHOLE)]
    fitted = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=FEWEST, random_state=seed)
    fitted.fit(descriptors.values[:, asked], wanted)
    features = [descriptors.features[k] for k in asked]
    root = _node(fitted, 0, features, len(descriptors.classes))
    return Tree(root, descriptors.classes, learn, len(wanted))


def check_lesson(learn: str) -> Lesson:
    """What a tree is fitted to. Raises `OptionError` for anything else."""
    found = next((lesson for lesson in LESSONS if lesson == learn), None)
    if found is None:
        raise OptionError(f"A tree cannot learn '{learn}'.", hint=f"Choose one of {', '.join(LESSONS)}.")
    return found


def _node(fitted: Any, at: int, features: Sequence[Feature], classes: int) -> Question | Leaf:
    """The tree as scikit-learn holds it, from one of its nodes on; questions that change no answer are left out."""
    inner = fitted.tree_
    if inner.children_left[at] < 0:
        counts = np.zeros(classes, dtype=int)
        counts[fitted.classes_] = np.rint(inner.value[at, 0] * inner.n_node_samples[at]).astype(int)
        return Leaf(tuple(counts.tolist()))
    no = _node(fitted, inner.children_left[at], features, classes)
    yes = _node(fitted, inner.children_right[at], features, classes)
    if isinstance(no, Leaf) and isinstance(yes, Leaf) and no.answer == yes.answer:
        return Leaf(tuple(a + b for a, b in zip(no.counts, yes.counts, strict=True)))
    return Question(features[inner.feature[at]], float(inner.threshold[at]), no, yes)


# --- how good it is -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """A tree beside its network, on samples that neither learned from; intervals over groups.

    fidelity: the share of samples that both answer alike. difference: accuracy of the tree minus that of the network.
    usual: the share of the most frequent class, which needs neither.
    """

    fidelity: Interval
    accuracy: Interval
    network: Interval
    difference: Interval
    balanced: Interval
    network_balanced: Interval
    usual: float

    def rows(self) -> tuple[tuple[str, Interval], ...]:
        """Every figure with what it is."""
        return (
            ("answers as the network does", self.fidelity), ("accuracy of the tree", self.accuracy), ("accuracy of the network", self.network),
            ("difference, tree minus network", self.difference), ("balanced accuracy of the tree", self.balanced),
            ("balanced accuracy of the network", self.network_balanced),
        )  # fmt: skip


def standing(descriptors: Descriptors, answers: Array, *, seed: int = 0) -> Standing:
    """How the tree's answers stand beside the network's and the truth."""
    labels, network, groups = descriptors.labels, descriptors.answers, descriptors.groups

    def share(right: Array) -> Interval:
        return mean_interval(right.astype(float).tolist(), groups, seed=seed)

    def balanced(said: Array) -> Interval:
        return bootstrap(lambda rows: balanced_accuracy(said[rows], labels[rows]), groups, seed=seed)

    return Standing(
        share(answers == network), share(answers == labels), share(network == labels),
        share((answers == labels).astype(float) - (network == labels)), balanced(answers), balanced(network),
        float(np.bincount(labels).max() / len(labels)),
    )  # fmt: skip


# --- how it is shown --------------------------------------------------------------------------------------------------------------


def _lines(node: Question | Leaf, classes: Sequence[str], indent: str) -> Iterator[str]:
    if isinstance(node, Leaf):
        yield f"{indent}{classes[node.answer]} ({', '.join(f'{c} {n}' for c, n in zip(classes, node.counts, strict=True))})"
        return
    yield f"{indent}{node.feature.words()}: more than {node.threshold:.3g}?"
    for word, branch in (("yes", node.yes), ("no", node.no)):
        yield f"{indent}  {word}:"
        yield from _lines(branch, classes, f"{indent}    ")


def _box(node: Question | Leaf, classes: Sequence[str]) -> Box:
    if isinstance(node, Leaf):
        return Box(f"{classes[node.answer]}\n{node.counts[node.answer]} of {sum(node.counts)}", kind=node.answer)
    question = f"{node.feature.words()}\nmore than {node.threshold:.3g}?"
    return Box(question, no=_box(node.no, classes), yes=_box(node.yes, classes))


def _plain(node: Question | Leaf) -> dict[str, Any]:
    if isinstance(node, Leaf):
        return {"answer": node.answer, "counts": list(node.counts)}
    f = node.feature
    return {
        "feature": {"of": f.of, "quantity": f.quantity, "where": f.where}, "threshold": node.threshold,
        "no": _plain(node.no), "yes": _plain(node.yes),
    }  # fmt: skip


def _read(value: Mapping[str, Any]) -> Question | Leaf:
    if "answer" in value:
        return Leaf(tuple(value["counts"]))
    return Question(Feature(**value["feature"]), value["threshold"], _read(value["no"]), _read(value["yes"]))
