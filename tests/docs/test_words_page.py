"""The page on words quotes texts of two kept explanations, which hold every number in them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import pellucid as pl
from pellucid.render.words import AUDIENCES, LANGUAGES
from render.words.kit import held, unheld

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "words.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^> (.*)$", PAGE, flags=re.M)
FORMS = [(audience, language) for language in LANGUAGES for audience in AUDIENCES]


def kept(name: str) -> pl.Explanation:
    return pl.Explanation.load(Path(__file__).parent / "explained" / name)


def test_all_forms_are_quoted_word_for_word() -> None:
    lesion, chance = kept("lesion"), kept("chance")
    texts = {lesion.text(*form) for form in FORMS}
    assert len(texts) == 6
    assert texts <= set(QUOTED)
    assert set(QUOTED) - texts == {chance.text("professional", language) for language in LANGUAGES}


@pytest.mark.parametrize("name", ["lesion", "chance"])
def test_every_number_is_in_the_explanation(name: str) -> None:
    e = kept(name)
    known = [value for value in held(e) if not math.isnan(value)]
    for form in FORMS:
        assert not unheld(e.text(*form), known, e.classes or ()), form
