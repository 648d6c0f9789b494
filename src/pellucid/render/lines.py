"""A score over something that rises: curves with bands, and steps of a knob with whiskers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from pellucid.record import Interval
from pellucid.render.figure import DASHES, FAINT, RULE, SERIES, Format, canvas, safe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Per name the points of one line, from left to right.
Lines = Mapping[str, Sequence[tuple[float, Interval]]]


def curve_plot(
    lines: Lines, *, xlabel: str = "", ylabel: str = "", muted: frozenset[str] = frozenset(), format: Format = "svg"
) -> bytes:
    """Means as lines, their intervals as bands; a point that is not defined is a gap. muted: controls, in grey."""
    with canvas(6.4, 3.0, format) as (figure, axes, out):
        for (name, points), (colour, dash) in zip(lines.items(), _strokes(lines, muted), strict=True):
            x, mean, low, high = _columns(points)
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(x, mean, dash, color=colour, linewidth=1.6, label=safe(name))
        _finish(figure, axes, lines, xlabel, ylabel)
    return out.getvalue()


def ladder_plot(
    lines: Lines, *, xlabel: str = "", ylabel: str = "", muted: frozenset[str] = frozenset(), format: Format = "svg"
) -> bytes:
    """A dot with whiskers per step and line, moved apart a little sideways; steps are evenly spaced, whatever their values.
    muted: controls, in grey and hollow.
    """
    steps = sorted({x for points in lines.values() for x, _ in points})
    with canvas(6.4, 3.0, format) as (figure, axes, out):
        for k, ((name, points), (colour, dash)) in enumerate(zip(lines.items(), _strokes(lines, muted), strict=True)):
            aside = (k - (len(lines) - 1) / 2) * min(0.12, 0.6 / max(len(lines), 1))
            _, mean, low, high = _columns(points)
            x = np.array([steps.index(value) for value, _ in points]) + aside
            axes.vlines(x, low, high, color=colour, linewidth=1.4)
            face = "white" if name in muted else colour
            axes.plot(
                x, mean, dash, marker="o", markersize=4.5, markerfacecolor=face, color=colour, linewidth=1.1, label=safe(name)
            )  # fmt: skip
        axes.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        _finish(figure, axes, lines, xlabel, ylabel)
    return out.getvalue()


def _strokes(lines: Lines, muted: frozenset[str]) -> list[tuple[str, str]]:
    """Colour and dash of each line: colours go round among the methods, dashes change with every round."""
    found: list[tuple[str, str]] = []
    colours, greys = [c for c in SERIES if c != FAINT], 0
    for name in lines:
        grey = name in muted
        k, greys = (greys, greys + 1) if grey else (len(found) - greys, greys)
        found.append(
            (FAINT, DASHES[(k + 1) % 4]) if grey else (colours[k % len(colours)], DASHES[k // len(colours) % 4])
        )
    return found


def _columns(points: Sequence[tuple[float, Interval]]) -> np.ndarray:
    """x, mean, low, high; an interval that is not known is as wide as its mean."""
    rows = [
        (x, i.mean, i.low if isfinite(i.low) else i.mean, i.high if isfinite(i.high) else i.mean) for x, i in points
    ]
    return np.array(rows, dtype=float).reshape(-1, 4).T


def _finish(figure: Figure, axes: Axes, lines: Lines, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(axis="y", colors=FAINT)
    axes.grid(color=RULE, linewidth=0.4)
    if lines:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.set_layout_engine("tight", pad=0.4)
