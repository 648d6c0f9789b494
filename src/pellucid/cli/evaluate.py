"""`pellucid evaluate`: predictions and explanations, scored with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli import options
from pellucid.cli.output import progress, say, show
from pellucid.errors import BadInput, OptionError, nearest

if TYPE_CHECKING:
    from pellucid.record import Table

NAME = "evaluate"
HELP = (
    "Score predictions and explanations, with intervals. "
    "Of a run (all its seeds, where it has several), on the folds that each network did not see, or of saved models on any data."
)
EXAMPLES = (
    "pellucid evaluate runs/eyes",
    "pellucid evaluate lesionlab:fundus --model runs/s8 n_images=200 split=test",
    "pellucid evaluate index.csv --model models/a --model models/b --methods evidence,random_map path=file",
    "pellucid evaluate runs/eyes --metrics pointing_game,relevance_mass pointing_game.tolerance=5",
)


def run(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A run made by `train`, or data (then name models with --model).")
    ],
    words: options.Settings = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="A saved model's folder; may be repeated.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help="Names with commas; by default evidence, cam, grad_cam, saliency and random_map."
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Names with commas, or 'all'; by default those that cost little.")
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option("--controls", help="Maps that know nothing, and the mask; by default all. '' for none."),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="Explain the true class (label) or the predicted one (predicted).")
    ] = "label",
    grid: Annotated[
        str, typer.Option("--grid", help="Score maps on the cells they have (own) or all on the network's (cells).")
    ] = "own",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write; by default the run, or runs/evaluate.")
    ] = None,
    batch_size: options.BatchSize = 16,
    max_bad: options.MaxBad = 0.1,
    config: options.Config = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    given = options.settings(words, config)
    of_leaves = _of_leaves({k: v for k, v in given.items() if "." in k})
    reading = {k: v for k, v in given.items() if "." not in k}
    seeds = any(Path(source).glob("seed-*/study.json"))
    own_run = seeds or (Path(source) / "study.json").is_file()
    if own_run:
        _check_run(source, reading, model)
    else:
        reading, _ = options.divided(reading, source, ())
    place = out or (Path(source) if own_run else Path("runs/evaluate"))
    folder = place / "evaluate"
    if dry_run:
        say(f"Would write {folder}/ (--dry-run).")
        return
    from pellucid import study
    from pellucid.models import storage

    chosen = {
        "methods": _names(methods), "metrics": _metrics(metrics), "controls": _names(controls), "target": target, "options": of_leaves,
        "grid": grid, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    where = options.device(device)
    with progress("scored", quiet=quiet) as tick:
        if own_run:
            scored = study.evaluate_seeds if seeds else study.evaluate_out_of_fold
            table = scored(source, chosen, device=where, folder_out=folder, progress=tick)
        else:
            table = study.evaluate_models(
                source, reading, model or [], chosen, device=where, folder_out=folder, progress=tick
            )
    table.to_json(folder / "scores.json")
    table.to_csv(folder / "scores.csv")
    if study.is_study(place):
        study.seal(place)
    else:
        storage.write_manifest(folder, ("scores.json", "scores.csv"), kind="scores")
    _refuse_if_mostly_bad(table, max_bad)
    if as_json:
        _show(table)
    else:
        _print(table)
    for record in table.failures():
        say(f"{record.sample}{' ' + record.method if record.method else ''}: {record.status}")
    say(f"Wrote {folder}/scores.json and scores.csv.", quiet=quiet)


def _of_leaves(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """LEAF.OPTION=VALUE words by leaf: a method or a metric."""
    from pellucid.methods import METHODS
    from pellucid.metrics import METRICS

    found: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        leaf, _, option = key.partition(".")
        if leaf not in METHODS and leaf not in METRICS:
            raise OptionError(
                f"There is no method or metric '{leaf}'.",
                why=f"'{key}' would be an option of it.",
                hint=nearest(leaf, [*METHODS, *METRICS]),
            )
        found.setdefault(leaf, {})[option] = value
    return found


def _check_run(source: str, reading: Mapping[str, Any], model: list[str] | None) -> None:
    """A run is scored on its own data with its own networks."""
    if reading:
        raise OptionError(
            f"There is no setting '{min(reading)}' for a run.",
            why=f"{source} is scored on the data it was made from, read as in training.",
            hint="Leave it out, or name data and networks: pellucid evaluate DATA --model FOLDER.",
        )
    if model:
        raise OptionError(
            f"{source} is a run, not data.", why="It is scored with its own networks.", hint="Leave out --model."
        )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _metrics(text: str | None) -> list[str] | None:
    from pellucid.metrics import METRICS

    return list(METRICS) if text == "all" else _names(text)


def _refuse_if_mostly_bad(table: Table, max_bad: float) -> None:
    unread = {r.sample for r in table.failures() if not r.method}
    read = {p.sample for p in table.predictions} | {r.sample for r in table.records if r.method}
    total = len(unread) + len(read)
    if not read or len(unread) > max_bad * total:
        raise BadInput(
            f"{len(unread)} of {total} samples cannot be read.",
            why="That is more than --max-bad allows.",
            hint="Mend them, or raise --max-bad.",
        )


def _show(table: Table) -> None:
    show(
        {
            "performance": [r.as_dict() for r in table.performance()],
            "scores": [r.as_dict() for r in table.summary()],
            "failures": [{"sample": r.sample, "method": r.method, "status": r.status} for r in table.failures()],
        }
    )


def _print(table: Table) -> None:
    for row in table.performance():
        print(f"{row.model}  {row.metric}  {row.interval}  n={row.interval.n}")
    print(f"\n{table}")
