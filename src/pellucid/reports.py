"""From records to a report: chooses the cases, explains them again with every method, and says in words what was found.

The room `reporting` only draws what is put together here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pellucid import api, targets
from pellucid.controls import CONTROLS
from pellucid.errors import OptionError
from pellucid.explanation import Explanation
from pellucid.methods import METHODS
from pellucid.metrics import METRICS
from pellucid.record import Prediction, SummaryRow, Table
from pellucid.render import picture
from pellucid.render.overlay import overlay, plain, scales, unit, usual_width
from pellucid.reporting.html import write_report
from pellucid.reporting.report import Case, PerformanceRow, Picture, Report, Shortcut, TreeBlock
from pellucid.sample import Sample, collate

LookUp = Callable[[str], tuple[nn.Module, Sample]]

# What a page says of methods and metrics beside their numbers.
CONTROL_NAMES = frozenset(CONTROLS)
DIRECTIONS = {name: row.higher_is_better for name, row in METRICS.items()}
ABOUT = {name: row.summary for name, row in (*METRICS.items(), *METHODS.items(), *CONTROLS.items())}


def build(
    table: Table,
    *,
    title: str,
    look_up: LookUp,
    main: str,
    classes: Sequence[str],
    cases: int = 6,
    subtitle: str = "",
    data: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    hashes: Mapping[str, str] | None = None,
    commands: Sequence[str] = (),
    curves: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    shortcut: Shortcut | None = None,
    tree: TreeBlock | None = None,
) -> Report:
    """Everything on the page.

    main: the network whose cases are shown. look_up: from a sample's name to the network that did not see it in
    training, and the sample. classes: names in the order of the labels.
    """
    summary, performance = table.summary(), table.performance()
    explained = [_explained(table, main, p, look_up, classes) for p, _ in chosen(table, main, cases)]
    limits = scales(e for _, many in explained for e in many)  # one colour scale per unit on the whole page
    shown = [
        _case(main, p, why, *found, limits, classes)
        for (p, why), found in zip(chosen(table, main, cases), explained, strict=True)
    ]
    return Report(
        title=title,
        subtitle=subtitle,
        summary=(
            *_performance_words(performance),
            *_score_words(summary, main),
            *((shortcut.verdict,) if shortcut else ()),
            *_failure_words(table),
        ),
        data=dict(data or {}),
        performance=_performance_rows(performance),
        curves=dict(curves or {}),
        scores=tuple(summary),
        controls=CONTROL_NAMES,
        directions=DIRECTIONS,
        about=ABOUT,
        comparisons=tuple(_comparisons(table)),
        shortcut=shortcut,
        tree=tree,
        cases=tuple(shown),
        settings=dict(settings or {}),
        hashes=dict(hashes or {}),
        commands=tuple(commands),
    )


def performance_rows(table: Table) -> tuple[PerformanceRow, ...]:
    """How well each network of a table predicts, as the page shows it."""
    return _performance_rows(table.performance())


def _performance_rows(rows: Sequence[Any]) -> tuple[PerformanceRow, ...]:
    return tuple(
        PerformanceRow(r.model, r.metric, r.interval, f"{r.interval.n} samples of {r.interval.groups} groups")
        for r in rows
    )


def write(report: Report, path: str | Path) -> Path:
    """One self-contained HTML file."""
    return write_report(report, path)


def _comparisons(table: Table) -> list[Any]:
    """Every method against noise, on the same samples (the other controls stand in the table of scores)."""
    methods = list(dict.fromkeys(r.method for r in table.records if r.method))
    if _NOISE not in methods:
        return []
    return [c for method in methods if method not in CONTROLS for c in table.compare(method, _NOISE)]


_NOISE = "random_map"


def chosen(table: Table, model: str, count: int) -> list[tuple[Prediction, str]]:
    """Half the cases where the network is most wrong, half around its median, each sample once, in a fixed order."""
    mine = sorted((p for p in table.predictions if p.model == model), key=lambda p: (_true_probability(p), p.sample))
    scored = {r.sample for r in table.records if r.model == model and r.method}
    mine = [p for p in mine if p.sample in scored] or mine
    worst = mine[: (count + 1) // 2]
    rest = mine[len(worst) :]
    start = max(0, (len(rest) - count // 2) // 2)
    return [(p, "worst") for p in worst] + [(p, "typical") for p in rest[start : start + count // 2]]


def _true_probability(p: Prediction) -> float:
    if len(p.probabilities) == 1:
        return p.probabilities[0] if p.label == 1 else 1 - p.probabilities[0]
    return p.probabilities[p.label]


def _explained(
    table: Table, model: str, prediction: Prediction, look_up: LookUp, classes: Sequence[str]
) -> tuple[Sample, list[Explanation]]:
    """One sample explained by every method that was scored, for the predicted class."""
    network, sample = look_up(prediction.sample)
    scored = dict.fromkeys(r.method for r in table.records if r.model == model and r.method)
    methods = [m for m in scored if m not in CONTROLS or m == _NOISE]
    x = collate([sample])
    first = api.explain(network, x, classes=classes)
    target = targets.gauge_free(first.target, first.logits, getattr(network, "task", None))
    return sample, [api.explain(network, x, target, method=m, classes=classes, seed=prediction.seed) for m in methods]


def _case(
    model: str, prediction: Prediction, why: str, sample: Sample, explained: Sequence[Explanation], limits: Mapping[str, float], classes: Sequence[str]
) -> Case:  # fmt: skip
    width = usual_width(explained[0], 2 / 3) if explained else 0
    pictures = (
        [Picture("input", picture.jpeg(plain(explained[0], sample.image, width=width)), f"the input {sample.name}")]
        if explained
        else []
    )
    pictures += [
        Picture(e.method, picture.jpeg(overlay(e, sample.image, limit=limits[unit(e)], width=width, title="")), f"{e.method} of {sample.name}") for e in explained
    ]  # fmt: skip
    complete = next((e for e in explained if e.method == "evidence"), None)
    decided = max(range(len(prediction.probabilities)), key=prediction.probabilities.__getitem__)
    if len(prediction.probabilities) == 1:
        decided = int(prediction.probabilities[0] >= 0.5)
    return Case(
        name=sample.name, why=why, truth=classes[prediction.label], prediction=classes[decided], probability=_of(prediction, decided), model=model,
        pictures=tuple(pictures), ledger=complete.ledger().as_dict() if complete else None, text=(complete or explained[0]).text() if explained else "",
        places="samples" if sample.image is None else "pixels",
    )  # fmt: skip


def _of(p: Prediction, decided: int) -> float:
    if len(p.probabilities) == 1:
        return p.probabilities[0] if decided else 1 - p.probabilities[0]
    return p.probabilities[decided]


def _performance_words(performance: Sequence[Any]) -> list[str]:
    rows = {(r.model, r.metric): r.interval for r in performance}
    words = []
    for model in dict.fromkeys(r.model for r in performance):
        area, balanced = rows[model, "auc"], rows[model, "balanced_accuracy"]
        words.append(
            f"The {model} separates the classes with AUC {area} and balanced accuracy {balanced} on {area.n} samples of {area.groups} groups it was not trained on."
        )
    return words


def _score_words(summary: Sequence[SummaryRow], main: str) -> list[str]:
    """Evidence beside the control, for the scores of localisation."""
    words = []
    found = {(r.method, r.metric, r.part): r.interval for r in summary if r.model == main}
    control = next((name for name in (_NOISE, *CONTROLS) if any(k[0] == name for k in found)), None)
    for metric, part in dict.fromkeys(
        (r.metric, METRICS[r.metric].parts[0]) for r in summary if METRICS[r.metric].property == "localisation"
    ):
        ours, theirs = found.get(("evidence", metric, part)), found.get((control or "", metric, part))
        if ours is None or theirs is None or ours.n == 0:
            continue
        apart = ours.low > theirs.high
        judged = (
            "better than chance: the intervals do not touch"
            if apart
            else "not shown to be better than chance: the intervals touch"
        )
        words.append(f"{metric}: evidence of the {main} {ours}, {control} {theirs}; {judged}.")
    return words


def _failure_words(table: Table) -> list[str]:
    failed = table.failures()
    return (
        [f"{len(failed)} inputs or explanations failed, for example {failed[0].sample}: {failed[0].status}."]
        if failed
        else []
    )


def report(
    run: Any,
    table: Table,
    path: str | Path,
    *,
    dataset: Any = None,
    model: nn.Module | None = None,
    title: str | None = None,
    cases: int = 6,
) -> Path:
    """Write the HTML report of a trained run and its evaluation.

    run: a `Run`. dataset: the data that were evaluated, from which cases are shown; without it there are none. model: the
    evaluated network, where it is not the run's own (the SoftCAM made from it).
    """
    if not isinstance(table, Table):
        raise OptionError(
            f"The second argument is a {type(table).__name__}.",
            why="The table that evaluate() gave is needed.",
            hint="pl.report(run, pl.evaluate(...), 'report.html')",
        )
    names = list(dict.fromkeys(p.model for p in table.predictions))
    main = names[-1] if names else "model"
    index = {} if dataset is None else {dataset.facts(i).name: i for i in range(len(dataset))}

    def look_up(name: str) -> tuple[nn.Module, Sample]:
        return run.model if model is None else model, dataset[index[name]]

    made = build(
        table, title=title or f"{main}: report", look_up=look_up, main=main, classes=run.classes, cases=cases if index else 0,
        settings=run.config.model_dump(mode="json"), hashes={"training data": run.data, "weights": api.weights_digest(run.model)},
    )  # fmt: skip
    return write(made, path)
