"""`pellucid report`: one HTML file that a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show
from pellucid.errors import BadInput

NAME = "report"
HELP = (
    "Write the HTML report of an evaluated run. "
    "Performance, explanation scores with controls, worst and typical cases, settings, hashes."
)
EXAMPLES = ("pellucid report runs/eyes", "pellucid report runs/eyes --out eyes.html --cases 8")


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run that `train` made and `evaluate` scored.")],
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
