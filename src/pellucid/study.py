"""From data to evaluated networks, fold by fold: what `pellucid train`, `evaluate` and `report` do on a run folder.

OUT/  study.json     source, reading, network, weights, recipe: what decides everything below
      splits.json    which sample is in which fold
      fold-0/ ...    one trained network each (or the network itself in OUT where there are no folds)
      evaluate/      scores.json, scores.csv and the finished parts
      manifest.json  SHA-256 of these files
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pellucid import evaluation, files
from pellucid.data import open_data, options_of, parted
from pellucid.data.splits import Split, folds
from pellucid.errors import BadInput, ConversionError, OptionError, nearest
from pellucid.models import storage, zoo
from pellucid.models.convert import convert
from pellucid.models.multi_scale import multi_scale
from pellucid.models.narrowing import local_trunk
from pellucid.networks import check_takes, open_network, open_saved, reading_for
from pellucid.record import Table, join
from pellucid.sample import Dataset, Sample, Subset
from pellucid.training import run_folder
from pellucid.training.config import TrainingConfig
from pellucid.training.data import first_sample
from pellucid.training.loop import train
from pellucid.training.probe import probe
from pellucid.training.ranks import Ranks

if TYPE_CHECKING:
    from pellucid.training.launch import Processes

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Study:
    """All that decides the networks of a run. folds 0: one network on everything.

    validation: the part of a published split on which weights and settings are chosen. layers: where evidence is
    taken, instead of at the classifier's layer or, with besides, there as well (see `multi_scale`). local_after: the
    layer after which convolutions are 1 wide (see `local_trunk`).
    """

    source: str
    reading: Mapping[str, Any]
    model: str
    weights: str | None
    folds: int
    probe: bool
    black_box: bool
    recipe: TrainingConfig
    validation: str | None = None
    layers: tuple[str, ...] = ()
    besides: bool = False
    local_after: str | None = None

    @property
    def kind(self) -> str:
        return "linear probe" if self.probe else "black box" if self.black_box else "SoftCAM"

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "reading": dict(self.reading), "recipe": self.recipe.model_dump(mode="json")}

    @classmethod
    def load(cls, folder: str | Path) -> Study:
        check_is_study(folder)
        path = Path(folder) / "study.json"
        stored = files.read_json(path)
        try:
            source, recipe = str(stored["source"]), TrainingConfig(**stored["recipe"])
            # Where the study lies may have changed since; where its data lie relative to it has not.
            prefix, place = parted(source)
            source = f"{prefix}{(Path(folder) / place).resolve()}" if place else source
            layers = tuple(stored.get("layers", ()))
            return cls(**{**stored, "source": source, "recipe": recipe, "layers": layers})
        except (KeyError, TypeError) as error:
            raise BadInput(f"{path} describes no study.", why=str(error), hint="Train again.", path=path) from error


@dataclass(frozen=True)
class Fold:
    """One network: the samples it learns from, and those it never sees (None: there are none)."""

    name: str
    train: Subset
    test: Subset | None

    def folder(self, out: str | Path) -> Path:
        return Path(out) if self.test is None else Path(out) / self.name


@dataclass(frozen=True)
class Opened:
    """A study's data and folds, and the validation part of a published split where it is used."""

    dataset: Dataset
    folds: tuple[Fold, ...]
    validation: Dataset | None = None


def is_study(folder: str | Path) -> bool:
    """Whether `train` made this folder."""
    return (Path(folder) / "study.json").is_file()


def seeds_in(folder: str | Path) -> list[Path]:
    """The studies of a folder that `train` made with several seeds."""
    found = (path.parent for path in Path(folder).glob("seed-*/study.json"))
    return sorted(found, key=lambda place: int(place.name.removeprefix("seed-")))


def check_is_study(folder: str | Path) -> None:
    """Raise `BadInput` for a folder that `train` did not make."""
    if not is_study(folder):
        raise BadInput(
            f"{folder} is no run.",
            why="It has no study.json.",
            hint=_hint_for(Path(folder)),
            path=folder,
        )


def _hint_for(folder: Path) -> str:
    several = seeds_in(folder) or sorted(path.parent for path in folder.glob("*/study.json"))
    return f"Name one of its runs: {several[0]}." if several else "Name a folder written by pellucid train."


def open_study(study: Study, out: Path) -> Opened:
    """Read the data, decide the folds, and write both decisions down. A folder with another study is refused."""
    dataset = open_data(study.source, **study.reading)
    if len(dataset.classes) < 2:
        raise BadInput(
            f"{study.source} has no classes to learn.",
            why=f"It has {len(dataset.classes)}.",
            hint="Give a folder per class, or a CSV with labels.",
            path=study.source,
        )
    validation = _validation(study, dataset)
    _note(study, out)
    if study.folds == 0:
        return Opened(dataset, (Fold("all", Subset(dataset, tuple(range(len(dataset)))), None),), validation)
    made, parts = [], _split(study, dataset, out).parts
    for name, test in parts.items():
        seen = tuple(i for part, rows in parts.items() if part != name for i in rows)
        made.append(Fold(f"fold-{name}", Subset(dataset, seen), Subset(dataset, tuple(test))))
    return Opened(dataset, tuple(made))


