"""What is audited: networks, samples that they did not see, and what is known of how they came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid import files, study
from pellucid.audit.observe import Part
from pellucid.call import weights_device
from pellucid.errors import BadInput, OptionError
from pellucid.models import storage
from pellucid.networks import made_explainable, open_network
from pellucid.record import Table
from pellucid.sample import Dataset
from pellucid.training import run_folder
from pellucid.training.data import first_sample


@dataclass(frozen=True)
class Subject:
    """One run (or saved network) and the data that it is judged by.

    trainings: the parts of each network trained independently in the same way; the first is what is audited, the others
    tell what belongs to training chance. learnt: what the first learnt from, None where nobody knows; folds: whether that
    is what it is judged by too, fold by fold. scored: the run's own scores of explanations, where it was evaluated.
    """

    folder: Path
    source: str
    trainings: tuple[tuple[Part, ...], ...]
    classes: tuple[str, ...]
    learnt: Dataset | None
    folds: bool
    study: study.Study | None
    scored: Table | None
    hashes: Mapping[str, str] = field(repr=False)
    said: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.trainings[0]

    @property
    def network(self) -> nn.Module:
        return self.parts[0].network


def open_subject(
    folder: str | Path, source: str | None, reading: Mapping[str, Any], *, device: torch.device
) -> Subject:
    """Open a run or a saved network, and the data: those named, or the folds that each network of the run did not see.

    A folder of `train --seeds` is opened seed by seed. Every file of a run is compared with its manifest first. Raises
    `OptionError` where data are missing or have no classes, `IntegrityError` for a damaged run.
    """
    folder = Path(folder)
    seeds = [p.parent for p in sorted(folder.glob("seed-*/study.json"))]
    each = [_opened(one, source, reading, device) for one in seeds or [folder]]
    first = each[0]
    trainings = tuple(one.parts for one in each)
    return Subject(**{**vars(first), "folder": folder, "trainings": trainings})


def _opened(folder: Path, source: str | None, reading: Mapping[str, Any], device: torch.device) -> Subject:
    if not folder.exists():
        raise BadInput(f"There is no run {folder}.", why="A folder written by pellucid is needed.", hint="Check the path.", path=folder)  # fmt: skip
    if (folder / "manifest.json").is_file():
        storage.verify(folder)
    made = study.Study.load(folder) if study.is_study(folder) else None
    opened = None if made is None else study.open_study(made, folder)
    if opened is not None and made is not None and source is None:
        return _of_folds(folder, made, opened, device)
    if source is None:
        raise OptionError(
            f"{folder} is a network without data.",
            why="An audit needs samples that it did not see.",
            hint=f"Name them: pellucid audit {folder} DATA",
        )
    if made is not None and made.folds:
        raise OptionError(
            f"{folder} holds {made.folds} networks, one per fold.",
            why="One is needed to be judged on other data.",
            hint=f"Leave out the data, or name one network: pellucid audit {folder / 'fold-0'} {source}",
        )
    return _on_data(folder, source, reading, opened, made, device)


def _of_folds(folder: Path, made: study.Study, opened: study.Opened, device: torch.device) -> Subject:
    parts, said = [], []
    for fold in opened.folds:
        if fold.test is None:
            raise OptionError(
                f"{folder} was trained on all of its data.",
                why="Judged by them it would be flattered.",
                hint=f"Name other data: pellucid audit {folder} DATA, or train with --folds 5.",
            )
        storage.verify(fold.folder(folder))
        network, words = explainable(fold.folder(folder), fold.test, device)
        parts.append(Part(fold.name, network, fold.test))
        said.append(words)
    scores = folder / "evaluate" / "scores.json"
    hashes = {f"weights of {f.name}": files.sha256(f.folder(folder) / "model.safetensors") for f in opened.folds}
    return Subject(
        folder, made.source, (tuple(parts),), opened.dataset.classes, opened.dataset, True, made, Table.from_json(scores) if scores.exists() else None,
        {**hashes, "configuration": files.sha256(folder / "study.json"), "data": opened.dataset.fingerprint, "splits": files.sha256(folder / "splits.json")},
        tuple(dict.fromkeys(said)),
    )  # fmt: skip


def _on_data(
    folder: Path, source: str, reading: Mapping[str, Any], opened: study.Opened | None, made: study.Study | None, device: torch.device
) -> Subject:  # fmt: skip
    network = open_network(str(folder), weights=None, device=device)
    data = study.data_for({str(folder): network}, source, reading)
    network, words = _explainable(network, data, str(folder))
    if not data.classes:
        raise OptionError(f"{source} has no classes.", why="An audit compares answers with the truth.", hint="Give labelled data.")  # fmt: skip
    written = folder / ("study.json" if made is not None else "config.yaml")
    hashes = {"weights": files.sha256(folder / "model.safetensors"), "data": data.fingerprint}
    if written.exists():
        hashes["configuration"] = files.sha256(written)
    if opened is not None:
        hashes["training data"] = opened.dataset.fingerprint
    part = Part(folder.name, network, data)
    return Subject(
        folder, source, ((part,),), data.classes, None if opened is None else opened.dataset, False, made, None, hashes, (words,)
    )  # fmt: skip


def explainable(folder: Path, data: Dataset, device: torch.device) -> tuple[nn.Module, str]:
    """A saved network, with evidence where it can have it without changing its answers; and a line that says which."""
    network = open_network(str(folder), weights=None, device=device)
    return _explainable(network, data, str(folder))


def _explainable(network: nn.Module, data: Dataset, name: str) -> tuple[nn.Module, str]:
    example = first_sample(data, 1.0).input[None].to(weights_device(network))
    return made_explainable(network, example, name)


def training_notes(subject: Subject) -> dict[str, Any]:
    """What the run folder notes of the training: versions, commit, seed."""
    folder = subject.folder if (subject.folder / "manifest.json").exists() else subject.folder / "seed-0"
    for place in (folder, folder / "fold-0"):
        if run_folder.finished(place):
            manifest = storage.read_manifest(place)
            return {name: manifest.get(name) for name in ("seed", "versions", "git")}
    return {}
