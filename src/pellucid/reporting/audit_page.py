"""An audit as one HTML file that needs nothing else, as PDF where Chromium is present, and as a model card in Markdown."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid import files
from pellucid.reporting.audit import AuditPage, Cell, Figure
from pellucid.reporting.html import BLANK, environment, flat, number, probability

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120  # seconds

# Headings of a model card (Mitchell et al. 2019) and the blocks that answer them.
CARD = (
    ("Model details", (1, 5)),
    ("Intended use", (2,)),
    ("Data", (3,)),
    ("Metrics and quantitative analyses, by subgroup", (4,)),
    ("Explanations", (6,)),
    ("Known failures and caveats", (7,)),
    ("Decisions on record", (8,)),
    ("Changes and monitoring", (9,)),
)


def render_audit(page: AuditPage) -> str:
    """The page as text. Equal pages give equal text."""
    return _html().get_template("audit.html.j2").render(page=page, flat=flat)


def render_model_card(page: AuditPage) -> str:
    """The model card in Markdown."""
    by_number = {block.number: block for block in page.blocks}
    sections = [(heading, [by_number[n] for n in numbers]) for heading, numbers in CARD]
    return _markdown().get_template("model_card.md.j2").render(page=page, sections=sections, flat=flat)


def print_pdf(html: Path, pdf: Path) -> bool:
    """Print a page with Chromium; False where there is none, or it does not come to an end."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return False
    with tempfile.TemporaryDirectory() as profile:
        made = Path(profile) / "page.pdf"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--no-pdf-header-footer", f"--print-to-pdf={made}"]  # fmt: skip
        try:
            subprocess.run(
                [browser, *flags, html.resolve().as_uri()], capture_output=True, timeout=PATIENCE, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return False
        if made.is_file():
            files.write_bytes(pdf, made.read_bytes())
            return True
    return False


def _cell(cell: Cell) -> Markup:
    """A cell of a sheet: words, or a number with its interval, what it rests on, and p-values."""
    from markupsafe import Markup

    if not isinstance(cell, Figure):
        return Markup('<span class="blank">{}</span>').format(BLANK) if cell is None else Markup("{}").format(cell)
    interval, more = cell.interval, Markup("")
    if cell.unit != "counted":
        more = Markup(' <span class="range">[{}, {}]</span>').format(number(interval.low), number(interval.high))
    value = Markup('<data value="{}">{}</data>').format(repr(interval.mean), _counted(cell))
    return value + more + Markup('<br><span class="basis">{}</span>').format(_basis(cell))


def _counted(figure: Figure) -> str:
    """The number alone: a count as one, any other to three decimals."""
    return str(figure) if figure.unit == "counted" else number(figure.interval.mean)


def _basis(figure: Figure) -> str:
    """What a number rests on: samples and patients or trainings, and its p-values."""
    interval = figure.interval
    rests = f"n {interval.n}" + (f", {interval.groups} {figure.unit}" if figure.unit == "patients" else f" {figure.unit}" if figure.unit == "trainings" else "")  # fmt: skip
    if figure.p_value is None or not isfinite(figure.p_value):
        return rests
    adjusted = "" if figure.adjusted is None else f", corrected {probability(figure.adjusted)}"
    return f"{rests}; p {probability(figure.p_value)}{adjusted}"


def _plain(cell: Cell) -> str:
    """A cell in Markdown."""
    if not isinstance(cell, Figure):
        return BLANK if cell is None else str(cell).replace("|", "\\|")
    interval = cell.interval
    range_ = "" if cell.unit == "counted" else f" [{number(interval.low)}, {number(interval.high)}]"
    return f"{_counted(cell)}{range_} ({_basis(cell)})"


@lru_cache(maxsize=1)
def _html() -> Environment:
    made = environment(autoescape=True)
    made.filters["cell"] = _cell
    return made


@lru_cache(maxsize=1)
def _markdown() -> Environment:
    made = environment(autoescape=False)
    made.filters["cell"] = _plain
    return made
