"""`pellucid train`: fine-tune a network on your own files, as a SoftCAM or as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show
from pellucid.errors import OptionError

if TYPE_CHECKING:
    from pellucid.plan import Plan
    from pellucid.study import Study

NAME = "train"
HELP = (
    "Train a network on a folder, a CSV, time series or LesionLab. It is made a SoftCAM first; networks that cannot be made one "
    "are trained as they are with --black-box. A run that was stopped goes on with the same command."
)
EXAMPLES = (
    "pellucid train photographs/",
    "pellucid train lesionlab:fundus --model pellucid:s8 --out runs/s8 epochs=8 penalty=l1 strength=0.1 n_images=1500",
    "pellucid train index.csv --model torchvision:mobilenet_v2 --weights mobilenet_v2.pth --folds 5 --out runs/eyes path=file mask_values=1 size=384 epochs=10",
    "pellucid train index.csv --model torchvision:mobilenet_v2 --weights mobilenet_v2.pth --folds 5 --probe --out runs/probe path=file",
    "pellucid train photographs/ --model torchvision:resnet50 --recipe softcam-paper --out runs/paper",
    "pellucid train index.csv --model pellucid:s8 --folds 5 --seeds 3 --out runs/spread epochs=10 size=128",
    "pellucid train beats.txt --model pellucid:s8 --folds 5 --out runs/beats epochs=60 rate=250",
)


def run(
    source: options.Source,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="torchvision:NAME, timm:NAME or pellucid:NAME; left out, a plan is made and obeyed."
        ),
    ] = None,
    words: options.Settings = None,
    weights: options.Weights = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/train"),
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds", min=0, help="Train once per fold and leave that fold out; 0 trains once on everything."
        ),
    ] = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="What pellucid inspect wrote; words and options win.")
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Fit only a linear classifier on the frozen features (logistic regression)."),
    ] = False,
    black_box: Annotated[
        bool, typer.Option("--black-box", help="Train the network as it is, without conversion.")
    ] = False,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=1, help="Train with that many seeds and tell how much the scores differ between them."
        ),
    ] = 1,
    recipe_name: Annotated[
        str | None, typer.Option("--recipe", help="Settings by name: softcam-paper. Words and --config win.")
    ] = None,
    config: options.Config = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    from pellucid.data import reader_for

    reader_for(source)  # a wrong path is said before anything is loaded
    if probe and black_box:
        raise OptionError(
            "--probe and --black-box exclude each other.", why="A probe is a SoftCAM's head.", hint="Leave one out."
        )
    from pellucid.study import Study, open_study, seal, train_fold
    from pellucid.training.config import TrainingConfig

    given = {**_recipe(recipe_name, source, quiet), **options.settings(words, config)}
    reading, recipe = options.divided(given, source, TrainingConfig.model_fields)
    plan = _plan(plan_file, model, source, reading, quiet)
    if plan is not None:
        reading, recipe = {**plan.reading, **reading}, recipe if probe else {**plan.recipe, **recipe}
        model, folds = model or plan.model, plan.folds if folds is None else folds
    assert model is not None
    folds = folds or 0
    if probe and set(recipe) - {"seed", "device", "max_bad"}:
        raise OptionError(
            f"A probe has no setting '{min(set(recipe) - {'seed', 'device', 'max_bad'})}'.",
            why="It is a logistic regression, fitted at once.",
            hint="Leave it out, or train without --probe.",
        )
    named = None if weights is None else str(weights)
    made = TrainingConfig(**{"seed": seed, "device": device, **recipe})
    study = Study(source, reading, model, named, folds, probe, black_box, made)
    if dry_run:
        print(study.recipe.to_yaml())
        say("Nothing was trained (--dry-run).", quiet=quiet)
        return
    if seeds > 1:
        _several(study, out, seeds, as_json=as_json, quiet=quiet)
        return
    data = open_study(study, out)
    say(f"{len(data.dataset)} samples of {', '.join(data.dataset.classes)}.", quiet=quiet)
    runs = []
    for fold in data.folds:
        say(f"Training {fold.name} on {len(fold.train)} samples ...", quiet=quiet)
        runs.append(train_fold(study, data, fold, out, progress=not quiet))
    seal(out)
    if as_json:
        show({"runs": [str(r) for r in runs]})
    else:
        count = f"{len(runs)} {'network' if len(runs) == 1 else 'networks'}"
        following = f"pellucid evaluate {out}" if folds else f"pellucid evaluate DATA --model {out}"
        print(f"Wrote {out}/ ({count}).  Next: {following}")


def _plan(path: Path | None, model: str | None, source: str, reading: dict[str, Any], quiet: bool) -> Plan | None:
    """The plan in a file, or where not even a network was named one made of what the data hold; printed."""
    from pellucid.cli.output import listed
    from pellucid.plan import Plan, plan_for

    plan = plan_for(source, reading) if path is None and model is None else None if path is None else Plan.read(path)
    say("" if plan is None else listed(plan.rows()), quiet=quiet or plan is None)
    if path is not None and plan is not None:
        plan.check(source, reading)
    return plan


def _recipe(name: str | None, source: str, quiet: bool) -> dict[str, Any]:
    """The settings of a recipe, without those that the source's reader has no use for."""
    from pellucid.data import options_of
    from pellucid.training.config import TrainingConfig
    from pellucid.training.recipes import settings_of

    found = {} if name is None else settings_of(name)
    known = {*options_of(source), *TrainingConfig.model_fields}
    left = [key for key in found if key not in known]
    if left:
        say(f"Not used from the recipe, since {source} has no such setting: {', '.join(left)}.", quiet=quiet)
    return {key: value for key, value in found.items() if key in known}


def _several(study: Study, out: Path, count: int, *, as_json: bool, quiet: bool) -> None:
    from dataclasses import asdict

    from pellucid.seeds import FILE, train_seeds

    spreads = train_seeds(study, out, count, progress=not quiet, say=lambda text: say(text, quiet=quiet))
    if as_json:
        show({"spread": [asdict(s) for s in spreads]})
        return
    for spread in spreads:
        print(spread)
    print(f"Wrote {out}/{FILE}.  Next: pellucid evaluate {out}/seed-{study.recipe.seed}")
