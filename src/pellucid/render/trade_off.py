"""What is gained against what it costs, for settings of one kind of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pellucid.record import Interval
from pellucid.render.figure import DASHES, FAINT, INK, RULE, SERIES, Format, canvas, safe
from pellucid.render.scatter import apart

_RINGS = (("o", 11.0), ("s", 15.0))  # round and square, so that both can be on one point


def trade_off(
    points: Mapping[str, tuple[Interval, Interval]],
    *,
    lines: Sequence[Sequence[str]],
    marked: Mapping[str, str],
    level: float,
    level_name: str,
    xlabel: str,
    ylabel: str,
    format: Format = "svg",
) -> bytes:
    """A dot with the intervals of both scores per name; more is better on both axes.

    lines: names that a line goes through, one setting growing along it. marked: up to two choices, text -> name, ringed.
    level: a height to tell. Filled dots are those that none is better than on both axes.
    """
    front = pareto({name: (x.mean, y.mean) for name, (x, y) in points.items()})
    with canvas(6.4, 3.9, format) as (figure, axes, out):
        colour = {name: SERIES[k % len(SERIES)] for k, line in enumerate(lines) for name in line[1:]}
        axes.axhline(level, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)), label=safe(level_name))
        for k, line in enumerate(lines):
            across, up = zip(*((points[n][0].mean, points[n][1].mean) for n in line), strict=True)
            axes.plot(
                across, up, color=SERIES[k % len(SERIES)], linewidth=1.2, linestyle=DASHES[k % len(DASHES)], zorder=1
            )
        for name, (x, y) in points.items():
            ink = colour.get(name, INK)
            axes.plot([x.low, x.high], [y.mean] * 2, color=ink, linewidth=0.6, alpha=0.6)
            axes.plot([x.mean] * 2, [y.low, y.high], color=ink, linewidth=0.6, alpha=0.6)
            axes.plot(x.mean, y.mean, "o", markersize=5, markeredgecolor=ink, markerfacecolor=ink if name in front else "white")  # fmt: skip
        for (text, name), (shape, size) in zip(marked.items(), _RINGS, strict=False):
            x, y = points[name]
            axes.plot(
                x.mean, y.mean, shape, markersize=size, markerfacecolor="none", markeredgecolor=INK, label=safe(text),
                linestyle="none",
            )  # fmt: skip
        axes.set(xlabel=safe(f"{xlabel} (filled: no other is better on both axes)"), ylabel=safe(ylabel))
        axes.tick_params(axis="y", colors=FAINT)
        axes.grid(color=RULE, linewidth=0.4)
        figure.set_layout_engine("tight", pad=0.4)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=8, frameon=False, markerscale=0.7)
        low, high = axes.get_ylim()
        order = sorted(points, key=lambda n: (points[n][1].mean, n))
        for name, height in zip(order, apart([(points[n][1].mean - low) / (high - low) for n in order]), strict=True):
            x, y = points[name]
            axes.annotate(
                safe(name), (x.mean, y.mean), (1.04, height), textcoords="axes fraction", va="center", fontsize=8, color=colour.get(name, INK),
                arrowprops={"arrowstyle": "-", "color": RULE, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)},
            )  # fmt: skip
    return out.getvalue()


def pareto(points: Mapping[str, tuple[float, float]]) -> frozenset[str]:
    """The names that no other is at least as good as on both axes and better on one."""
    return frozenset(
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    )
