"""Which lesions an image has, and what they make of its label.

The label is drawn first, then lesions that the rule gives this label: how often a label occurs is a knob, and where
lesions lie does not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Protocol

import numpy as np

from pellucid.data.lesionlab.frame import FRAME
from pellucid.data.lesionlab.knobs import Knobs
from pellucid.data.lesionlab.streams import stream

LABELS = ("binary", "graded")
BINARY = ("healthy", "lesion")
GRADES = {
    "fundus": ("no lesions", "mild", "moderate", "severe", "very severe"),
    "oct": ("normal", "drusen", "DME-like", "CNV-like"),
    "xray": ("healthy", "consolidation", "nodule", "effusion", "pneumothorax"),
}
MOST = {"effusion": 2, "pneumothorax": 2}  # lesions of a type in one image: one per side


class Placed(Protocol):
    """What a label is made of: types and places."""

    @property
    def kind(self) -> str: ...

    @property
    def centre(self) -> tuple[float, float]: ...


# Lesions of an image: a type where the image prescribes one, else None (each lesion draws its own).
Roster = tuple[str | None, ...]


def chosen(names: Sequence[str], number: int, placed: Sequence[Placed]) -> str:
    """The type of this number, or the next one of which there can be more; that type all the same where there is none."""
    kinds, turned = [lesion.kind for lesion in placed], (*names[number:], *names[:number])
    return next((name for name in turned if kinds.count(name) < MOST.get(name, inf)), turned[0])


def has_lesions(knobs: Knobs, ill: bool) -> bool:
    """Whether the image has its lesions: those labelled 0 have none under the rule "or", some under other rules."""
    return ill or knobs.rule != "or"


def roster(image: int, kind: str, knobs: Knobs, labels: str, ill: bool) -> Roster:
    """The lesions of the image with this root of chance. Under the rule "or" they do not depend on the label."""
    few, many = knobs.lesions
    generator = stream(image, "lesion count")
    if labels == "graded":
        return _graded(image, kind, int(generator.integers(few, many + 1)))
    if knobs.rule == "or":
        return (None,) * int(generator.integers(few, many + 1))
    if knobs.rule == "count":
        low, high = (knobs.threshold, many) if ill else (0, knobs.threshold - 1)
        return (None,) * int(generator.integers(low, high + 1))
    return _of_two(stream(image, "rule"), knobs, int(generator.integers(few, many + 1)), ill)


def _of_two(generator: np.random.Generator, knobs: Knobs, count: int, ill: bool) -> Roster:
    """Lesions of both types, of one alone, or none, such that the rule gives the label."""
    first, second = knobs.types or ()
    both, alone, none = (first, second), ((first,), (second,)), ()
    if knobs.rule == "conjunction":
        choices: tuple[tuple[str, ...], ...] = (both,) if ill else (*alone, none)
    else:
        choices = alone if ill else (both, none)
    chosen = choices[int(generator.integers(len(choices)))]
    more = generator.integers(len(chosen), size=max(count - len(chosen), 0)) if chosen else ()
    return (*chosen, *(chosen[int(i)] for i in more))


def grade(image: int, kind: str) -> int:
    """The grade of the image with this root of chance if it has lesions: from 1 on, all equally often."""
    return int(stream(image, "grade").integers(1, len(GRADES[kind])))


def _graded(image: int, kind: str, count: int) -> Roster:
    first, more = _FAMILIES[kind][grade(image, kind) - 1]
    count = min(count, MOST.get(first[0], count))
    free = stream(image, "free lesions").integers(len(more), size=max(count - len(first), 0))
    return (*first, *(more[int(i)] for i in free))


_BLED, _ISCHAEMIC = ("haemorrhage",) * 3 + ("flame_haemorrhage",), ("cotton_wool",) * 2
# Per grade from 1 on: the lesions that make it, and what may come on top without changing it.
_FAMILIES: Mapping[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "fundus": (
        (("microaneurysm",), ("microaneurysm",)),
        (("hard_exudate",), ("microaneurysm", "hard_exudate")),
        (_BLED, ("microaneurysm", "hard_exudate", "haemorrhage", "flame_haemorrhage")),
        (_BLED + _ISCHAEMIC, ("microaneurysm", "hard_exudate", "haemorrhage", "cotton_wool")),
    ),
    "oct": (
        (("druse",), ("druse",)),
        (("cyst",), ("cyst", "subretinal_fluid")),
        (("pigment_epithelium_detachment",), ("subretinal_fluid", "cyst", "druse")),
    ),
    "xray": tuple(((name,), (name,)) for name in GRADES["xray"][1:]),
}


def label(kind: str, knobs: Knobs, labels: str, lesions: Sequence[Placed]) -> int:
    """What these lesions mean."""
    types = [lesion.kind for lesion in lesions]
    if labels == "graded":
        return _GRADERS[kind](lesions) if types else 0
    if knobs.rule == "or":
        return int(bool(types))
    if knobs.rule == "count":
        return int(len(types) >= knobs.threshold)
    present = [name in types for name in knobs.types or ()]
    return int(all(present) if knobs.rule == "conjunction" else sum(present) == 1)


def quadrant(x: float, y: float) -> int:
    """The quarter of the frame, 0 to 3."""
    return int(x > FRAME / 2) + 2 * int(y > FRAME / 2)


def _grade_of_eye(lesions: Sequence[Placed]) -> int:
    """After the 4-2-1 rule: haemorrhages in 4 quadrants or cotton-wool spots in 2 make grade 3, both make grade 4."""
    where: dict[str, set[int]] = {"haemorrhage": set(), "cotton_wool": set()}
    for lesion in lesions:
        name = "haemorrhage" if lesion.kind.endswith("haemorrhage") else lesion.kind
        where.setdefault(name, set()).add(quadrant(*lesion.centre))
    severe = (len(where["haemorrhage"]) == 4) + (len(where["cotton_wool"]) >= 2)
    return 2 + severe if severe else 1 + any(lesion.kind != "microaneurysm" for lesion in lesions)


def _grade_of_retina(lesions: Sequence[Placed]) -> int:
    types = {lesion.kind for lesion in lesions}
    if "pigment_epithelium_detachment" in types:
        return 3
    return 2 if types & {"cyst", "subretinal_fluid"} else 1


def _grade_of_chest(lesions: Sequence[Placed]) -> int:
    """The most frequent type."""
    types = [lesion.kind for lesion in lesions]
    return max(range(1, 5), key=lambda grade: types.count(GRADES["xray"][grade]))


_GRADERS = {"fundus": _grade_of_eye, "oct": _grade_of_retina, "xray": _grade_of_chest}


def distractors(image: int, knobs: Knobs) -> int:
    """How many distractors the image has, whatever its label."""
    return min(int(stream(image, "distractor count").poisson(knobs.distractors)), 40)


def decoys(image: int, knobs: Knobs) -> int:
    """How many decoys the image has beside its distractors, whatever its label."""
    few, many = knobs.lesions
    return 0 if knobs.cue == "natural" else int(stream(image, "decoy count").integers(few, many + 1))


def mislabelled(image: int, knobs: Knobs, labels: str, kind: str) -> int:
    """How far the label given is from the right one, modulo the number of classes: 0 but for label noise."""
    generator = stream(image, "label noise")
    wrong, classes = bool(generator.random() < knobs.label_noise), len(classes_of(kind, labels))
    return int(generator.integers(1, classes)) if wrong else 0


def classes_of(kind: str, labels: str) -> tuple[str, ...]:
    """The names of the labels."""
    return GRADES[kind] if labels == "graded" else BINARY
