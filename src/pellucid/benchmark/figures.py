"""The figures of the benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pellucid.benchmark.plan import DIAMETERS
from pellucid.benchmark.results import PRIMARY, Kind, Results, Score, Verdict
from pellucid.benchmark.scoring import DRAWN, MAPS, NETWORKS
from pellucid.controls import CONTROLS
from pellucid.record import Interval
from pellucid.render.critical_difference import critical_difference
from pellucid.render.curves import Mark, interval_plot
from pellucid.render.lines import Lines, curve_plot, ladder_plot
from pellucid.render.scatter import scatter

MUTED = frozenset(CONTROLS)
SHOWN = (
    "evidence",
    "saliency",
    "integrated_gradients",
    "occlusion",
    "random_map",
    "edge_map",
)  # on the letter's ladder


def drawn(found: Results) -> dict[str, bytes]:
    """Name -> SVG."""
    return {f"{kind.kind}-{name}": data for kind in found.kinds for name, data in _of(kind)}


def _of(kind: Kind) -> Iterator[tuple[str, bytes]]:
    main = {v.score: v for v in kind.verdicts if v.model == NETWORKS[0]}
    primary = [main[Score(*names)] for names in PRIMARY]
    for verdict in primary:
        yield f"scores-{verdict.score.metric}", interval_plot({"": list(_marks(verdict))}, label=str(verdict.score))
    for ranks in kind.ranks:
        name = f"ranks-{ranks.model}-{ranks.metric}"
        yield name, critical_difference(ranks.methods, ranks.ranking, muted=MUTED)
    yield "two-scores", _both(*primary)
    for metric in ("deletion", "insertion"):
        shares = {"deletion": "share removed", "insertion": "share shown"}
        yield metric, curve_plot(_curve(kind, metric), xlabel=shares[metric], ylabel="log-odds", muted=MUTED)
    for score in (Score("pointing_game", ""), Score("auprc", "")):
        lines = _diameters(kind, score)
        xlabel = "lesion diameter, in strides of the network"
        yield f"diameters-{score.metric}", ladder_plot(lines, xlabel=xlabel, ylabel=str(score))
    yield "letter", _letter(kind)


def _marks(verdict: Verdict) -> Iterator[Mark]:
    yield from (Mark(name, verdict.methods[name]) for name in verdict.order)
    yield from (Mark(name, interval, muted=True) for name, interval in verdict.controls.items())


def _both(x: Verdict, y: Verdict) -> bytes:
    one, other = ({**v.methods, **v.controls} for v in (x, y))
    points = {name: (one[name], other[name]) for name in one}
    return scatter(points, xlabel=str(x.score), ylabel=str(y.score), muted=MUTED)


def _curve(kind: Kind, metric: str) -> Lines:
    """The points of the curves, out of the parts that are named after them."""
    start = "log_odds_at_"
    return {
        method: [
            (float(row.part.removeprefix(start)), row.interval)
            for row in kind.curves
            if (row.method, row.metric) == (method, metric) and row.part.startswith(start)
        ]
        for method in dict.fromkeys((*DRAWN, *(row.method for row in kind.curves)))
    }


def _diameters(kind: Kind, score: Score) -> Lines:
    """Each way of drawing the map, over the size of the lesions."""
    rows = [r for r in kind.remedies if r.score == score]
    plain = [r.without for r in rows if r.remedy == "registration"]
    drawn_as = {"registered": "registration"} | {name: f"{name} times" for name in MAPS if name.startswith("finer")}
    found = {name: [r.with_it for r in rows if r.remedy == remedy] for name, remedy in drawn_as.items()}
    return {name: list(zip(DIAMETERS, many, strict=True)) for name, many in {"plain resize": plain, **found}.items()}


def _letter(kind: Kind) -> bytes:
    lines: dict[str, list[tuple[float, Interval]]] = {"measured effect": [(r.rho, r.reliance) for r in kind.ladder]}
    known: Mapping[str, Interval] = kind.ladder[0].shares
    lines |= {name: [(r.rho, r.shares[name]) for r in kind.ladder] for name in SHOWN if name in known}
    return ladder_plot(
        lines,
        xlabel="rho: how far the letter gives the label away in training",
        ylabel="share of the letter",
        muted=MUTED,
    )
