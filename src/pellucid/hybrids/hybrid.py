"""A tree of evidence for a run or a network, with what it is worth on samples that neither learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pellucid import files
from pellucid.data.splits import folds
from pellucid.errors import BadInput, OptionError
from pellucid.hybrids.descriptors import Descriptors, describe, join
from pellucid.hybrids.tree import Lesson, Standing, Tree, grow, standing
from pellucid.networks import open_network
from pellucid.record import Interval
from pellucid.render.decision_tree import decision_tree
from pellucid.reporting.report import TreeBlock
from pellucid.sample import Dataset
from pellucid.study import Study, open_study

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Hybrid:
    """A tree to look at, and how trees grown like it stand on held-out samples.

    descriptors: of the held-out samples, each by a network that did not learn from it. about: what was fitted to what.
    """

    tree: Tree
    standing: Standing
    about: str
    descriptors: Descriptors

    def as_dict(self) -> dict[str, Any]:
        """Everything a report needs."""
        return {"schema": 1, "tree": self.tree.as_dict(), "standing": asdict(self.standing), "about": self.about}

    def __str__(self) -> str:
        rows = [
            f"{name:<32}  {interval}  n={interval.n}, groups={interval.groups}"
            for name, interval in self.standing.rows()
        ]
        rows.append(f"{'most frequent class':<32}  {self.standing.usual:.3f}")
        return "\n".join([str(self.tree), "", *rows, "", self.about])

    def save(self, folder: Path) -> None:
        """`descriptors.csv`, `tree.svg` and `tree.json`."""
        self.descriptors.to_csv(folder / "descriptors.csv")
        files.write_bytes(folder / "tree.svg", decision_tree(self.tree.boxes()))
        files.write_json(folder / "tree.json", self.as_dict())


def of_run(folder: str | Path, *, depth: int = 3, learn: Lesson = "answers", device: torch.device, progress: Progress) -> Hybrid:  # fmt: skip
    """A tree for every fold of a run, fitted on what its network says of the samples that it was trained on.

    Each is scored on the fold that neither it nor its network learned from. Evidence of training samples is clearer cut
    than that of others; a tree fitted on other networks' evidence would not do, since thresholds differ between them.

    Raises `OptionError` for a run without folds.
    """
    study = Study.load(folder)
    data = open_study(study, Path(folder))
    grown, held_out, answers, done = [], [], [], 0
    for fold in data.folds:
        if fold.test is None:
            raise OptionError(
                f"{folder} was trained on all of its data.",
                why="A tree is judged on samples that the network did not learn from.",
                hint=f"Train with --folds 5, or name other data: pellucid describe DATA --model {folder}",
            )
        network = open_network(str(fold.folder(folder)), weights=None, device=device)
        seen = len(data.dataset) * len(data.folds)
        shown = _from(progress, done, seen)
        own = describe(network, fold.train, progress=shown)
        other = describe(network, fold.test, progress=_from(progress, done + len(fold.train), seen))
        done += len(data.dataset)
        grown.append(grow(own, depth=depth, learn=learn))
        held_out.append(other)
        answers.append(grown[-1].answers(other))
    whole = join(held_out)
    about = (
        f"{len(grown)} trees, one per fold, each fitted on what its network says of the samples that it was trained on and "
        f"scored on those of its fold. Drawn is that of {data.folds[0].name}, fitted on {grown[0].n} samples."
    )
    return Hybrid(grown[0], standing(whole, np.concatenate(answers)), about, whole)


def _from(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def of_data(model: nn.Module, dataset: Dataset, *, depth: int = 3, learn: Lesson = "answers", parts: int = 5, progress: Progress) -> Hybrid:  # fmt: skip
    """A tree for a network on data that it has not seen (that is for the user to know).

    Each part of the data is answered by a tree fitted on the other parts; groups stay together. Drawn is a tree fitted on all.
    """
    whole = describe(model, dataset, progress=progress)
    part_of = {dataset.facts(i).name: part for part, rows in folds(dataset, parts).parts.items() for i in rows}
    member = np.array([part_of[name] for name in whole.samples])
    answers = np.zeros(len(whole), dtype=int)
    for part in dict.fromkeys(member.tolist()):
        own, rest = np.flatnonzero(member == part), np.flatnonzero(member != part)
        answers[own] = grow(whole.rows(rest.tolist()), depth=depth, learn=learn).answers(whole.rows(own.tolist()))
    tree = grow(whole, depth=depth, learn=learn)
    about = (
        f"{parts} trees, each scored on a part of the data that it was not fitted to, with groups kept together; the network "
        f"learned from none. Drawn is one fitted to all {tree.n} samples."
    )
    return Hybrid(tree, standing(whole, answers), about, whole)


def block(folder: str | Path) -> TreeBlock:
    """What `Hybrid.save` noted, as a report shows it. Raises `BadInput` for a file that is not it."""
    path = Path(folder) / "tree.json"
    stored = files.read_json(path)
    try:
        tree, judged = Tree.from_dict(stored["tree"]), dict(stored["standing"])
        usual = float(judged.pop("usual"))
        found = Standing(**{name: Interval(**value) for name, value in judged.items()}, usual=usual)
        return TreeBlock(decision_tree(tree.boxes()), str(tree), found.rows(), found.usual, str(stored["about"]))
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"{path} describes no tree.", why=str(error), hint="Run pellucid describe again.", path=path
        ) from error
