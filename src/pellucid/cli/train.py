"""`pellucid train`: fine-tune a network on your own files, as a SoftCAM or as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show
from pellucid.errors import OptionError

NAME = "train"
HELP = (
    "Train a network on a folder, a CSV or LesionLab. It is made a SoftCAM first; networks that cannot be made one "
    "are trained as they are with --black-box. A run that was stopped goes on with the same command."
)
EXAMPLES = (
    "pellucid train lesionlab:fundus --model pellucid:s8 --out runs/s8 epochs=8 penalty=l1 strength=0.1 n_images=1500",
    "pellucid train index.csv --model torchvision:mobilenet_v2 --weights mobilenet_v2.pth --folds 5 --out runs/eyes path=file mask_values=1 size=384 epochs=10",
    "pellucid train index.csv --model torchvision:mobilenet_v2 --weights mobilenet_v2.pth --folds 5 --probe --out runs/probe path=file",
)


def run(
    source: options.Source,
    model: Annotated[str, typer.Option("--model", "-m", help="torchvision:NAME, timm:NAME or pellucid:NAME.")],
    words: options.Settings = None,
    weights: options.Weights = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/train"),
    folds: Annotated[
        int,
        typer.Option(
            "--folds", min=0, help="Train once per fold and leave that fold out; 0 trains once on everything."
        ),
    ] = 0,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Fit only a linear classifier on the frozen features (logistic regression)."),
    ] = False,
    black_box: Annotated[
        bool, typer.Option("--black-box", help="Train the network as it is, without conversion.")
    ] = False,
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

    reading, recipe = options.divided(options.settings(words, config), source, TrainingConfig.model_fields)
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