def _validation(study: Study, dataset: Dataset) -> Dataset | None:
    """The named part of the published split, with the classes of what is trained on."""
    if study.validation is None:
        return None
    if "split" not in options_of(study.source):
        raise OptionError(
            f"{study.source} does not come in parts.",
            why=f"A part '{study.validation}' was asked for.",
            hint="Hold samples out: val_fraction=0.15.",
        )
    if study.folds or study.probe:
        raise OptionError(
            "A validation part goes with one training.",
            why="A probe chooses nothing." if study.probe else "Folds make parts of their own.",
            hint="Leave out --validation" + ("." if study.probe else ", or --folds."),
        )
    if study.validation == study.reading.get("split", "train"):
        raise OptionError(
            f"Training and validation would be the same part, '{study.validation}'.",
            hint="Name another with --validation.",
        )
    named = {"classes": list(dataset.classes)} if "classes" in options_of(study.source) else {}
    return open_data(study.source, **{**named, **study.reading, "split": study.validation})


def _note(study: Study, out: Path) -> None:
    """Write study.json, or see that it is this study's. One by which nothing was trained yet gives way."""
    described = study.as_dict()
    prefix, place = parted(study.source)
    if place:
        described["source"] = prefix + os.path.relpath(Path(place).resolve(), out.resolve())
    path = out / "study.json"
    known, wanted = files.read_json(path) if path.exists() else None, files.plain(described)
    if known == wanted or _as_of_now(known) == wanted:
        return
    if known is not None and any(next(out.glob(begun), None) for begun in _BEGUN):
        differ = [k for k in wanted if not isinstance(known, dict) or known.get(k) != wanted[k]]
        raise OptionError(
            f"{out} holds another study.",
            why=f"Its study.json differs from what was asked for in: {', '.join(differ)}.",
            hint="Choose another --out, or delete the folder.",
            path=out,
        )
    files.remove(out / "splits.json")
    files.write_json(path, described)


def _as_of_now(known: Any) -> Any:
    """A study on disk with the defaults of what came later, which is what was done without."""
    if not isinstance(known, dict) or not isinstance(known.get("recipe"), dict):
        return known
    try:
        recipe = TrainingConfig(**known["recipe"])
    except OptionError:
        return known
    later: dict[str, Any] = {"validation": None, "layers": [], "besides": False, "local_after": None}
    return {**later, **known, "recipe": files.plain(recipe.model_dump(mode="json"))}


_BEGUN = ("plan.json", "model.json", "fold-*/plan.json", "fold-*/model.json")


def _split(study: Study, dataset: Dataset, out: Path) -> Split:
    """The folds, as written down when the study was begun."""
    path = out / "splits.json"
    if not path.exists():
        recipe = study.recipe
        made = folds(dataset, study.folds, seed=recipe.seed if recipe.split_seed is None else recipe.split_seed)
        made.write(path)
        return made
    known = Split.read(path, dataset)
    if known.fingerprint != dataset.fingerprint:
        raise BadInput(
            f"The data in {study.source} have changed.",
            why=f"They are not those that {path} was made for.",
            hint="Restore them, or train again into another folder.",
            path=study.source,
        )
    return known


def train_study(
    study: Study, out: Path, *, processes: Processes | None = None, again: bool = False, progress: bool = True
) -> Opened:
    """Train all networks of the study: a finished one is kept as it is, one that was stopped goes on.

    processes: how many train each network together. again: forget what is there and start from the beginning.
    """
    data = open_study(study, out)
    if again:
        for fold in data.folds:
            with run_folder.claimed(fold.folder(out)):
                run_folder.forget(fold.folder(out))
    if processes is None or not processes.several:
        _train_folds(study, data, out, progress)
        first = True
    else:
        from pellucid.training.launch import launch

        if progress and processes.nodes > 1:
            print(f"Waiting for {processes.nodes} machines at {processes.rdzv} ...", file=sys.stderr, flush=True)
        first = launch(processes, _train_here, study, out, progress)
    if first:
        seal(out)
    return data


def _train_here(study: Study, out: Path, progress: bool) -> None:
    """The part of one process among several."""
    _train_folds(study, open_study(study, out), out, progress and Ranks.here().first)


