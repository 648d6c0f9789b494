"""What was found, as tables: Markdown for the folder, text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite

from pellucid.benchmark.results import Kind, Remedy, Results, Verdict
from pellucid.benchmark.scoring import NETWORKS
from pellucid.record import Finding, Interval

Line = Sequence[str]


def markdown(found: Results, pictures: Iterable[str]) -> str:
    """Every table, and the figures by their names."""
    parts = ["# LesionLab benchmark", "Synthetic pictures with exact truth; not realistic medicine. Intervals: 95 %."]
    for kind in found.kinds:
        parts += [
            f"## {kind.kind}",
            *(f"### {title}\n\n{about}\n\n{_pipes(lines)}" for title, about, lines in sections(kind)),
        ]
        parts += [f"![{name}]({name})" for name in pictures if f"/{kind.kind}-" in name]
    parts += [
        "## Several classes",
        f"{GAUGES} Right on {found.several_classes} of them.",
        _pipes(_remedies(found.gauges)),
    ]
    return "\n\n".join(parts) + "\n"


def terminal(found: Results) -> str:
    """What holds and what remedies are worth, in few columns; results.md has them all."""
    parts = []
    for kind in found.kinds:
        told = f"In the headline of {kind.kind}: {_named(kind)}"
        parts += [f"{kind.kind}, {NETWORKS[0]}", _columns(_brief_verdicts(kind, NETWORKS[0])), told, _columns(_brief_remedies(kind.remedies)), _columns(_brief_letters(kind))]  # fmt: skip
    return "\n\n".join([*parts, _columns(_brief_remedies(found.gauges))])


def _brief_verdicts(kind: Kind, model: str) -> Iterator[Line]:
    yield "score", "random", "worst", "best", "mask", "W", "holds"
    for v in (v for v in kind.verdicts if v.model == model):
        ends = (_short(v.methods[v.order[k]]) for k in (-1, 0))
        random, mask = (_short(v.controls[name]) for name in ("random_map", "oracle_map"))
        yield str(v.score), random, *ends, mask, _stability(v), _holds(v)


def _brief_remedies(remedies: Sequence[Remedy]) -> Iterator[Line]:
    yield "remedy", "knob", "score", "difference", ""
    for r in remedies:
        if r.score.metric == "auprc":
            yield r.remedy, r.knob, str(r.score), _estimate(r.gain), r.effect


def _brief_letters(kind: Kind) -> Iterator[Line]:
    yield "letter: rho", "share of effects", "share of evidence", "of random_map"
    for r in kind.ladder:
        yield f"{r.rho:g}", _estimate(r.reliance), *(_short(r.shares[m]) for m in ("evidence", "random_map"))


GAUGES = "Evidence of the class that is there: its raw map, and the map with the mean over classes taken out, on the same networks and pictures."


def sections(kind: Kind) -> Iterator[tuple[str, str, list[Line]]]:
    """Title, one line about it, and the table."""
    yield "Prediction", "Held-out patients; the networks of all trainings pooled.", _performance(kind)
    for model in NETWORKS:
        yield (
            f"Which scores hold: {model}",
            "All maps on the network's cells. A score holds where every method is better than the random map, the mask itself better than "
            "every method, and the best method better than every control without truth, on the same pictures, with intervals over patients and "
            "trainings that leave out zero. W: Kendall's, of the methods' order over trainings.",
            list(_verdicts(kind, model)),
        )  # fmt: skip
    yield (
        "Networks that learnt nothing",
        "Scores whose interval lies on the better side of that of the edge map.",
        list(_offences(kind)),
    )
    yield (
        "Headline",
        f"What holds on both networks and on no network that learnt nothing: {_named(kind)}.",
        list(_base_rates(kind)),
    )
    for model in NETWORKS:
        yield (
            f"Every map on its own cells: {model}",
            "The same networks and pictures; the mask on the network's cells.",
            list(_own(kind, model)),
        )
    yield (
        "Attributions against measured effects",
        "Rank correlation within pictures, and slope over all regions (1: a unit in the map is a unit of the score).",
        list(_agreement(kind)),
    )
    yield (
        "Large cells",
        "What a network with a cell per 16 pixels makes of lesions of each size: the share of pictures with lesions that it calls ill.",
        _sensitivity(kind),
    )
    yield (
        "Small lesions",
        "The same network. Its map drawn by plain resizing and registered; finer maps against the registered one.",
        list(_remedies(kind.remedies)),
    )
    yield (
        "A planted letter",
        "Over trainings (Student's t). Effect: what the letter adds to the log-odds. The other columns are shares of the letter: of the measured effects of letter and lesions, and of each map on both.",
        list(_letters(kind)),
    )
    yield "Does a map tell reliance", "Shares of the map against shares of the effects, over all networks with a letter. False alarms: pictures on which more than half of the map's share is on the letter, for networks trained where it says nothing.", list(_calibration(kind))  # fmt: skip


def _performance(kind: Kind) -> list[Line]:
    rows = [r for r in kind.performance if r.metric in ("auc", "accuracy")]
    return [("network", "score", "mean", "pictures", "patients"), *((r.model, r.metric, str(r.interval), str(r.interval.n), str(r.interval.groups)) for r in rows)]  # fmt: skip


def _verdicts(kind: Kind, model: str) -> Iterator[Line]:
    yield ("score", "random", "edge", "centre", "worst method", "best method", "mask", "not above random", "not below the mask", "not below the best", "W", "holds")  # fmt: skip
    for v in (v for v in kind.verdicts if v.model == model):
        controls = (_short(v.controls[name]) for name in ("random_map", "edge_map", "centre_map"))
        ends = (f"{m} {_short(v.methods[m])}" for m in (v.order[-1], v.order[0]))
        yield str(v.score), *controls, *ends, _short(v.controls["oracle_map"]), *_missing(v), _stability(v), _holds(v)


def _missing(v: Verdict) -> Iterator[str]:
    for names, most in (
        (v.not_above_noise, len(v.methods)),
        (v.not_below_truth, len(v.methods)),
        (v.not_below_best, len(v.controls) - 1),
    ):
        yield "-" if not names else "all" if len(names) == most else ", ".join(names)


def _stability(v: Verdict) -> str:
    return "-" if v.stability is None else f"{v.stability:.2f}"


def _holds(v: Verdict) -> str:
    return "yes" if v.holds else "no"


def _offences(kind: Kind) -> Iterator[Line]:
    yield ("network", "score", "methods", "highest", "edge map")
    for model, score in dict.fromkeys((o.model, o.score) for o in kind.offences):
        rows = [o for o in kind.offences if (o.model, o.score) == (model, score)]
        best = (max if score.higher else min)(rows, key=lambda o: o.interval.mean)
        yield (
            model,
            str(score),
            ", ".join(o.method for o in rows),
            f"{best.method} {_tiny(best.interval)}",
            _tiny(best.edges),
        )


def _tiny(interval: Interval) -> str:
    """Answers of a network that learnt nothing hardly move."""
    return f"{interval.mean:.2g} [{interval.low:.2g}, {interval.high:.2g}]"


def _base_rates(kind: Kind) -> Iterator[Line]:
    yield ("random map over chance (1 is chance)", "mean")
    yield from ((str(score), str(interval)) for score, interval in kind.base_rates.items())


def _own(kind: Kind, model: str) -> Iterator[Line]:
    rows = [v for v in kind.own_cells if v.model == model]
    yield ("method", *(str(v.score) for v in rows))
    for method in (*rows[0].methods, *rows[0].controls):
        yield (method, *(_estimate({**v.methods, **v.controls}[method]) for v in rows))


def _agreement(kind: Kind) -> Iterator[Line]:
    yield ("network", "method", "rank correlation", "slope")
    found = {(f.model, f.method, f.part): f for f in kind.agreement}
    for model, method in dict.fromkeys((f.model, f.method) for f in kind.agreement):
        yield (model, method, *(_finding(found[model, method, part]) for part in ("rank_correlation", "slope")))


def _remedies(rows: Sequence[Remedy]) -> list[Line]:
    head = ("remedy", "knob", "score", "without", "with", "difference", "")
    return [head, *((r.remedy, r.knob, str(r.score), _estimate(r.without), _estimate(r.with_it), _estimate(r.gain), r.effect) for r in rows)]  # fmt: skip


def _sensitivity(kind: Kind) -> list[Line]:
    return [("diameter, in strides", "sensitivity"), *((f"{d:g}", str(i)) for d, i in kind.sensitivity.items())]


def _letters(kind: Kind) -> list[Line]:
    methods = tuple(kind.ladder[0].shares)
    head = ("rho", "effect", "share of effects", *methods)
    return [head, *((f"{r.rho:g}", _estimate(r.effect), _estimate(r.reliance), *(_short(r.shares[m]) for m in methods)) for r in kind.ladder)]  # fmt: skip


def _calibration(kind: Kind) -> Iterator[Line]:
    yield ("method", "slope (1)", "intercept (0)", "AUROC of reliance", "false alarms")
    found = {(f.method, f.part): f for f in kind.calibration}
    alarms = {f.method: f for f in kind.false_alarms}
    for method in dict.fromkeys(f.method for f in kind.calibration):
        parts = (_finding(found[method, part]) for part in ("slope", "intercept", "auroc"))
        yield (method, *parts, _finding(alarms[method]) if method in alarms else "-")


def _named(kind: Kind) -> str:
    return "; ".join(map(str, kind.headline)) or "none"


def _finding(f: Finding) -> str:
    if f.value is None:
        return f.status
    return (
        f"{f.value:.2f}"
        if f.low is None or f.high is None or not isfinite(f.low)
        else f"{f.value:.2f} [{f.low:.2f}, {f.high:.2f}]"
    )


def _estimate(interval: Interval) -> str:
    """One training has no spread, so that its interval may lack ends."""
    if not isfinite(interval.mean):
        return "not defined"
    return str(interval) if isfinite(interval.low) else _short(interval)


def _short(interval: Interval) -> str:
    return f"{interval.mean:.3f}" if isfinite(interval.mean) else "-"


def _pipes(lines: Sequence[Line]) -> str:
    head, *rows = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rows])


def _columns(lines: Iterable[Line]) -> str:
    table = list(lines)
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table)
