"""One decision on one page of A4: the input, the evidence over it, the words, the sum, and how it was made."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.render import ledger, overlay
from pellucid.render.figure import FAINT, INK, RULE, paper, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from pellucid.explanation import Explanation

WIDTH, HEIGHT = 8.27, 11.69  # A4, inches
MARGIN = 0.75
_INNER = WIDTH - 2 * MARGIN
_PICTURES = 3.1  # height of the pictures, inches
_LETTERS = 0.0073  # average width of a letter per point, inches
REGIONS, ANSWERS = 5, 5
NOTE = "Not a medical device. For research only: not for diagnosis, treatment or any other decision about a person."


def case_page(
    e: Explanation,
    image: Any = None,
    *,
    name: str,
    answers: Mapping[str, float] | None = None,
    calibrated: Mapping[str, float] | None = None,
    facts: Mapping[str, str] | None = None,
) -> bytes:
    """A PDF of one page on one decision; equal arguments give equal bytes.

    image: what the network saw, as `overlay` takes it. name: of the case. answers: class -> probability; the most likely
    are listed. calibrated: the same after calibration. facts: what else there is to say of how it was made. Raises
    `OptionError` for more than one input.
    """
    drawn = overlay.overlay(e, image, width=overlay.usual_width(e, 2.0), title="")
    with paper(WIDTH, HEIGHT) as (figure, out):
        page = _Page(figure)
        page.line(f"Evidence for {e.target.describe(e.classes)}", size=17, bold=True)
        page.line(name, colour=FAINT)
        page.space(0.12)
        page.pictures(_side_by_side(e, image, drawn))
        page.heading("In words")
        page.paragraph(e.text("professional"))
        if answers:
            page.heading("The network's answer")
            page.table([(who, _percent(share), _calibrated(who, calibrated)) for who, share in _first(answers)])
        if e.complete:
            page.heading("What adds up to the score")
            page.table(_sum(e))
        page.heading("How it was made")
        page.paragraph(
            " · ".join(f"{k}: {v}" for k, v in {**_made(e), **(facts or {})}.items()), size=7.5, colour=FAINT
        )
        page.footer(NOTE)
    return out.getvalue()


def _side_by_side(e: Explanation, image: Any, drawn: Image) -> list[Image]:
    """The input and the overlay; of a signal the overlay alone, which shows it."""
    if len(e.geometry.input_size) != 2:
        return [drawn]
    return [overlay.plain(e, image, width=overlay.usual_width(e, 2.0)), drawn]


def _first(answers: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(answers.items(), key=lambda item: -item[1])[:ANSWERS]


def _percent(share: float) -> str:
    """No answer is printed as certain."""
    if 0.0005 <= share < 0.9995:
        return f"{100 * share:.1f} %"
    return "> 99.9 %" if share > 0.5 else "< 0.1 %"


def _calibrated(who: str, calibrated: Mapping[str, float] | None) -> str:
    return "" if calibrated is None else f"calibrated {_percent(calibrated[who])}"


def _sum(e: Explanation) -> list[tuple[str, str, str]]:
    found = ledger.printed(e.ledger(REGIONS).as_dict())
    rows = [(row.what, row.value, row.where) for row in found.rows]
    return [*rows, ("sum of these rows", found.total, ""), ("score of the network", found.score, "")]


def _made(e: Explanation) -> dict[str, str]:
    known = ("network", "layer", "pellucid", "torch", "device", "seed")
    told = {key: str(e.provenance[key]) for key in known if e.provenance.get(key) not in (None, "")}
    options = ", ".join(f"{k}={v}" for k, v in e.options.items())
    return {"method": f"{e.method} ({options})" if options else e.method, **told, "unit": overlay.unit(e)}


@dataclass
class _Page:
    """A sheet that is filled from above. y: where the next thing goes, in inches from the upper edge."""

    figure: Figure
    y: float = MARGIN

    def space(self, inches: float) -> None:
        self.y += inches

    def line(self, text: str, *, x: float = 0.0, size: float = 9.0, colour: str = INK, bold: bool = False) -> None:
        room = int((_INNER - x) / (_LETTERS * size * (1.1 if bold else 1.0)))
        short = text if len(text) <= room else f"{text[: room - 1]}…"
        self._put(short, x, size, colour, "bold" if bold else "normal")
        self.y += size / 72 * 1.45

    def heading(self, text: str) -> None:
        self.space(0.16)
        self._rule()
        self.line(text, size=10, bold=True)
        self.space(0.03)

    def paragraph(self, text: str, *, size: float = 9.0, colour: str = INK) -> None:
        for line in textwrap.wrap(text, int(_INNER / (_LETTERS * size))):
            self.line(line, size=size, colour=colour)

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """What, how much, and where."""
        for what, value, where in rows:
            self._put(value, 3.6, 9.0, INK, align="right")
            self._put(where, 3.85, 8.0, FAINT)
            self.line(what if len(what) <= 44 else f"{what[:43]}…")

    def pictures(self, images: Sequence[Image]) -> None:
        """Beside each other, of one height."""
        shapes = [image.width / image.height for image in images]
        gap = 0.25
        height = min(_PICTURES, (_INNER - gap * (len(images) - 1)) / sum(shapes))
        x = MARGIN
        for image, shape in zip(images, shapes, strict=True):
            box = (x / WIDTH, 1 - (self.y + height) / HEIGHT, height * shape / WIDTH, height / HEIGHT)
            axes = self.figure.add_axes(box)
            axes.imshow(np.asarray(image), interpolation="none")
            axes.set_axis_off()
            x += height * shape + gap
        self.y += height

    def footer(self, text: str) -> None:
        self.y = HEIGHT - MARGIN
        self._rule()
        self.paragraph(text, size=8)

    def _put(self, text: str, x: float, size: float, colour: str, weight: str = "normal", align: str = "left") -> None:
        at = ((MARGIN + x) / WIDTH, 1 - self.y / HEIGHT)
        self.figure.text(*at, printable(text), size=size, color=colour, weight=weight, ha=align, va="top")

    def _rule(self) -> None:
        from matplotlib.lines import Line2D

        y = 1 - self.y / HEIGHT
        edge = MARGIN / WIDTH
        self.figure.add_artist(Line2D([edge, 1 - edge], [y, y], color=RULE, linewidth=0.8))
        self.y += 0.08
