from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from pellucid.errors import BadInput
from pellucid.explanation import Explanation
from pellucid.render.card import SHOWN, card
from pellucid.render.overlay import overlay, scale
from pellucid.render.picture import data_uri, jpeg, png

Make = Callable[..., Explanation]


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_a_card_shows_overlay_words_and_ledger(make: Make) -> None:
    explanation = make(torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)), (32, 32))
    page = Tags(card(explanation))
    assert page.tags.count("img") == page.tags.count("table") == 2
    for one in explanation:
        assert one.text() in page.text
        assert f"{float(one.score[0]):+.4f}" in page.text
    assert explanation._repr_html_() == card(explanation)


def test_pictures_of_a_card_share_a_scale(make: Make) -> None:
    explanation = make(torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 5.0)]), (32, 32))
    found = re.findall(r"data:image/png;base64,([^\"]+)", card(explanation))
    expected = [overlay(one, limit=scale([explanation]), width=256) for one in explanation]
    assert [Image.open(io.BytesIO(base64.b64decode(f))).tobytes() for f in found] == [e.tobytes() for e in expected]


def test_at_most_eight_are_shown_and_the_rest_counted(make: Make) -> None:
    page = Tags(card(make(torch.ones(SHOWN + 3, 2, 2), (16, 16))))
    assert page.tags.count("img") == SHOWN
    assert "3 more" in page.text


def test_hostile_names_are_text(make: Make) -> None:
    page = Tags(card(make(torch.ones(1, 2, 2), (16, 16), classes=("a", "<script>alert(1)</script>\"'"))))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_maps_that_do_not_add_up_have_no_ledger(make: Make) -> None:
    assert "table" not in Tags(card(make(torch.ones(1, 2, 2), (16, 16), method="saliency", complete=False))).tags


def test_data_uris_tell_their_kind() -> None:
    image = Image.new("RGB", (4, 4), (200, 100, 0))
    assert data_uri(png(image)).startswith("data:image/png;base64,")
    assert data_uri(jpeg(image)).startswith("data:image/jpeg;base64,")
    with pytest.raises(BadInput, match="no known kind"):
        data_uri(b"<script>")
