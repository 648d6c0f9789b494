"""The page of an audit, its model card and its print: every figure with what it rests on, nothing made up, nothing loaded."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from pellucid.record import Interval
from pellucid.reporting import audit_page
from pellucid.reporting.audit import AuditPage, Block, Figure, LimitLine, Sheet
from pellucid.reporting.audit_page import BROWSERS, print_pdf, render_audit, render_model_card
from pellucid.reporting.report import Picture

FIGURE = Figure("performance.auc", Interval(0.91234, 0.85, 0.96, 120, 80), "patients", 0.0004, 0.012)
COUNT = Figure("data.same_inputs", Interval(3, 3, 3, 120, 80), "counted")


def page(**changed: object) -> AuditPage:
    sheet = Sheet(
        "Scores",
        ("score", "value", "more"),
        (("AUC <b>", FIGURE, None), ("a|b", COUNT, "words")),
        "pellucid audit runs/x",
    )
    blocks = tuple(
        Block(k, f"Block {k}", "Article 13" if k == 4 else "", {"use": None, "size": 3}, ("A sentence.",), (sheet,) if k == 4 else ())
        for k in range(1, 10)
    )  # fmt: skip
    made = {
        "title": "Audit <script>", "made": "2026-11-21T10:00:00+00:00", "summary": ("First.",), "blocks": blocks, "limits": (),
        "judged_by": "interval", "regulations": [{"name": "Rule", "asks": "a", "state": "In force since 2024.", "basis": "secondary source"}],
        "checked": "21 November 2026", "commands": ("pellucid audit runs/x",), **changed,
    }  # fmt: skip
    return AuditPage(**made)  # type: ignore[arg-type]


class Tags(HTMLParser):
    """Open tags, to be closed in their order; and everything that would be loaded."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing() -> None:
    picture = Picture("a label", b"\xff\xd8\xff\xe0jpeg", "what it shows")
    blocks = page().blocks
    shown = Block(7, "Failures", "", pictures=((picture,),))
    html = render_audit(page(blocks=(*blocks[:6], shown, *blocks[7:])))
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert all(address.startswith(("#", "data:")) for address in tags.loaded)
    assert 'alt="what it shows"' in html
    assert "<script" not in html


def test_a_figure_says_what_it_rests_on() -> None:
    html = render_audit(page())
    cell = re.search(r"<td>(<data value=\"0.91234\">.*?)</td>", html)
    assert cell is not None
    text = re.sub(r"<[^>]*>", " ", cell[1])
    words = " ".join(text.split())
    assert words.startswith("0.912 [0.850, 0.960] n 120, 80 patients; p ")
    assert words.endswith("corrected 0.012")
    assert "Repeat: <code>pellucid audit runs/x</code>" in html
    assert "AUC &lt;b&gt;" in html


def test_blank_is_not_provided_in_both() -> None:
    assert render_audit(page()).count("not provided") == 9 + 1 + 1  # facts, the cell, the limits
    assert render_model_card(page()).count("not provided") == 9 + 1
    assert "Not provided." in render_model_card(page())


def test_limits_are_listed_with_their_lines() -> None:
    limits = (
        LimitLine("performance.auc", "at least 0.8", True, "Measured 0.9.", 4),
        LimitLine("data.pairs", "at most 0", False, "Measured 3.", 5),
    )
    html = render_audit(page(limits=limits))
    assert "1 of 2 limits are not met." in html
    assert len(re.findall(r'class="failed"', html)) == 1
    assert [line.key for line in page(limits=limits).failed] == ["data.pairs"]
    assert "| `data.pairs` | at most 0 | not met | Measured 3. |" in render_model_card(page(limits=limits))


def test_the_card_is_markdown_whose_tables_are_whole() -> None:
    card = render_model_card(page())
    assert card.startswith("# Audit <script>: model card\n")
    assert [line for line in card.splitlines() if line.startswith("## ")][:2] == ["## Model details", "## Intended use"]
    assert "a\\|b" in card
    lines = card.splitlines()
    heads = [k for k, line in enumerate(lines) if line.startswith("| ---")]
    assert all(lines[k - 2] == "" for k in heads)  # else a table would belong to the list before it
    rows = [line.replace("\\|", "") for line in card.splitlines() if line.startswith("|")]
    for above, below in pairwise(rows):
        if set(below) <= set("|- "):
            assert above.count("|") == below.count("|")
    assert "0.912 [0.850, 0.960] (n 120, 80 patients" in card


def test_as_dict_holds_every_figure_once_by_its_key() -> None:
    told = page().as_dict()
    assert set(told["figures"]) == {"performance.auc", "data.same_inputs"}
    assert told["figures"]["performance.auc"] == {
        "mean": 0.91234, "low": 0.85, "high": 0.96, "n": 120, "groups": 80, "unit": "patients", "p_value": 0.0004, "adjusted": 0.012, "sized": False,
        "command": "pellucid audit runs/x",
    }  # fmt: skip
    assert len(told["blocks"]) == 9
    assert told["blocks"][3]["sheets"][0]["rows"][0][1]["figure"] == "performance.auc"


def test_equal_pages_are_equal_text() -> None:
    assert render_audit(page()) == render_audit(page())


def test_no_browser_no_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_page.shutil, "which", lambda name: None)
    assert not print_pdf(tmp_path / "a.html", tmp_path / "a.pdf")
    monkeypatch.setattr(audit_page.shutil, "which", lambda name: "/bin/false")
    assert not print_pdf(tmp_path / "a.html", tmp_path / "a.pdf")
    assert not (tmp_path / "a.pdf").exists()


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="Chromium is not here")
def test_chromium_prints_it(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(render_audit(page()))
    assert print_pdf(tmp_path / "a.html", tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF-")
