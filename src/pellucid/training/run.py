"""A finished training: the network and what is known about how it came to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from pellucid.errors import IntegrityError, OptionError
from pellucid.models import storage
from pellucid.training.config import TrainingConfig
from pellucid.training.run_folder import check
from pellucid.training.task import Task


@dataclass(frozen=True)
class Run:
    """The trained network and its history.

    model: the trained copy; the network that was given is as it was. history: one row per epoch, as in metrics.csv.
    best_epoch: the epoch (from 1) whose weights these are. data, validation: fingerprints of the data sets.
    held_out: names of the samples that `val_fraction` kept out of training. skipped: samples that could not be used,
    with the reason. notes: what the user should know about this training.
    """

    model: nn.Module
    config: TrainingConfig
    history: tuple[Mapping[str, Any], ...]
    best_epoch: int
    task: Task
    classes: tuple[str, ...]
    data: str
    validation: str | None = None
    held_out: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module | None = None) -> Run:
        """Read a finished run. model: the user's own network (a copy is filled), where its name does not rebuild it.

        Raises `IntegrityError` for a file that is not what was written, `BadInput` where there is no finished run.
        """
        folder = Path(folder)
        manifest = check(folder, "config.yaml", "metrics.jsonl", "model.safetensors", "model.json")
        try:
            facts = {name: manifest[name] for name in _FACTS}
            history = tuple(
                json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            )
        except (KeyError, ValueError) as error:
            raise IntegrityError(
                f"{folder} holds no whole run.",
                why=f"{type(error).__name__}: {error}",
                hint="Train again.",
                path=folder,
            ) from error
        for name in ("classes", "held_out", "notes"):
            facts[name] = tuple(facts[name])
        trained = storage.load(folder, model=None if model is None else deepcopy(model))
        return cls(
            model=trained,
            config=TrainingConfig.from_yaml(folder / "config.yaml"),
            history=history,
            folder=folder,
            **facts,
        )

    def facts(self) -> dict[str, Any]:
        """What the manifest notes of this run."""
        return {name: getattr(self, name) for name in _FACTS}

    def last(self, name: str) -> float:
        """A figure of the returned weights' epoch, for example "val_auc". Raises `OptionError` where there is none."""
        row = self.history[self.best_epoch - 1]
        if row.get(name) is None:
            raise OptionError(
                f"The run has no figure '{name}'.",
                hint=f"Known: {', '.join(k for k, v in row.items() if v is not None)}.",
            )
        return float(row[name])


_FACTS = ("best_epoch", "task", "classes", "data", "validation", "held_out", "skipped", "notes")

__all__ = ["Run"]
