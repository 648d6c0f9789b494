"""A decision tree as a figure: questions in words, yes and no, and at the ends the answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from textwrap import fill
from typing import TYPE_CHECKING

from pellucid.render.figure import FAINT, INK, RULE, SERIES, Format, canvas, safe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE, _HIGH = 1.75, 1.15  # inches for an answer, and for a level of questions
_LETTERS = 25  # to a line of a question


@dataclass(frozen=True)
class Box:
    """A question with what follows on no and on yes, or an answer. kind: which answer, for its colour."""

    text: str
    no: Box | None = None
    yes: Box | None = None
    kind: int = 0


@dataclass(frozen=True)
class _Placed:
    """A box at its place. parent: the place of the question it follows on; branch: on which answer."""

    box: Box
    x: float
    level: int
    parent: tuple[float, int] | None = None
    branch: str = ""


def decision_tree(root: Box, *, format: Format = "svg") -> bytes:
    """The tree from its first question at the top to its answers; "no" goes to the left."""
    placed = _laid(root, 0, 0)
    answers = sum(p.box.yes is None for p in placed)
    levels = 1 + max(p.level for p in placed)
    with canvas(max(_WIDE * answers, 3.2), _HIGH * levels, format) as (figure, axes, out):
        axes.set_axis_off()
        axes.set(xlim=(-0.5, answers - 0.5), ylim=(levels - 0.5, -0.5))
        for p in placed:
            _draw(axes, p)
        figure.subplots_adjust(left=0, right=1, top=1, bottom=0)
    return out.getvalue()


def _laid(box: Box, first: int, level: int) -> list[_Placed]:
    """The box and all under it; answers stand side by side from place `first` on, a question over the middle of its two."""
    if box.no is None or box.yes is None:
        return [_Placed(box, float(first), level)]
    no, yes = _laid(box.no, first, level + 1), _laid(box.yes, first + _answers(box.no), level + 1)
    x = (no[0].x + yes[0].x) / 2
    joined = [replace(part[0], parent=(x, level), branch=word) for word, part in (("no", no), ("yes", yes))]
    return [_Placed(box, x, level), joined[0], *no[1:], joined[1], *yes[1:]]


def _answers(box: Box) -> int:
    return 1 if box.no is None or box.yes is None else _answers(box.no) + _answers(box.yes)


def _draw(axes: Axes, p: _Placed) -> None:
    if p.parent is not None:
        x, level = p.parent
        axes.plot([x, p.x], [level, p.level], color=RULE, linewidth=1.2, zorder=0)
        middle = ((x + p.x) / 2, (level + p.level) / 2)
        axes.text(*middle, p.branch, ha="center", va="center", fontsize=8, color=FAINT, backgroundcolor="white")
    answer = p.box.yes is None
    colour = SERIES[p.box.kind % len(SERIES)] if answer else INK
    frame = {
        "boxstyle": "round,pad=0.5",
        "facecolor": "white",
        "edgecolor": colour,
        "linewidth": 2.0 if answer else 0.9,
    }
    said = "\n".join(fill(line, _LETTERS) for line in p.box.text.split("\n"))
    axes.text(p.x, p.level, safe(said), ha="center", va="center", fontsize=8.5, color=INK, bbox=frame, zorder=2)
