"""A report as one HTML file that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid import files
from pellucid.record import Interval, SummaryRow
from pellucid.render import curves
from pellucid.render.colour import stops
from pellucid.render.ledger import printed
from pellucid.render.picture import data_uri
from pellucid.reporting.report import Report, Shortcut

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

BLANK = "not provided"
UNDEFINED = "not defined"


def write_report(report: Report, path: str | Path) -> Path:
    """Write the page, whole or not at all. Raises `ResourceError` where that is not possible."""
    return files.write_text(path, render_report(report))


def render_report(report: Report) -> str:
    """The page as text. Equal reports give equal text."""
    page = _environment().get_template("report.html.j2")
    return page.render(
        report=report,
        metrics=list(_metrics(report)),
        curves=[(title, data_uri(curves.training_curves(series))) for title, series in report.curves.items()],
        effects=_effects(report.shortcut),
        settings=list(flat(report.settings)),
        data=list(flat(report.data)),
        hashes=list(flat(report.hashes)),
        gradient=", ".join(stops()),
    )


@dataclass(frozen=True)
class ScoreLine:
    """A method's row. best: the best mean of its network whose interval also lies clear of every control's."""

    row: SummaryRow
    control: bool
    best: bool


@dataclass(frozen=True)
class MetricBlock:
    """One metric (or one part of it): figure and table."""

    name: str
    direction: str
    about: str
    figure: str
    models: dict[str, list[ScoreLine]]


def _metrics(report: Report) -> Iterator[MetricBlock]:
    for metric, part in dict.fromkeys((r.metric, r.part) for r in report.scores):
        rows = [r for r in report.scores if (r.metric, r.part) == (metric, part)]
        higher = report.directions.get(metric)
        models = {
            m: _lines([r for r in rows if r.model == m], report, higher) for m in dict.fromkeys(r.model for r in rows)
        }
        marks = {
            m: [curves.Mark(line.row.method, line.row.interval, line.control) for line in lines]
            for m, lines in models.items()
        }
        direction = {True: "higher is better", False: "lower is better", None: "neither direction is better by itself"}[
            higher
        ]
        figure = data_uri(curves.interval_plot(marks, label=direction))
        yield MetricBlock(
            f"{metric}: {part}" if part else metric, direction, report.about.get(metric, ""), figure, models
        )


def _lines(rows: list[SummaryRow], report: Report, higher: bool | None) -> list[ScoreLine]:
    best = _best(rows, report.controls, higher)
    return [ScoreLine(r, r.method in report.controls, r is best) for r in rows]


def _best(rows: list[SummaryRow], controls: frozenset[str], higher: bool | None) -> SummaryRow | None:
    """The row with the best mean, if a control was scored and the two intervals do not touch."""
    methods = [r for r in rows if r.method not in controls and isfinite(r.interval.mean)]
    bars = [r.interval for r in rows if r.method in controls]
    if higher is None or not methods or not bars:
        return None
    best = (max if higher else min)(methods, key=lambda r: r.interval.mean)
    clear = all(best.interval.low > b.high if higher else best.interval.high < b.low for b in bars)
    return best if clear else None


def _effects(shortcut: Shortcut | None) -> str:
    if shortcut is None or not shortcut.rows:
        return ""
    shown = {f"{r.model}, ρ = {r.rho:g}": (r.effects, r.effect) for r in shortcut.rows}
    return data_uri(curves.effect_strip(shown, label="change of the score when the marker is shown"))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names, in the order given."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and value:
            yield name, ", ".join(str(v) for v in value)
        else:
            yield name, BLANK if value is None or value in ("", [], (), {}) else str(value)


def number(value: float | None) -> str:
    """Three decimals; very small and very large numbers in powers of ten."""
    if value is None:
        return BLANK
    if not isfinite(value):
        return UNDEFINED
    if value != 0 and not 5e-4 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.3f}"


def probability(value: float) -> str:
    """A p-value as it is customarily written."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _tagged(value: float | None) -> Markup:
    """The printed number, with the exact one for machines."""
    from markupsafe import Markup

    if value is None or not isfinite(value):
        return Markup('<span class="blank">{}</span>').format(number(value))
    return Markup('<data value="{}">{}</data>').format(repr(float(value)), number(value))


def _estimate(value: Interval | float | None) -> Markup:
    """Mean and interval, or a bare number."""
    from markupsafe import Markup

    if not isinstance(value, Interval) or not isfinite(value.mean):
        return _tagged(value.mean if isinstance(value, Interval) else value)
    return Markup('{} <span class="range">[{}, {}]</span>').format(
        _tagged(value.mean), _tagged(value.low), _tagged(value.high)
    )


def _given(text: str | None) -> Markup:
    from markupsafe import Markup

    return Markup("{}").format(text) if text else Markup('<span class="blank">{}</span>').format(BLANK)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = environment(autoescape=True)
    made.filters |= {
        "estimate": _estimate,
        "number": _tagged,
        "p_value": probability,
        "ledger": printed,
    }
    return made


def environment(*, autoescape: bool) -> Environment:
    """The templates of this room, with what all of them need."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"given": _given, "uri": data_uri}
    return made
