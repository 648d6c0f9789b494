"""`pellucid train`: fine-tune a network on your own files, as a SoftCAM or as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show
from pellucid.errors import OptionError

if TYPE_CHECKING:
    from pellucid.plan import Plan
    from pellucid.study import Study
    from pellucid.training.launch import Processes

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
    "pellucid train photographs/ --model pellucid:s8 --sweep --out runs/sweep penalty=l1,entropy strength=0.02,0.1,0.5 val_fraction=0.2",
    "pellucid train photographs/ --model torchvision:resnet50 --devices 2 --nodes 2 --rdzv node1:29500 --out /shared/runs/big",
    "pellucid train photographs/ --model torchvision:mobilenet_v2 --weights mobilenet_v2.pth --tap features.13 --local-after features.6 --out runs/local",
    "pellucid train photographs/ --validation val --model pellucid:s8 --out runs/chosen epochs=20 keep_best=val_loss",
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
    validation: Annotated[
        str | None,
        typer.Option(
            "--validation", metavar="PART", help="Part of a published split that chooses the weights, such as val."
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Fit only a linear classifier on the frozen features (logistic regression)."),
    ] = False,
    black_box: Annotated[
        bool, typer.Option("--black-box", help="Train the network as it is, without conversion.")
    ] = False,
    tap: Annotated[
        list[str] | None,
        typer.Option(
            "--tap", metavar="LAYER", help="Take the evidence at this layer instead of the last; again for more."
        ),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale", metavar="LAYER", help="Add evidence at this layer to that of the last; again for more."
        ),
    ] = None,
    local_after: Annotated[
        str | None,
        typer.Option(
            "--local-after", metavar="LAYER", help="Make convolutions after this layer 1 wide: cells see little."
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=1, help="Train with that many seeds and tell how much the scores differ between them."
        ),
    ] = 1,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Train with several penalties and strengths (penalty=A,B strength=X,Y) and choose on held-out samples.",
        ),
    ] = False,
    margin: Annotated[
        float, typer.Option("--margin", min=0, help="Of --sweep: the loss of AUC that would still be accepted.")
    ] = 0.01,
    recipe_name: Annotated[
        str | None, typer.Option("--recipe", help="Settings by name: softcam-paper. Words and --config win.")
    ] = None,
    resume: Annotated[
        Literal["auto", "never"],
        typer.Option("--resume", help="auto: go on where it was stopped; never: forget what is in the folder."),
    ] = "auto",
    devices: Annotated[
        int, typer.Option("--devices", min=1, help="Processes on each machine, one per accelerator.")
    ] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines, each of which runs this command.")] = 1,
    rdzv: Annotated[
        str | None, typer.Option("--rdzv", metavar="HOST:PORT", help="Where the machines meet; one of them is HOST.")
    ] = None,
    max_restarts: Annotated[
        int, typer.Option("--max-restarts", min=0, help="How often several processes start again after one died.")
    ] = 3,
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
    _check_together(probe, black_box, sweep, seeds)
    _check_layers(tap, scale, probe or black_box)
    from pellucid.study import Study
    from pellucid.training.config import TrainingConfig

    processes = _processes(devices, nodes, rdzv, max_restarts, device)
    given = {**_recipe(recipe_name, source, quiet), **options.settings(words, config)}
    axes = _axes(given) if sweep else None
    reading, recipe = options.divided(given, source, TrainingConfig.model_fields)
    plan = _plan(plan_file, model, source, reading, quiet)
    if plan is not None:
        reading, recipe = {**plan.reading, **reading}, recipe if probe else {**plan.recipe, **recipe}
        model, folds = model or plan.model, plan.folds if folds is None and not sweep else folds
        validation = validation or (plan.validation if not (folds or probe) else None)
        say("A sweep makes no folds: it chooses on what val_fraction holds out.", quiet=quiet or not sweep)
    assert model is not None
    folds = folds or 0
    if probe:
        _check_probe(recipe, processes)
    named = None if weights is None else str(weights)
    made = TrainingConfig(**{"seed": seed, "device": device, **recipe})
    study = Study(
        source, reading, model, named, folds, probe, black_box, made, validation=validation,
        layers=tuple(tap or scale or ()), besides=bool(scale), local_after=local_after,
    )  # fmt: skip
    if dry_run:
        _tell(study, axes, quiet)
        return
    how = _How(out, processes, again=resume == "never", as_json=as_json, quiet=quiet)
    if axes is not None:
        _swept(study, how, *axes, margin)
    elif seeds > 1:
        _several(study, how, seeds)
    else:
        _one(study, how)


def _check_together(probe: bool, black_box: bool, sweep: bool, seeds: int) -> None:
    """Raise `OptionError` for options that exclude each other."""
    if probe and black_box:
        raise OptionError(
            "--probe and --black-box exclude each other.", why="A probe is a SoftCAM's head.", hint="Leave one out."
        )
    if sweep and seeds > 1:
        raise OptionError(
            "--sweep and --seeds exclude each other.",
            why="A sweep chooses settings, seeds tell how much a result owes to chance.",
            hint="Sweep first, then train what was chosen with --seeds.",
        )


def _check_layers(tap: list[str] | None, scale: list[str] | None, without: bool) -> None:
    """Raise `OptionError` where it would not be clear where the evidence is taken, or there is none."""
    if tap and scale:
        raise OptionError(
            "--tap and --scale exclude each other.",
            why="--tap is instead of the last layer, --scale besides it.",
            hint="Leave one out; --tap can be given for every layer.",
        )
    if without and (tap or scale):
        raise OptionError(
            "--tap and --scale are for trained evidence.",
            why="A black box has none, and a probe takes the network's last features.",
            hint="Leave them out, or --black-box and --probe.",
        )


def _tell(study: Study, axes: tuple[list[str], list[float]] | None, quiet: bool) -> None:
    """What would be trained."""
    print(study.recipe.to_yaml())
    if axes is not None:
        from pellucid.sweep import runs_of

        print(f"runs: {', '.join(runs_of(*axes))}")
    say("Nothing was trained (--dry-run).", quiet=quiet)


def _check_probe(recipe: Mapping[str, Any], processes: Processes | None) -> None:
    """Raise `OptionError` for a setting that a probe does not have."""
    if processes is not None:
        raise OptionError(
            "A probe is fitted in one process.", why="--devices and --nodes ask for several.", hint="Leave them out."
        )
    unknown = set(recipe) - {"seed", "device", "max_bad"}
    if unknown:
        raise OptionError(
            f"A probe has no setting '{min(unknown)}'.",
            why="It is a logistic regression, fitted at once.",
            hint="Leave it out, or train without --probe.",
        )


def _processes(devices: int, nodes: int, rdzv: str | None, max_restarts: int, device: str) -> Processes | None:
    if devices * nodes == 1 and rdzv is None:
        return None
    from pellucid.training.launch import Processes

    processes = Processes(devices, nodes, rdzv, max_restarts, device)
    processes.check()
    return processes


@dataclass(frozen=True)
class _How:
    """out: the folder. processes: that train together, where there are several. again: from the beginning."""

    out: Path
    processes: Processes | None
    again: bool
    as_json: bool
    quiet: bool

    def say(self, text: str) -> None:
        say(text, quiet=self.quiet)

    @property
    def shared(self) -> dict[str, Any]:
        return {"processes": self.processes, "again": self.again, "progress": not self.quiet}


def _one(study: Study, how: _How) -> None:
    from pellucid.study import train_study

    data = train_study(study, how.out, **how.shared)
    runs = [str(fold.folder(how.out)) for fold in data.folds]
    if how.as_json:
        show({"runs": runs})
    else:
        count = f"{len(runs)} {'network' if len(runs) == 1 else 'networks'}"
        following = f"pellucid evaluate {how.out}" if study.folds else f"pellucid evaluate DATA --model {how.out}"
        print(f"Wrote {how.out}/ ({count}).  Next: {following}")


def _axes(given: dict[str, Any]) -> tuple[list[str], list[float]]:
    """The penalties and strengths of a sweep, taken out of the settings: lists, or words with commas."""
    from pellucid.registry import look_up
    from pellucid.sweep import PENALTIES as USUAL
    from pellucid.sweep import STRENGTHS
    from pellucid.training import PENALTIES

    penalties = [str(name) for name in _listed(given.pop("penalty", list(USUAL)))]
    for name in penalties:
        look_up(PENALTIES, name, "penalty")
    return penalties, [_strength(value) for value in _listed(given.pop("strength", list(STRENGTHS)))]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else str(value).split(",")


def _strength(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise OptionError(
            f"A strength cannot be {value!r}.", why="Positive numbers are needed.", hint="For example strength=0.02,0.1,0.5."
        )  # fmt: skip
    return number


def _swept(study: Study, how: _How, penalties: list[str], strengths: list[float], margin: float) -> None:
    from pellucid.sweep import FILE, sweep

    found = sweep(study, how.out, penalties, strengths, margin=margin, **how.shared, say=how.say)
    if how.as_json:
        show(asdict(found))
        return
    print(found)
    print(f"Chosen within one standard error of the best AUC: {how.out / found.one_error}")
    print(f"Chosen as not inferior to no penalty, margin {margin:g}: {how.out / found.non_inferior}")
    print(f"Wrote {how.out}/{FILE}.  Next: pellucid evaluate TEST-DATA --model {how.out / found.non_inferior}")


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


def _several(study: Study, how: _How, count: int) -> None:
    from pellucid.seeds import FILE, train_seeds

    spreads = train_seeds(study, how.out, count, **how.shared, say=how.say)
    if how.as_json:
        show({"spread": [asdict(s) for s in spreads]})
        return
    for spread in spreads:
        print(spread)
    following = f" --model {how.out}/seed-{study.recipe.seed}" if not study.folds else ""
    print(f"Wrote {how.out}/{FILE}.  Next: pellucid evaluate {'DATA' if following else how.out}{following}")
