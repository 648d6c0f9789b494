"""`pellucid report`: one HTML file that a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show
from pellucid.errors import BadInput, OptionError

NAME = "report"
HELP = (
    "Write the HTML report of an evaluated run. "
    "Performance, explanation scores with controls, worst and typical cases, settings, hashes."
)
EXAMPLES = (
    "pellucid report runs/eyes",
    "pellucid report runs/eyes --out eyes.html --cases 8",
    "pellucid report --compare runs/new runs/old --margin 0.01 --out compared.html",
)


def run(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="A run that `train` made and `evaluate` scored.", show_default=False),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="NEW OLD", help="Compare two evaluated runs on the samples of both."),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", help="Of --compare: the loss of AUC that would still be accepted.")
    ] = 0.01,
    out: options.Out = None,
    cases: Annotated[int, typer.Option("--cases", min=0, help="Cases to show, half worst and half typical.")] = 6,
    title: Annotated[str | None, typer.Option("--title", help="Heading of the report.")] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    from pellucid import study
    from pellucid.record import Table

    if (folder is None) == (compare is None):
        raise OptionError(
            "Name one run, or two with --compare.",
            why="Neither or both were given.",
            hint="For example: pellucid report runs/eyes",
        )
    if compare is not None:
        _compare(*compare, margin, out, title, as_json=as_json, quiet=quiet)
        return
    assert folder is not None
    study.check_is_study(folder)
    scores = folder / "evaluate" / "scores.json"
    if not scores.exists():
        raise BadInput(
            f"{folder} was not evaluated.",
            why=f"There is no {scores}.",
            hint=f"Run: pellucid evaluate {folder}",
            path=folder,
        )
    path = folder / "report.html" if out is None else out / "report.html" if out.is_dir() else out
    where = options.device(device)
    study.report(folder, Table.from_json(scores), path, cases=cases, title=title, device=where)
    if as_json:
        show({"report": str(path)})
    else:
        say(f"Wrote {path}.", quiet=quiet)


def _compare(
    new: Path, old: Path, margin: float, out: Path | None, title: str | None, *, as_json: bool, quiet: bool
) -> None:
    from dataclasses import asdict

    from pellucid.comparison import compare_runs, report_comparison, words

    found = compare_runs(new, old, margin=margin)
    path = Path("compared.html") if out is None else out / "compared.html" if out.is_dir() else out
    report_comparison(found, path, title=title)
    if as_json:
        rows = [asdict(c) for c in found.performance]
        show({"report": str(path), "performance": rows, "summary": words(found)})
        return
    for line in words(found):
        print(line)
    say(f"Wrote {path}.", quiet=quiet)
