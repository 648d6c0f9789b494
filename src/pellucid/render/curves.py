"""Small figures: intervals, training curves, effects, reliability. SVG or PNG bytes, equal for equal numbers.

Figures are made without pyplot, so nothing of the user's own plotting is touched; Matplotlib loads on first use.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from pellucid.record import Interval
from pellucid.render.colour import stops

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format: TypeAlias = Literal["svg", "png"]

INK, FAINT, RULE = "#212529", "#5a626a", "#c9ced3"
SERIES = ("#0b5cad", "#b34700", "#3d7a3d", "#7b4fa3", "#5a626a", "#9a7400")  # each at least 4.5:1 on white

_STYLE: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.edgecolor": RULE, "axes.labelcolor": FAINT,
    "text.color": INK, "xtick.color": FAINT, "ytick.color": INK, "axes.linewidth": 0.8, "svg.hashsalt": "pellucid", "svg.fonttype": "path",
}  # fmt: skip


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
    with _figure(5.2, 0.5 + 0.235 * max(len(lines), 1), format) as (figure, axes, out):
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
    with _figure(5.2, 0.6 + 0.42 * max(len(effects), 1), format) as (figure, axes, out):
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
    dashes = ("-", "--", "-.", ":")
    with _figure(5.2, 2.4, format) as (figure, axes, out):
        for k, (name, values) in enumerate(series.items()):
            axes.plot(
                range(1, len(values) + 1),
                list(values),
                dashes[k % 4],
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
    with _figure(2.9, 2.9, format) as (figure, axes, out):
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
    axes.set_yticks(range(len(rows)), [_safe(name) for name, _ in rows])
    for tick, (_, heading) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if heading else "normal")
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.4)
    axes.locator_params(axis="x", nbins=6)


def _safe(text: str) -> str:
    """Matplotlib reads text between dollar signs as mathematics; names are names."""
    return text.replace("$", r"\$")


@contextmanager
def _figure(width: float, height: float, format: Format) -> Iterator[tuple[Figure, Axes, io.BytesIO]]:
    """An empty figure; what was drawn by the end of the block is written to the buffer."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_axisbelow(True)
        yield figure, axes, out
        stamp: dict[str, Any] = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(out, format=format, dpi=144, metadata=stamp)
