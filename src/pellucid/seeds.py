"""The same study with several seeds: how much a result owes to chance in training.

OUT/  seed-0/ seed-1/ ...   a whole study each, on the same folds and held-out samples
      seeds.json            scores of every seed, their mean, standard deviation and interval
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

import torch

from pellucid import files
from pellucid.errors import OptionError
from pellucid.networks import open_network
from pellucid.record import Interval, t_interval
from pellucid.study import Opened, Study, train_study
from pellucid.training.metrics import Predictions, predict
from pellucid.training.run import Run

if TYPE_CHECKING:
    from pellucid.training.launch import Processes

FILE = "seeds.json"


@dataclass(frozen=True)
class Spread:
    """One score over seeds. interval: Student's t over seeds; deviation: standard deviation between them."""

    score: str
    values: tuple[float, ...]
    interval: Interval
    deviation: float

    def __str__(self) -> str:
        told = f"{self.score} {self.interval.mean:.4f}"
        if len(self.values) < 2:
            return told
        return f"{told}, between seeds sd {self.deviation:.4f}, 95 % interval [{self.interval.low:.4f}, {self.interval.high:.4f}], n={len(self.values)}"


def train_seeds(
    study: Study,
    out: Path,
    count: int,
    *,
    processes: Processes | None = None,
    again: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> list[Spread]:
    """Train the study with `count` seeds from its own on, and write their scores. What is finished is kept.

    Scores are those of the samples a network did not learn from: out of fold, or held out by val_fraction. Folds and
    held-out samples are the same for all. Raises `OptionError` where there are none, or for a probe.
    """
    _check(study)
    first = study.recipe.seed
    found: dict[int, dict[str, float]] = {}
    for seed in range(first, first + count):
        say(f"Seed {seed} ...")
        own, place = with_seed(study, seed), out / f"seed-{seed}"
        data = train_study(own, place, processes=processes, again=again, progress=progress)
        found[seed] = _out_of_fold(own, data, place) if study.folds else _held_out(data, place)
    spreads = spread_of(list(found.values()))
    files.write_json(
        out / FILE,
        {"schema": 1, "seeds": {str(k): v for k, v in found.items()}, "spread": [asdict(s) for s in spreads]},
    )
    return spreads


def with_seed(study: Study, seed: int) -> Study:
    """The study with another seed on the same folds and held-out samples."""
    split = study.recipe.seed if study.recipe.split_seed is None else study.recipe.split_seed
    return replace(study, recipe=study.recipe.changed(seed=seed, split_seed=split))


def spread_of(scores: Sequence[Mapping[str, float]]) -> list[Spread]:
    """The spread of every score that all seeds have."""
    shared = [name for name in scores[0] if all(isfinite(s.get(name, float("nan"))) for s in scores)]
    made = []
    for name in shared:
        values = tuple(float(s[name]) for s in scores)
        made.append(Spread(name, values, t_interval(values), stdev(values) if len(values) > 1 else float("nan")))
    return made


def _check(study: Study) -> None:
    if study.probe:
        raise OptionError(
            "A probe has no seeds.", why="It is fitted at once, to the same end.", hint="Leave out --seeds or --probe."
        )
    if not study.folds and not study.recipe.val_fraction:
        raise OptionError(
            "Seeds cannot be compared on training data alone.",
            why="There are neither folds nor held-out samples.",
            hint="Add --folds 5, or val_fraction=0.2.",
        )


def _held_out(data: Opened, out: Path) -> dict[str, float]:
    run = Run.load(data.folds[0].folder(out))
    row = run.history[run.best_epoch - 1]
    return {name.removeprefix("val_"): float(v) for name, v in row.items() if name.startswith("val_") and v is not None}


def _out_of_fold(study: Study, data: Opened, out: Path) -> dict[str, float]:
    """Scores over all samples, each predicted by the network that did not see it."""
    parts = []
    for fold in data.folds:
        assert fold.test is not None
        network = open_network(str(fold.folder(out)), weights=None, device=torch.device("cpu"))
        parts.append(predict(network, fold.test, batch_size=study.recipe.batch_size, max_bad=study.recipe.max_bad))
    return pooled(parts).scores()


def pooled(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of several networks as if they were of one."""
    first = parts[0]
    together: dict[str, Any] = {
        "names": tuple(n for p in parts for n in p.names), "groups": tuple(g for p in parts for g in p.groups),
        "labels": torch.cat([p.labels for p in parts]), "logits": torch.cat([p.logits for p in parts]),
        "skipped": {k: v for p in parts for k, v in p.skipped.items()},
    }  # fmt: skip
    return replace(first, **together)


__all__ = ["FILE", "Spread", "pooled", "spread_of", "train_seeds", "with_seed"]
