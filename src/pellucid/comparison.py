"""Two evaluated runs beside each other, on the samples that both were scored on: what the new one gains and loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pellucid import reports, study
from pellucid.errors import BadInput, OptionError
from pellucid.record import Comparison, PerformanceComparison, Table, join
from pellucid.reporting.report import Report

MARGIN = 0.01  # of AUC


@dataclass(frozen=True)
class Compared:
    """new, old: names of the runs. table: the rows of both, with these names for networks. performance, scores: new
    minus old; AUC has a verdict; a row of scores is about the method that stands in its `model`.
    """

    new: str
    old: str
    table: Table
    performance: tuple[PerformanceComparison, ...]
    scores: tuple[Comparison, ...]
    margin: float


def compare_runs(new: str | Path, old: str | Path, *, margin: float = MARGIN) -> Compared:
    """Compare two runs that `train` made and `evaluate` scored, patient by patient.

    margin: the loss of AUC that would still be accepted, set before the data are seen. Raises `BadInput` for a folder
    that was not evaluated, `OptionError` where the runs share no sample or do not agree about a label.
    """
    names = _names(Path(new), Path(old))
    tables = [_renamed(_scores(Path(folder)), name) for folder, name in zip((new, old), names, strict=True)]
    _check_same(tables, names)
    table = join(tables)
    judged = table.compare_performance(*names, margin=margin)
    changes = tuple(c if c.metric == "auc" else replace(c, verdict=None) for c in judged)
    return Compared(*names, table, changes, tuple(_by_method(table, *names)), margin)


def report_comparison(found: Compared, path: str | Path, *, title: str | None = None) -> Path:
    """Write the comparison as one HTML file."""
    shared = found.performance[0].difference
    commands = (f"pellucid report --compare {found.new} {found.old} --margin {found.margin:g}",)
    made = Report(
        title=title or f"{found.new} against {found.old}",
        summary=tuple(words(found)),
        data={"samples in both": shared.n, "groups (patients)": shared.groups},
        performance=reports.performance_rows(found.table),
        changes=found.performance,
        scores=tuple(found.table.summary()),
        controls=reports.CONTROL_NAMES,
        directions=reports.DIRECTIONS,
        about=reports.ABOUT,
        comparisons=found.scores,
        settings={"margin of AUC": found.margin},
        commands=commands,
    )
    return reports.write(made, path)


def words(found: Compared) -> list[str]:
    """The verdict on AUC, and the scores of explanations that differ after correction."""
    area = next(c for c in found.performance if c.metric == "auc")
    told = [f"AUC of {found.new} against {found.old}: {area.verdict}."]
    apart = [c for c in found.scores if c.adjusted < 0.05]
    for c in apart:
        told.append(
            f"{c.model}, {f'{c.metric} {c.part}'.strip()}: {found.new} minus {found.old} {c.difference}, corrected p {c.adjusted:.3g}."
        )
    if found.scores and not apart:
        told.append("No score of the explanations differs after correction for the number of rows.")
    return told


def _names(new: Path, old: Path) -> tuple[str, str]:
    if new.resolve() == old.resolve():
        raise OptionError(
            f"{new} would be compared with itself.",
            why="Both names lead to it.",
            hint="Name two runs, the new one first.",
        )
    return (new.name, old.name) if new.name != old.name and new.name and old.name else (str(new), str(old))


def _scores(folder: Path) -> Table:
    study.check_is_study(folder)
    path = folder / "evaluate" / "scores.json"
    if not path.exists():
        raise BadInput(
            f"{folder} was not evaluated.",
            why=f"There is no {path}.",
            hint=f"Run: pellucid evaluate {folder}",
            path=folder,
        )
    return Table.from_json(path)


def _renamed(table: Table, name: str) -> Table:
    """The rows of a run under its name. Which fold a sample was in does not matter: it was in one."""
    return Table(
        tuple(replace(r, model=name, fold=None, seed=0) for r in table.records),
        tuple(replace(p, model=name, fold=None, seed=0) for p in table.predictions),
    )


def _check_same(tables: Sequence[Table], names: tuple[str, str]) -> None:
    first, second = ({p.sample: p.label for p in t.predictions} for t in tables)
    shared = set(first) & set(second)
    if not shared:
        raise OptionError(
            f"{names[0]} and {names[1]} were scored on different samples.",
            why=f"None of {len(first)} and {len(second)} is in both.",
            hint="Compare runs on the same data.",
        )
    wrong = sorted(s for s in shared if first[s] != second[s])
    if wrong:
        raise OptionError(
            f"{names[0]} and {names[1]} do not agree about labels.",
            why=f"{len(wrong)} samples have two, '{wrong[0]}' among them.",
            hint="Compare runs on the same labels, with classes in the same order.",
        )


def _by_method(table: Table, new: str, old: str) -> list[Comparison]:
    """Each method of both runs but the controls, new minus old: names of methods and networks change places for `Table.compare`."""
    scored = [r for r in table.records if r.method and r.metric and r.method not in reports.CONTROL_NAMES]
    turned = Table(tuple(replace(r, model=r.method, method=r.model) for r in scored))
    known = {r.method for r in turned.records}
    return turned.compare(new, old) if {new, old} <= known else []


__all__ = ["Compared", "compare_runs", "report_comparison", "words"]
