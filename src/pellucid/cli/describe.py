"""`pellucid describe`: evidence as a table that can be read, and a decision tree that decides by it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli import options
from pellucid.cli.output import check_free, progress, say, show
from pellucid.errors import OptionError

if TYPE_CHECKING:
    from pellucid.hybrids.hybrid import Hybrid

NAME = "describe"
HELP = (
    "Put evidence into a table: per class and place how much, how strong, how wide, how many pieces. "
    "Grows a shallow decision tree on it and judges both beside the network; `report` shows a run's tree."
)
EXAMPLES = (
    "pellucid describe runs/eyes",
    "pellucid describe runs/eyes --depth 2 --learn labels",
    "pellucid describe lesionlab:fundus --model runs/demo/softcam n_images=300 split=test",
)

_KIND = "descriptors"


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A run made by `train` with folds, or data that a network has not seen (then name it with --model).",
            show_default=False,
        ),
    ],
    words: options.Settings = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="A saved model's folder.")] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, max=6, help="Questions to an answer, at most.")] = 3,
    learn: Annotated[
        str, typer.Option("--learn", help="What the tree is fitted to: the network's answers, or the labels.")
    ] = "answers",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write; by default the run, or runs/describe.")
    ] = None,
    config: options.Config = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    given = options.settings(words, config)
    own_run = (Path(source) / "study.json").is_file()
    folder = out or (Path(source) / "describe" if own_run else Path("runs/describe"))
    if own_run:
        _check_run(source, given, model)
    else:
        given, _ = options.divided(given, source, ())
    check_free(folder, _KIND)
    if dry_run:
        say(f"Would write {folder}/ (--dry-run).")
        return
    from pellucid import study
    from pellucid.hybrids.tree import check_lesson
    from pellucid.models import storage

    fitted: dict[str, Any] = {"depth": depth, "learn": check_lesson(learn)}
    found = _of_run(source, device, quiet, fitted) if own_run else _of_data(source, given, model, device, quiet, fitted)
    found.save(folder)
    storage.write_manifest(folder, ("descriptors.csv", "tree.svg", "tree.json"), kind=_KIND)
    if own_run and out is None:
        study.seal(source)
    if as_json:
        show(found.as_dict())
        return
    print(found)
    for name, why in found.descriptors.skipped.items():
        say(f"skipped {name}: {why}")
    say(f"Wrote {folder}/ (descriptors.csv, tree.svg, tree.json).", quiet=quiet)


def _check_run(source: str, reading: dict[str, Any], model: str | None) -> None:
    """A run is described on its own data with its own networks."""
    if reading or model:
        raise OptionError(
            f"{source} is a run, which has data and networks of its own.",
            why=f"{'--model' if model else min(reading)} was given too.",
            hint="Leave it out, or name data and a network: pellucid describe DATA --model FOLDER.",
        )


def _of_run(source: str, device: str, quiet: bool, fitted: dict[str, Any]) -> Hybrid:
    from pellucid.hybrids.hybrid import of_run

    with progress("described", quiet=quiet) as tick:
        return of_run(source, device=options.device(device), progress=tick, **fitted)


def _of_data(source: str, reading: dict[str, Any], model: str | None, device: str, quiet: bool, fitted: dict[str, Any]) -> Hybrid:  # fmt: skip
    from pellucid.hybrids.hybrid import of_data
    from pellucid.networks import open_network
    from pellucid.study import check_is_study, data_for

    if model is None:
        if Path(source).is_dir() and any(Path(source).glob("seed-*/study.json")):
            check_is_study(source)
        raise OptionError(
            f"There is no network to describe {source} by.",
            why="It is not a run made by train.",
            hint="Name one: --model FOLDER.",
        )
    network = open_network(model, weights=None, device=options.device(device))
    data = data_for({model: network}, source, reading)
    with progress("described", quiet=quiet) as tick:
        return of_data(network, data, progress=tick, **fitted)
