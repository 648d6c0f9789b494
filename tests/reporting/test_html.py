"""The page is read back with an HTML parser of its own: what is printed must be what the report holds."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pellucid.errors import ResourceError
from pellucid.record import Interval, SummaryRow
from pellucid.reporting import Report, Shortcut, ShortcutRow, TreeBlock
from pellucid.reporting.html import flat, number, render_report, write_report

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Tables as lists of rows of cell texts, with the machine-readable numbers of each row beside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[list[tuple[str, list[str], list[float]]]] = []  # per row: class, cells, numbers
        self.text = ""
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append((given.get("class") or "", [], []))
        elif tag in ("td", "th"):
            self.tables[-1][-1][1].append("")
        elif tag == "data":
            self.tables[-1][-1][2].append(float(given["value"] or "nan"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][1][-1] += data

    def named(self, *columns: str) -> list[list[tuple[str, list[str], list[float]]]]:
        return [t for t in self.tables if t and all(c in t[0][1] for c in columns)]


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return render_report(report)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_score_on_the_page_is_the_one_in_the_report(report: Report, page: Page) -> None:
    tables = page.named("method", "mean [interval]")
    assert len(tables) == len(report.directions) == 6
    for metric, table in zip(report.directions, tables, strict=True):
        rows = [r for r in report.scores if r.metric == metric]
        shown = [row for row in table[1:] if len(row[1]) == 5]
        assert len(shown) == len(rows)
        for row, (_, cells, numbers) in zip(rows, shown, strict=True):
            i = row.interval
            assert cells[0].removesuffix("control") == row.method
            assert cells[2:] == [str(i.n), str(i.groups), str(row.undefined)]
            if math.isnan(i.mean):
                assert cells[1] == "not defined"
            else:
                assert numbers == [i.mean, i.low, i.high]
                assert cells[1] == f"{number(i.mean)} [{number(i.low)}, {number(i.high)}]"


def test_every_performance_figure_is_the_one_in_the_report(report: Report, page: Page) -> None:
    (table,) = page.named("network", "value [interval]")
    for row, (_, cells, numbers) in zip(report.performance, table[1:], strict=True):
        assert numbers == [row.interval.mean, row.interval.low, row.interval.high]
        assert cells[:2] == [row.model, row.metric]
        assert cells[3:] == [str(row.interval.n), str(row.interval.groups), row.note]


def test_the_shortcut_block_is_the_one_in_the_report(report: Report, page: Page) -> None:
    assert report.shortcut is not None
    assert report.shortcut.verdict in page.text
    (table,) = page.named("ρ", "zone, with marker")
    strong, none = report.shortcut.rows
    assert table[1][2] == [
        v for i in (strong.effect, strong.zone_with, strong.zone_without) if i for v in (i.mean, i.low, i.high)
    ] + [strong.contrast]
    assert table[2][1][4:6] == ["not provided", "not provided"]
    assert none.zone_without is None


def test_comparisons_print_difference_and_p(report: Report, page: Page) -> None:
    (table,) = page.named("first", "second")
    assert [row[1][5:8] for row in table[1:]] == [["< 0.001", "< 0.001", "+0.93"], ["0.213", "0.426", "+0.21"]]
    assert [row[2] for row in table[1:]] == [
        [c.difference.mean, c.difference.low, c.difference.high] for c in report.comparisons
    ]


def test_ledger_rows_add_up_as_printed(report: Report, page: Page) -> None:
    ledgers = page.named("what", "adds")
    assert len(ledgers) == len(report.cases)
    for case, table in zip(report.cases, ledgers, strict=True):
        *rows, total, score = [cells for _, cells, _ in table[1:]]
        assert sum(Decimal(cells[1]) for cells in rows) == Decimal(total[1])
        assert case.ledger is not None
        assert float(score[1]) == pytest.approx(case.ledger["score"], abs=5e-5)
        assert abs(Decimal(total[1]) - Decimal(score[1])) <= len(rows) * Decimal("0.00005")


def test_hostile_names_are_text(report: Report, page: Page) -> None:
    assert report.cases[0].prediction == "<script>alert('exudate')</script>"
    assert report.cases[0].prediction in page.text
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "link", "base", "form")]


@pytest.mark.parametrize("place", ["title", "summary", "settings", "commands", "verdict", "model", "about"])
def test_no_field_can_open_a_tag(report: Report, place: str) -> None:
    bad = "\"><img src=x onerror=alert(1)><b onclick='x'>"
    few = replace(report, scores=report.scores[:2], cases=(), curves={}, performance=())
    row = ShortcutRow(bad, 1.0, Interval(1.0, 0.5, 1.5, 3, 3))
    changes: dict[str, dict[str, object]] = {
        "title": {"title": bad, "subtitle": bad},
        "summary": {"summary": (bad,), "limits": (bad,)},
        "settings": {"settings": {bad: {bad: bad}}, "hashes": {bad: bad}},
        "commands": {"commands": (bad,)},
        "verdict": {"shortcut": Shortcut(bad, (row,), bad)},
        "model": {"scores": (SummaryRow(bad, bad, bad, bad, Interval(0.5, 0.4, 0.6, 3, 3), 0),)},
        "about": {"about": dict.fromkeys(report.directions, bad)},
    }
    page = Page(render_report(replace(few, **changes[place])))  # type: ignore[arg-type]
    assert bad in page.text
    assert not [given for _, given in page.tags if {"onerror", "onclick"} & set(given)]
    assert all((given["src"] or "").startswith("data:") for tag, given in page.tags if tag == "img")


def test_the_page_asks_nothing_of_the_network(text: str, page: Page) -> None:
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    for tag, given in page.tags:
        assert (given.get("href") or "#").startswith("#"), tag
        assert (given.get("src") or "data:").startswith("data:"), tag
    policy = next(given["content"] for tag, given in page.tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_contents_lead_to_sections_that_exist(page: Page) -> None:
    links = {(given["href"] or "")[1:] for tag, given in page.tags if tag == "a"}
    sections = {given["id"] for tag, given in page.tags if tag == "section"}
    assert (
        links
        == sections
        == {"summary", "performance", "explanations", "shortcut", "cases", "settings", "limits", "repeat"}
    )


def test_pictures_have_words_and_headers_a_scope(page: Page) -> None:
    assert all(given.get("alt") for tag, given in page.tags if tag == "img")
    assert all(given.get("scope") for tag, given in page.tags if tag == "th")


def test_controls_are_marked_and_only_clear_winners_are_bold(report: Report, page: Page) -> None:
    tables = page.named("method", "mean [interval]")
    assert all(
        ("control" in row[0]) == row[1][0].endswith("control") for t in tables for row in t[1:] if len(row[1]) == 5
    )
    bold = {
        metric: [row[1][0] for row in t if row[0] == "best"]
        for metric, t in zip(report.directions, tables, strict=True)
    }
    assert bold["pointing_game"] == ["cam", "evidence"]  # one per network
    assert bold["deletion"] == ["cam", "evidence"]  # lower is better here
    assert bold["sparseness"] == []  # no direction is better
    assert bold["completeness_residual"] == []  # the control has no value


@pytest.mark.parametrize(("low", "bold"), [(0.31, True), (0.30, False), (0.2, False)])
def test_bold_needs_an_interval_clear_of_the_control(low: float, bold: bool) -> None:
    rows = (
        SummaryRow("m", "evidence", "pointing_game", "", Interval(0.6, low, 0.8, 9, 9), 0),
        SummaryRow("m", "random_map", "pointing_game", "", Interval(0.2, 0.1, 0.3, 9, 9), 0),
    )
    found = Page(
        render_report(Report("t", scores=rows, controls=frozenset({"random_map"}), directions={"pointing_game": True}))
    )
    assert any(row[0] == "best" for t in found.tables for row in t) is bold


def test_what_is_missing_is_said(text: str) -> None:
    empty = Page(render_report(Report("Nothing yet")))
    assert empty.text.count("not provided") >= 7
    assert "licence" in text
    assert dict(flat({"a": {"b": None, "c": ""}, "d": [], "e": 0, "f": False, "g": [1, 2]})) == {
        "a.b": "not provided", "a.c": "not provided", "d": "not provided", "e": "0", "f": "False", "g": "1, 2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.123"),
        (-2.0, "-2.000"),
        (0.0, "0.000"),
        (3.14e-7, "3.1e-07"),
        (2.5e6, "2.5e+06"),
        (math.nan, "not defined"),
        (math.inf, "not defined"),
        (None, "not provided"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_equal_reports_give_equal_bytes(report: Report, text: str, tmp_path: Path) -> None:
    path = write_report(report, tmp_path / "deep" / "report.html")
    assert path.read_bytes() == text.encode()


def test_twelve_cases_stay_under_three_megabytes(report: Report, text: str) -> None:
    assert len(text) * 2 < 3_000_000  # six cases and all figures, twice


def test_a_page_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        write_report(Report("t"), tmp_path / "file" / "report.html")


def test_importing_the_report_loads_no_torch() -> None:
    code = "import sys, pellucid.reporting, pellucid.reporting.html, pellucid.render; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_a_tree_stands_beside_its_network(report: Report) -> None:
    rows = (("answers as the network does", Interval(0.966, 0.933, 0.992, 119, 117)), ("accuracy of the tree", Interval(0.924, 0.874, 0.966, 119, 117)))  # fmt: skip
    block = TreeBlock(b"<svg/>", "peak: more than 0.1?", rows, 0.681, "5 trees, one per fold.")
    page = Page(render_report(replace(report, tree=block)))
    table = page.named("what", "value [interval]")[0]
    assert [(cells[0], numbers) for _, cells, numbers in table[1:-1]] == [
        (name, [i.mean, i.low, i.high]) for name, i in rows
    ]
    assert [cells[-2:] for _, cells, _ in table[1:-1]] == [["119", "117"]] * 2
    assert table[-1][2][0] == 0.681
    assert "5 trees, one per fold." in page.text
    assert any(given.get("alt") == block.text for tag, given in page.tags if tag == "img")
    without = render_report(report)
    assert "reads the evidence" not in without