def _train_folds(study: Study, data: Opened, out: Path, progress: bool) -> None:
    for fold in data.folds:
        if progress:
            print(f"Training {fold.name} on {len(fold.train)} samples ...", file=sys.stderr, flush=True)
        train_fold(study, data, fold, out, progress=progress)


def train_fold(study: Study, data: Opened, fold: Fold, out: Path, *, progress: bool = True) -> Path:
    """Train one network of the study; a finished one is kept as it is."""
    folder = fold.folder(out)
    network = _fresh(study, data, fold)
    network.preprocessing = preprocessing_of(data.dataset)  # type: ignore[assignment]
    if not study.probe:
        train(network, fold.train, study.recipe, validation=data.validation, folder=folder, progress=progress)
    elif not (folder / "manifest.json").exists():
        storage.save_model(probe(network, fold.train, seed=study.recipe.seed), folder)
    return folder


def _fresh(study: Study, data: Opened, fold: Fold) -> nn.Module:
    """The network before training, the same on every run."""
    classes = data.dataset.classes
    example = first_sample(fold.train, study.recipe.max_bad).input[None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(study.recipe.seed)
        shape = zoo.shape_options(study.model, example.shape[1:])
        network = zoo.build(study.model, weights=study.weights, num_classes=len(classes), **shape)
    check_takes(network, example)
    if study.local_after is not None:
        network = local_trunk(network, example, study.local_after)
    if study.black_box:
        return network
    try:
        made = convert(network, example, classes=classes)
        return multi_scale(made, example, study.layers, instead=not study.besides) if study.layers else made
    except ConversionError as error:
        hint = f"{error.hint} Or train it as it is: --black-box.".strip()
        raise ConversionError(error.message, why=error.why, hint=hint) from error


def preprocessing_of(dataset: Dataset) -> dict[str, Any]:
    """How the inputs were made ready, to be kept with the weights, as options of the readers of files."""
    known: Any = dataset
    if hasattr(known, "preparation"):
        found = {k: v for k, v in asdict(known.preparation).items() if v is not None}
        size = found.get("size", ())
        if len(set(size)) == 1:
            found["size"] = size[0]
        return files.plain(found)  # type: ignore[no-any-return]
    if all(hasattr(known, name) for name in ("size", "mean", "std")):  # drawn pictures
        mean, std = list(known.mean), list(known.std)
        return {"size": known.size, "crop": "resize", "mean": mean, "std": std, "grey": len(mean) == 1}
    return {}


def evaluate_out_of_fold(
    folder: str | Path, chosen: Mapping[str, Any], *, device: torch.device, folder_out: Path, progress: Progress
) -> Table:
    """Every network on the fold it did not see, pooled: each sample is predicted and explained once."""
    study = Study.load(folder)
    data = open_study(study, Path(folder))
    sizes = [0 if fold.test is None else ceil(len(fold.test) / chosen["batch_size"]) for fold in data.folds]
    tables = []
    for k, fold in enumerate(data.folds):
        if fold.test is None:
            raise OptionError(
                f"{folder} was trained on all of its data.",
                why="Scores on training data would flatter it.",
                hint=f"Train with --folds 5, or name other data: pellucid evaluate DATA --model {folder}",
            )
        network = open_network(str(fold.folder(folder)), weights=None, device=device)
        shown = _after(progress, sum(sizes[:k]), sum(sizes))
        found = evaluation.evaluate(
            {study.kind: network}, fold.test, fold=k, folder=folder_out / fold.name, progress=shown, **chosen
        )
        tables.append(found)
    return join(tables)


def evaluate_seeds(
    folder: str | Path, chosen: Mapping[str, Any], *, device: torch.device, folder_out: Path, progress: Progress
) -> Table:
    """The networks of every seed on the folds they did not see; rows say by their network's name which seed it was."""
    places, tables = seeds_in(folder), []
    for k, place in enumerate(places):
        found = evaluate_out_of_fold(
            place, chosen, device=device, folder_out=folder_out / place.name, progress=_of_several(progress, k, len(places))
        )  # fmt: skip
        tables.append(_named(found, place.name.replace("-", " ")))
    return join(tables)


def _named(table: Table, seed: str) -> Table:
    return Table(
        tuple(replace(r, model=f"{r.model}, {seed}") for r in table.records),
        tuple(replace(p, model=f"{p.model}, {seed}") for p in table.predictions),
    )


def _of_several(progress: Progress, k: int, count: int) -> Progress:
    return lambda done, total: progress(k * total + done, count * total)


def _after(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, parts: progress(before + done, total)


def evaluate_models(
    source: str,
    reading: Mapping[str, Any],
    names: Sequence[str],
    chosen: Mapping[str, Any],
    *,
    device: torch.device,
    folder_out: Path,
    progress: Progress,
) -> Table:
    """Saved networks on data they are known not to have seen (that is for the user to know)."""
    if not names:
        raise OptionError(
            f"There is no network to evaluate on {source}.",
            why="It is not a run made by train.",
            hint="Name one or more: --model FOLDER.",
        )
    networks = {name: open_saved(name).eval().to(device) for name in names}
    data = data_for(networks, source, reading)
    return evaluation.evaluate(networks, data, folder=folder_out / "parts", progress=progress, **chosen)


def data_for(networks: Mapping[str, nn.Module], source: str, reading: Mapping[str, Any]) -> Dataset:
    """The data as the networks want them, labels in the networks' order of classes. Raises `OptionError` where they differ."""
    wanted = {name: reading_for(network, source, reading) for name, network in networks.items()}
    first = next(iter(networks))
    for name, read in wanted.items():
        other = [key for key in {**read, **wanted[first]} if read.get(key) != wanted[first].get(key)]
        if other:
            raise OptionError(
                f"{first} and {name} want their inputs differently.",
                why=f"They differ in {', '.join(sorted(other))}.",
                hint="Give these settings yourself, or evaluate one after the other.",
            )
    data = open_data(source, **wanted[first])
    for name, network in networks.items():
        known = tuple(getattr(network, "classes", None) or ())
        if known and data.classes and data.classes != known:
            data = _in_order(data, known, name, source, wanted[first])
    return data


def _in_order(data: Dataset, known: tuple[str, ...], name: str, source: str, reading: Mapping[str, Any]) -> Dataset:
    """The same data with the network's classes."""
    for label in data.classes:
        if label not in known:
            raise OptionError(
                f"{source} has a class '{label}' that {name} does not know.",
                why=f"Its classes: {', '.join(known)}.",
                hint=nearest(label, known),
            )
    if "classes" not in options_of(source) or "classes" in reading:
        raise OptionError(
            f"{source} and {name} have their classes in another order.",
            why=f"{', '.join(data.classes)} against {', '.join(known)}.",
            hint=f"Give classes=[{', '.join(known)}].",
        )
    return open_data(source, **{**reading, "classes": known})


_SEALED = ("study.json", "splits.json", "report.html", "*/manifest.json", "evaluate/**/*", "describe/*")


def seal(folder: str | Path) -> Path:
    """Note the SHA-256 of what `train`, `evaluate` and `report` left in the folder, so that `verify` can check it."""
    folder = Path(folder)
    if (folder / "model.json").exists():
        return run_folder.refresh_manifest(folder)
    found = {p.relative_to(folder).as_posix() for pattern in _SEALED for p in folder.glob(pattern) if p.is_file()}
    return storage.write_manifest(folder, sorted(found), kind="study")


def report(folder: Path, table: Table, path: Path, *, cases: int, title: str | None, device: torch.device) -> Path:
    """The report of an evaluated study."""
    from pellucid import reports
    from pellucid.hybrids import hybrid

    described = (folder / "describe" / "tree.json").exists()
    study = Study.load(folder)
    data = open_study(study, folder)
    where = _where(data)

    def look_up(name: str) -> tuple[nn.Module, Sample]:
        fold, test, i = where[name]
        return open_network(str(fold.folder(folder)), weights=None, device=device), test[i]

    made = reports.build(
        table,
        title=title or f"{study.kind} on {Path(study.source).name}",
        look_up=look_up,
        main=study.kind,
        cases=cases,
        classes=data.dataset.classes,
        settings={"study": study.as_dict()},
        hashes={"data": data.dataset.fingerprint, **_hashes(folder, data)},
        commands=(
            f"pellucid evaluate {folder}",
            *([f"pellucid describe {folder}"] if described else []),
            f"pellucid report {folder}",
        ),
        data=_described(data.dataset),
        tree=hybrid.block(folder / "describe") if described else None,
    )
    written = reports.write(made, path)
    seal(folder)
    return written


def _where(data: Opened) -> dict[str, tuple[Fold, Subset, int]]:
    """For every sample the fold that did not train on it, and its place there."""
    found = {}
    for fold in data.folds:
        for i in range(0 if fold.test is None else len(fold.test)):
            assert fold.test is not None
            found[fold.test.facts(i).name] = (fold, fold.test, i)
    return found


def _described(dataset: Dataset) -> dict[str, str]:
    groups = {dataset.facts(i).group for i in range(len(dataset))}
    patients = "not known: every sample counts as one" if groups == {""} else str(len(groups))
    return {"samples": str(len(dataset)), "groups (patients)": patients, "classes": ", ".join(dataset.classes)}


def _hashes(folder: Path, data: Opened) -> dict[str, str]:
    return {f"weights of {fold.name}": files.sha256(fold.folder(folder) / "model.safetensors") for fold in data.folds}
