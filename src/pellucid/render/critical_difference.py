"""Which of several methods can be told apart: the diagram of Demsar 2006."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pellucid.render.figure import FAINT, INK, SERIES, Format, canvas, safe
from pellucid.statistics import Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEP = 0.22  # inches between lines


def critical_difference(
    names: Sequence[str], ranking: Ranking, *, muted: frozenset[str] = frozenset(), format: Format = "svg"
) -> bytes:
    """Mean ranks on an axis, the best (1) at the left. Bars join those that lie within the critical difference of each
    other, which the bar on top shows. muted: controls, in grey.
    """
    order = sorted(range(len(names)), key=lambda k: (ranking.ranks[k], k))
    left, cliques = (len(names) + 1) // 2, ranking.cliques()
    depth = 1.1 + 0.55 * len(cliques)  # where names begin, in steps below the axis
    height = _STEP * (depth + left + 2.9)
    margin = 0.55 + 0.078 * max(map(len, names))  # inches
    width = 2 * margin + 3.0
    with canvas(width, height, format) as (figure, axes, out):
        axes.set_axis_off()
        axes.set(xlim=(1, len(names)), ylim=(depth + left - 0.4, -3.3))
        _axis(axes, len(names), ranking)
        for k, clique in enumerate(cliques):
            y = 0.75 + 0.55 * k
            low, high = ranking.ranks[clique[0]], ranking.ranks[clique[-1]]
            axes.plot([low - 0.03, high + 0.03], [y, y], color=INK, linewidth=3.2, solid_capstyle="butt")
        for place, k in enumerate(order):
            best = place < left
            row = place if best else len(names) - 1 - place
            _name(axes, safe(names[k]), ranking.ranks[k], depth + row, best=best, grey=names[k] in muted)
        figure.subplots_adjust(left=margin / width, right=1 - margin / width, top=0.99, bottom=0.01)
    return out.getvalue()


def _axis(axes: Axes, count: int, ranking: Ranking) -> None:
    axes.plot([1, count], [0, 0], color=INK, linewidth=1)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [0, -0.3], color=INK, linewidth=1)
        axes.text(tick, -0.45, str(tick), ha="center", va="bottom", fontsize=8, color=FAINT)
    end = 1 + ranking.critical
    axes.plot([1, end], [-1.9, -1.9], color=SERIES[0], linewidth=1.4)
    for x in (1, end):
        axes.plot([x, x], [-1.7, -2.1], color=SERIES[0], linewidth=1.4)
    told = f"critical difference {ranking.critical:.2f}, {ranking.n} units"
    axes.text(1, -2.25, told, ha="left", va="bottom", fontsize=8, color=SERIES[0])


def _name(axes: Axes, name: str, rank: float, y: float, *, best: bool, grey: bool) -> None:
    colour = FAINT if grey else INK
    edge = 0.0 if best else 1.0
    axes.plot([rank, rank], [0, y], color=colour, linewidth=0.8)
    across = axes.get_yaxis_transform()
    side = axes.get_xlim()[0] if best else axes.get_xlim()[1]
    axes.plot([rank, side], [y, y], color=colour, linewidth=0.8)
    axes.text(
        edge + (-0.015 if best else 0.015), y, f"{name}  {rank:.2f}" if best else f"{rank:.2f}  {name}", transform=across,
        ha="right" if best else "left", va="center", fontsize=8.5, color=colour,
    )  # fmt: skip
