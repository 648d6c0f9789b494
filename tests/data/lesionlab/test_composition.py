"""Rules, grades and label noise: which lesions an image has, and what they make of its label."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pellucid.data.lesionlab import KINDS, LESION_TYPES, Knobs, LesionLab
from pellucid.data.lesionlab.composition import GRADES, label, roster

every_kind = pytest.mark.parametrize("kind", KINDS)


def of(*types: str, places: list[tuple[float, float]] | None = None) -> list[Any]:
    at = places or [(100.0, 100.0)] * len(types)
    return [SimpleNamespace(kind=kind, centre=centre) for kind, centre in zip(types, at, strict=True)]


@pytest.mark.parametrize(
    ("rule", "lesions", "wanted"),
    [
        ("or", "", 0), ("or", "a", 1), ("or", "b", 1), ("or", "aab", 1), ("count", "ab", 0), ("count", "aab", 1), ("count", "", 0),
        ("conjunction", "a", 0), ("conjunction", "bb", 0), ("conjunction", "ab", 1), ("conjunction", "", 0),
        ("xor", "aa", 1), ("xor", "b", 1), ("xor", "ab", 0), ("xor", "", 0),
    ],
)  # fmt: skip
def test_the_rules(rule: str, lesions: str, wanted: int) -> None:
    assert label("xray", Knobs(rule=rule, types=("a", "b")), "binary", of(*lesions)) == wanted


@every_kind
@pytest.mark.parametrize("rule", ["or", "count", "conjunction", "xor"])
def test_images_have_the_label_that_was_drawn_and_fit_the_rule(kind: str, rule: str) -> None:
    types = LESION_TYPES[kind][:2] if rule in ("conjunction", "xor") else None
    data = LesionLab(kind, n_images=40, size=64, knobs={"rule": rule, "types": types, "distractors": 0.0})
    seen = set()
    for i in range(40):
        recipe, lesions = data.recipe(i), data.recipe(i).scene().lesions
        assert label(kind, data.knobs, "binary", lesions) == int(recipe.ill)
        seen.add((recipe.ill, *sorted({lesion.kind for lesion in lesions})))
    if types:
        a, b = sorted(types)
        some = {(True, a, b)} if rule == "conjunction" else {(True, a), (True, b)}
        none = {(False, a), (False, b)} if rule == "conjunction" else {(False, a, b)}
        assert seen == {*some, *none, (False,)}


def test_counterfactuals_are_labelled_by_the_rule() -> None:
    data = LesionLab(
        n_images=30, size=64, knobs={"rule": "xor", "types": ("haemorrhage", "hard_exudate"), "lesions": (2, 2)}
    )
    both = next(s for s in (data[i] for i in range(30)) if len(s.meta["lesions"]) == 2 and s.label == 0)
    assert [both.alternatives[f"only lesion:{k}"]().label for k in (0, 1)] == [1, 1]
    assert both.alternatives["without lesions"]().label == 0


@every_kind
def test_grades_occur_equally_often_and_are_what_the_lesions_mean(kind: str) -> None:
    data = LesionLab(kind, n_images=90, size=64, labels="graded", knobs={"distractors": 0.0, "prevalence": 0.8})
    assert data.classes == GRADES[kind]
    given = []
    for i in range(90):
        lesions = data.recipe(i).scene().lesions
        given.append(data.facts(i).label)
        assert label(kind, data.knobs, "graded", lesions) == given[-1]
    counts = np.bincount(given, minlength=len(data.classes))
    assert (counts > 0).all()
    share = 0.8 / (len(data.classes) - 1)
    assert np.abs(counts[1:] / 90 - share).max() < 4 * np.sqrt(share * (1 - share) / 90)


def test_the_grades_of_an_eye_follow_the_4_2_1_rule() -> None:
    corners = [(100.0, 100.0), (400.0, 100.0), (100.0, 400.0), (400.0, 400.0)]
    bleeding = of("haemorrhage", "flame_haemorrhage", "haemorrhage", "haemorrhage", places=corners)
    cotton = of("cotton_wool", "cotton_wool", places=corners[:2])

    def grade(lesions: list[Any]) -> int:
        return label("fundus", Knobs(), "graded", lesions)

    assert grade([]) == 0
    assert grade(of("microaneurysm", "microaneurysm")) == 1
    assert grade(of("microaneurysm", "hard_exudate")) == 2
    assert grade(bleeding) == grade(cotton) == 3
    assert grade(bleeding + cotton) == 4
    assert all(grade(list(three)) == 2 for three in combinations(bleeding, 3))
    assert grade(of("cotton_wool", "cotton_wool")) == 2  # both in one quarter


def test_there_is_one_effusion_and_one_pneumothorax_per_side_as_long_as_other_lesions_occur() -> None:
    data = LesionLab("xray", n_images=30, size=64, knobs={"lesions": (6, 9), "prevalence": 1.0, "distractors": 0.0})
    for i in range(30):
        lesions = data.recipe(i).scene().lesions
        for name in ("effusion", "pneumothorax"):
            sides = [lesion.centre[0] > 256 for lesion in lesions if lesion.kind == name]
            assert len(sides) == len(set(sides))
    alone = LesionLab("xray", n_images=1, size=64, knobs={"lesions": 5, "prevalence": 1.0, "types": "effusion"})
    assert len(alone.recipe(0).scene().lesions) == 5


def test_a_druse_beside_fluid_is_no_longer_drusen() -> None:
    def grade(*types: str) -> str:
        return GRADES["oct"][label("oct", Knobs(), "graded", of(*types))]

    assert grade("druse", "druse") == "drusen"
    assert grade("cyst", "druse") == "DME-like"
    assert grade("subretinal_fluid") == "DME-like"
    assert grade("druse", "pigment_epithelium_detachment", "cyst") == "CNV-like"


def test_under_or_the_lesions_do_not_depend_on_the_label() -> None:
    knobs = Knobs(lesions=(1, 20))
    assert all(roster(i, "oct", knobs, "binary", True) == roster(i, "oct", knobs, "binary", False) for i in range(20))


@every_kind
@pytest.mark.parametrize("labels", ["binary", "graded"])
def test_label_noise_gives_a_wrong_label_as_often_as_asked_and_changes_no_picture(kind: str, labels: str) -> None:
    n = 1500
    clean, noisy = (
        LesionLab(kind, n_images=n, size=64, labels=labels, knobs={"label_noise": noise}) for noise in (0.0, 0.2)
    )
    wrong = np.array([clean.facts(i).label != noisy.facts(i).label for i in range(n)])
    assert wrong.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / n))
    i = int(np.flatnonzero(wrong)[0])
    a, b = clean[i], noisy[i]
    assert b.meta["true_label"] == a.label != b.label
    assert (a.input == b.input).all()
    assert replace(noisy.recipe(i), wrong=0)().label == a.label
