"""Two scores against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np

from pellucid.record import Interval
from pellucid.render.figure import FAINT, INK, RULE, SERIES, Format, canvas, safe


def scatter(
    points: Mapping[str, tuple[Interval, Interval]],
    *,
    xlabel: str = "",
    ylabel: str = "",
    muted: frozenset[str] = frozenset(),
    format: Format = "svg",
) -> bytes:
    """A dot per name with the intervals of both scores. Names stand in a column at the right, with a line to their dot.

    muted: controls, in grey and hollow. Names without both values are left out and named under the figure.
    """
    shown = {n: p for n, p in points.items() if all(isfinite(i.mean) for i in p)}
    missing = [n for n in points if n not in shown]
    with canvas(5.6, 3.6, format) as (figure, axes, out):
        for name, (x, y) in shown.items():
            colour = FAINT if name in muted else SERIES[0]
            axes.plot([x.low, x.high], [y.mean] * 2, color=colour, linewidth=1.1)
            axes.plot([x.mean] * 2, [y.low, y.high], color=colour, linewidth=1.1)
            axes.plot(
                x.mean, y.mean, "o", markersize=5, markerfacecolor="white" if name in muted else colour, markeredgecolor=colour
            )  # fmt: skip
        axes.set(xlabel=xlabel + (f"\nnot defined: {safe(', '.join(missing))}" if missing else ""), ylabel=ylabel)
        axes.tick_params(axis="y", colors=FAINT)
        axes.grid(color=RULE, linewidth=0.4)
        figure.set_layout_engine("tight", pad=0.4)
        low, high = axes.get_ylim()
        order = sorted(shown, key=lambda n: (shown[n][1].mean, n))
        for name, height in zip(order, apart([(shown[n][1].mean - low) / (high - low) for n in order]), strict=True):
            x, y = shown[name]
            axes.annotate(
                safe(name), (x.mean, y.mean), (1.04, height), textcoords="axes fraction", va="center", fontsize=8,
                color=FAINT if name in muted else INK,
                arrowprops={"arrowstyle": "-", "color": RULE, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)},
            )  # fmt: skip
    return out.getvalue()


def apart(heights: Sequence[float], gap: float = 0.062) -> list[float]:
    """Rising heights moved so that neighbours are a gap apart, within 0 to 1 as far as there is room."""
    found = np.array(heights, dtype=float)
    for k in range(1, len(found)):
        found[k] = max(found[k], found[k - 1] + gap)
    top = max(1.0, gap * (len(found) - 1))
    for k in range(len(found) - 1, -1, -1):
        found[k] = min(found[k], top - gap * (len(found) - 1 - k))
    return [float(h) for h in found]
