"""Every language has the same sentences, says targets as they describe themselves, and writes numbers in its own way."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch

import pellucid as pl
from pellucid.chance import SURROGATES
from pellucid.render.words.language import LANGUAGES, words
from pellucid.spatial import place_name
from pellucid.targets import Target


def entries(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in entries(inner, f"{path}.{key}").items()}
    return {path: value}


def fields(sentence: str) -> set[str]:
    return set(re.findall(r"\{(\w+)", sentence))


def test_all_languages_have_the_same_sentences_with_the_same_values() -> None:
    first, *others = (
        {k: v for k, v in entries(words(name).entries).items() if not k.startswith(".places")} for name in LANGUAGES
    )
    for other in others:
        assert first.keys() == other.keys()
        assert {k: fields(v) for k, v in first.items()} == {k: fields(v) for k, v in other.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_place_has_a_name(language: str) -> None:
    known = words(language)
    for rank in (1, 2, 3):
        for at in itertools.product((0, 4, 8), repeat=rank):
            name = place_name(at, (9,) * rank)
            for part in name.split(", "):
                assert not known.entries["places"] or part in known.entries["places"]
    for kind in (*SURROGATES, "reference"):
        assert known.say(f"chance.{kind}")


def test_places_in_german() -> None:
    german = words("de")
    assert [german.place(place_name((at,), (9,))) for at in (0, 4, 8)] == ["am Anfang", "in der Mitte", "am Ende"]
    assert german.place(place_name((0, 8), (9, 9))) == "oben rechts"
    assert german.place(place_name((8, 4, 0), (9, 9, 9))) == "letzte Schichten, links"
    assert words("en").place("first slices, upper left") == "first slices, upper left"


TARGETS: list[Target] = [
    pl.ClassTarget(torch.tensor([1])), pl.ClassTarget(), pl.ClassTarget(2), pl.ContrastTarget(0, torch.tensor([1])), pl.OneVsRestTarget(torch.tensor([0])),
    pl.SingleLogitTarget(torch.tensor([False])), pl.SingleLogitTarget(True), pl.SingleLogitTarget(), pl.RegressionTarget(1),
    pl.RegionTarget(torch.ones(1, 4, 4, dtype=torch.bool), 1), pl.BoxTarget(torch.zeros(1, 4), 0), pl.SimilarityTarget(torch.zeros(1, 3)),
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("classes", [None, ("a", "b")])
def test_english_says_targets_as_they_describe_themselves(target: Target, classes: Any) -> None:
    assert words("en").target(target, classes) == target.describe(classes, 0)


def test_german_says_targets_in_german() -> None:
    german = words("de")
    assert german.target(pl.ContrastTarget(0, 1), ("Drusen", "gesund")) == "Drusen gegen gesund"
    assert german.target(pl.OneVsRestTarget(torch.tensor([4])), None) == "Klasse 4 gegen alle übrigen"
    assert german.target(pl.SingleLogitTarget(torch.tensor([False])), None) == "nicht positiv"


def test_numbers_are_written_in_the_language() -> None:
    english, german = words("en"), words("de")
    assert english.say("technical.place", place="upper left", value=-1.5) == "upper left (-1.50)"
    assert (
        german.say("technical.place", place="v1.2 beta", value=-1.5) == "v1.2 beta (-1,50)"
    )  # names keep their points
    assert german.probability(0.25, ".0%") == "25\u00a0%"
    assert german.probability(1 - 1e-5, ".2f") == "mehr als 0,99"
    assert english.probability(1.0, ".2f") == "1.00"  # what is certain may be called so
    assert english.probability(1e-5, ".0%") == "less than 1%"
