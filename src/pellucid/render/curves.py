"""Small figures: intervals, training curves, effects, reliability. SVG or PNG bytes, equal for equal numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from pellucid.record import Interval
from pellucid.render.colour import stops
from pellucid.render.figure import DASHES, FAINT, RULE, SERIES, Format, canvas, safe

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Mark:
    """One dot with its whiskers. muted: a control, drawn hollow and grey."""

    label: str
    interval: Interval
    muted: bool = False


def interval_plot(
    groups: Mapping[str, Sequence[Mark]], *, label: str = "", zero: bool = False, format: Format = "svg"
) -> bytes:
    """A dot and its interval per mark, grouped under headings; a mark without a value says so.

    zero: draw a line at zero and include it.
    """
    lines: list[tuple[str, Mark | None]] = []
    for name, marks in groups.items():
        lines += [(name, None)] if name else []
        lines += [(m.label, m) for m in marks]
    with canvas(5.2, 0.5 + 0.235 * max(len(lines), 1), format) as (figure, axes, out):
        for y, (_, mark) in enumerate(lines):
            if mark is not None:
                _dot(axes, y, mark)
        _rows(axes, [(text, mark is None) for text, mark in lines])
        if not any(mark is not None and isfinite(mark.interval.mean) for _, mark in lines):
            axes.set_xticks([])
        if zero:
            axes.axvline(0, color=FAINT, linewidth=0.9, zorder=0)
        axes.set_xlabel(label)
        figure.set_layout_engine("tight", pad=0.4)
    return out.getvalue()


def effect_strip(
    effects: Mapping[str, tuple[Sequence[float], Interval]], *, label: str = "", format: Format = "svg"
) -> bytes:
    """Single effects as small dots, their mean and interval over them, and the line of no effect."""
    with canvas(5.2, 0.6 + 0.42 * max(len(effects), 1), format) as (figure, axes, out):
        for y, (values, interval) in enumerate(effects.values()):
            # A fixed spread over the row instead of chance: equal numbers give equal bytes.
            spread = ((np.arange(len(values)) * 0.618034) % 1 - 0.5) * 0.5
            axes.plot(list(values), y + spread, "o", markersize=2.6, color=stops(9)[2], zorder=1, linestyle="none")
            _dot(axes, y, Mark("", interval))
        _rows(axes, [(name, False) for name in effects])
        axes.axvline(0, color=FAINT, linewidth=0.9, zorder=0)
        axes.set_xlabel(label)
        figure.set_layout_engine("tight", pad=0.4)
    return out.getvalue()


def training_curves(
    series: Mapping[str, Sequence[float]], *, xlabel: str = "epoch", ylabel: str = "", format: Format = "svg"
) -> bytes:
    """One line per series, its value at 1, 2, 3, ...; each with its own dash so that colour is not needed."""
    with canvas(5.2, 2.4, format) as (figure, axes, out):
        for k, (name, values) in enumerate(series.items()):
            axes.plot(
                range(1, len(values) + 1),
                list(values),
                DASHES[k % 4],
                color=SERIES[k % len(SERIES)],
                linewidth=1.6,
                label=name,
            )
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.tick_params(axis="y", colors=FAINT)
        axes.grid(color=RULE, linewidth=0.4)
        axes.locator_params(axis="x", integer=True)
        if series:
            axes.legend(frameon=False, fontsize=8)
        figure.set_layout_engine("tight", pad=0.4)
    return out.getvalue()


def reliability(
    forecast: Sequence[float], observed: Sequence[float], counts: Sequence[int], *, format: Format = "svg"
) -> bytes:
    """Observed share against forecast probability, bin by bin; the size of a dot grows with its count."""
    with canvas(2.9, 2.9, format) as (figure, axes, out):
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
        largest = max(counts, default=1) or 1
        axes.plot(list(forecast), list(observed), color=SERIES[0], linewidth=1.2)
        axes.scatter(list(forecast), list(observed), s=[12 + 60 * c / largest for c in counts], color=SERIES[0])
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="forecast probability", ylabel="observed share", aspect="equal")
        axes.tick_params(axis="y", colors=FAINT)
        figure.set_layout_engine("tight", pad=0.4)
    return out.getvalue()


def _dot(axes: Axes, y: int, mark: Mark) -> None:
    interval = mark.interval
    if not isfinite(interval.mean):
        axes.text(
            0.01,
            y,
            "not defined",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=FAINT,
            style="italic",
        )
        return
    colour = FAINT if mark.muted else SERIES[0]
    if isfinite(interval.low) and isfinite(interval.high):
        axes.plot([interval.low, interval.high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt", zorder=2)
    axes.plot(
        [interval.mean],
        [y],
        "o",
        markersize=5.5,
        markerfacecolor="white" if mark.muted else colour,
        markeredgecolor=colour,
        zorder=3,
    )


def _rows(axes: Axes, rows: Sequence[tuple[str, bool]]) -> None:
    """Names at the left, top to bottom; headings in bold."""
    axes.set_yticks(range(len(rows)), [safe(name) for name, _ in rows])
    for tick, (_, heading) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if heading else "normal")
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.4)
    axes.locator_params(axis="x", nbins=6)
