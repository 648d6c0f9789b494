"""Penalty and strength chosen with open eyes: what each costs in performance and gives in evidence, on held-out samples.

OUT/  none/ l1-0.1/ ...        a run each, trained on the same samples and held out the same ones
      validation/none/ ...     finished parts of the evaluation on the held-out samples
      sweep.json  sweep.csv    one row per run, and which two were chosen
      sparseness.svg  localisation.svg    AUC against each (the second where held-out samples have masks)

Everything is judged on samples that `val_fraction` keeps out of training, masks included. Test data are not opened: what
was chosen is to be judged on them, once.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid import evaluation, files, performance
from pellucid.comparison import MARGIN
from pellucid.errors import OptionError
from pellucid.networks import open_network
from pellucid.record import Interval, Table, bootstrap, join
from pellucid.render.trade_off import trade_off
from pellucid.sample import Dataset
from pellucid.statistics import NonInferiority
from pellucid.study import Study, train_study
from pellucid.training.loop import held_out_split

if TYPE_CHECKING:
    from pellucid.training.launch import Processes

Array = NDArray[Any]

FILE = "sweep.json"
PENALTIES = ("l1", "entropy")
STRENGTHS = (0.02, 0.1, 0.5)
NONE = "none"
FEW = 50  # held-out samples, below which a warning is due
ONE_ERROR = 0.6827  # the share of a normal distribution within one standard error


@dataclass(frozen=True)
class Point:
    """One run of a sweep, on the held-out samples.

    auc, log_loss, sparseness (Gini of the evidence), localisation (relevance mass in the mask; None without masks): with
    95 % intervals over groups. error: standard error of the AUC over groups. change: of the AUC, against the run without
    a penalty, with its verdict. temperature: by which logits are to be divided. calibration: expected calibration error
    as it is; recalibrated: with temperatures that were each fitted on the other half of the groups.
    """

    name: str
    penalty: str
    strength: float
    auc: Interval
    error: float
    log_loss: Interval
    sparseness: Interval
    localisation: Interval | None
    change: NonInferiority
    temperature: float
    calibration: float
    recalibrated: float


@dataclass(frozen=True)
class Sweep:
    """The runs, without a penalty first. one_error, non_inferior: names of the two choices."""

    points: tuple[Point, ...]
    one_error: str
    non_inferior: str

    def __str__(self) -> str:
        rows = [_HEAD, *(self._row(p) for p in self.points)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def _row(self, p: Point) -> tuple[str, ...]:
        chosen = [word for word, name in (("1 SE", self.one_error), ("NI", self.non_inferior)) if name == p.name]
        place = "-" if p.localisation is None else str(p.localisation)
        calibration = f"{p.calibration:.3f} to {p.recalibrated:.3f} at T {p.temperature:.2f}"
        told = "" if p.name == NONE else p.change.verdict
        return (p.name, str(p.auc), str(p.log_loss), str(p.sparseness), place, calibration, told, " and ".join(chosen))


_HEAD = ("run", "AUC", "log-loss", "sparseness", "localisation", "calibration", "against none", "chosen")


def sweep(
    study: Study,
    out: Path,
    penalties: Sequence[str] = PENALTIES,
    strengths: Sequence[float] = STRENGTHS,
    *,
    margin: float = MARGIN,
    processes: Processes | None = None,
    again: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Sweep:
    """Train the study without a penalty and with each at every strength, and judge all on the held-out samples.

    What is finished is kept. margin: the loss of AUC that would still be accepted, set before looking. Raises
    `OptionError` for a study that holds nothing out, or has no evidence to penalise.
    """
    _check(study, margin)
    runs, tables = runs_of(penalties, strengths), []
    for name, (penalty, strength) in runs.items():
        say(f"Run {name} ...")
        recipe = study.recipe.changed(penalty=penalty, strength=strength)
        data = train_study(
            replace(study, recipe=recipe), out / name, processes=processes, again=again, progress=progress
        )
        seen = data.folds[0].train
        held = data.validation if study.validation else held_out_split(seen, recipe).subset(seen, "val")
        assert held is not None
        if name == NONE and len(held) < FEW:
            say(f"{len(held)} samples are held out: so few choose badly. Raise val_fraction, or get more data.")
        tables.append(_scored(name, out, held, recipe.batch_size))
    found = judged(join(tables), runs, margin=margin)
    _write(found, out, margin)
    return found


def runs_of(penalties: Sequence[str], strengths: Sequence[float]) -> dict[str, tuple[str, float]]:
    """Name -> penalty and strength of every run, the one without a penalty first."""
    return {NONE: (NONE, 0.0)} | {f"{p}-{strength:g}": (p, strength) for p in penalties for strength in strengths}


def _check(study: Study, margin: float) -> None:
    if not margin > 0:
        raise OptionError(
            f"The margin cannot be {margin:g}.", why="It is the loss of AUC that would still be accepted.", hint="For example --margin 0.01."
        )  # fmt: skip
    if study.probe or study.black_box:
        raise OptionError(
            "There is no penalty to choose.",
            why="A probe is fitted at once, and a black box has no evidence.",
            hint="Leave out --probe and --black-box.",
        )
    if study.folds or not (study.validation or study.recipe.val_fraction):
        raise OptionError(
            "A sweep chooses on held-out samples.",
            why="Folds are what the result is judged on." if study.folds else "Nothing is held out.",
            hint="Leave out --folds, and set val_fraction=0.2 or, where the data come with such a part, --validation val.",
        )


def _scored(name: str, out: Path, held: Dataset, batch_size: int) -> Table:
    """What a run says about the held-out samples."""
    network = open_network(str(out / name), weights=None, device=torch.device("cpu"))
    table = evaluation.evaluate(
        {name: network}, held, methods=["evidence"], metrics=["sparseness", "relevance_mass"], controls=[],
        batch_size=batch_size, folder=out / "validation" / name,
    )  # fmt: skip
    if not table.predictions:
        raise OptionError(
            "A sweep needs one label per sample.", why="AUC and log-loss are those of one class against the others."
        )
    return table


def judged(table: Table, runs: dict[str, tuple[str, float]], *, margin: float) -> Sweep:
    """The points of the runs (name -> penalty, strength; the one without a penalty first), and the choices."""
    points = tuple(_point(table, name, *pair, margin) for name, pair in runs.items())
    if not np.isfinite([p.auc.mean for p in points]).all():
        raise OptionError(
            "The held-out samples have no AUC.", why="They are all of one class.", hint="Raise val_fraction."
        )
    return Sweep(points, within_one_error(points).name, least_costly(points).name)


def within_one_error(points: Sequence[Point]) -> Point:
    """The sparsest whose AUC is within one standard error (its own) of the best one's (Breiman et al. 1984)."""
    best = max(points, key=lambda p: p.auc.mean)
    return _sparsest(p for p in points if p.auc.mean >= best.auc.mean - best.error)


def least_costly(points: Sequence[Point]) -> Point:
    """The sparsest that is not inferior to the first, which has no penalty, by the margin; else the first itself."""
    return _sparsest([points[0], *(p for p in points[1:] if p.change.verdict == "non-inferior")])


def _sparsest(points: Iterable[Point]) -> Point:
    return max(points, key=lambda p: np.nan_to_num(p.sparseness.mean, nan=-1.0))


def _point(table: Table, name: str, penalty: str, strength: float, margin: float) -> Point:
    mine = [p for p in table.predictions if p.model == name]
    groups = [p.group or p.sample for p in mine]
    labels = np.array([p.label for p in mine])
    probabilities = performance.both_classes(np.array([p.probabilities for p in mine]))
    area = partial(_on_rows, performance.auc, probabilities, labels)
    within = bootstrap(area, groups, level=ONE_ERROR)
    scores = {(row.metric, row.part): row.interval for row in table.where(model=name).summary()}
    located = scores["relevance_mass", ""]
    (change,) = table.compare_performance(name, NONE, scores=["auc"], margin=margin)
    assert change.verdict is not None
    logits = np.log(np.maximum(probabilities, np.finfo(float).tiny))
    return Point(
        name, penalty, strength, bootstrap(area, groups), (within.high - within.low) / 2,
        bootstrap(partial(_on_rows, performance.log_loss, probabilities, labels), groups),
        scores["sparseness", ""], located if located.n else None, change.verdict, performance.temperature(logits, labels),
        performance.calibration_error(probabilities, labels), recalibrated(logits, labels, groups),
    )  # fmt: skip


def _on_rows(score: Callable[[Array, Array], float], given: Array, labels: Array, rows: Array) -> float:
    return score(given[rows], labels[rows])


def recalibrated(logits: Array, labels: Array, groups: Sequence[str]) -> float:
    """The calibration error with each half of the groups at the temperature that fits the other half."""
    from scipy.special import softmax

    half = np.unique(np.asarray(groups), return_inverse=True)[1] % 2
    divided = np.empty_like(logits)
    for side in (0, 1):
        fitted = performance.temperature(logits[half != side], labels[half != side])
        divided[half == side] = logits[half == side] / fitted
    return performance.calibration_error(softmax(divided, axis=1), labels)


def _write(found: Sweep, out: Path, margin: float) -> None:
    rows = [asdict(p) for p in found.points]
    chosen = {"one_standard_error": found.one_error, "non_inferior": found.non_inferior}
    files.write_json(out / FILE, {"schema": 1, "margin": margin, "chosen": chosen, "runs": rows})
    stream = io.StringIO()
    flat = [_flat(p) for p in found.points]
    writer = csv.DictWriter(stream, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    files.write_text(out / "sweep.csv", stream.getvalue())
    places = {p.name: p.localisation for p in found.points if p.localisation is not None}
    files.write_bytes(out / "sparseness.svg", _drawn(found, {p.name: p.sparseness for p in found.points}, "sparseness"))
    if places:
        files.write_bytes(out / "localisation.svg", _drawn(found, places, "localisation"))


def _flat(p: Point) -> dict[str, Any]:
    row: dict[str, Any] = {"run": p.name, "penalty": p.penalty, "strength": p.strength}
    for name in ("auc", "log_loss", "sparseness", "localisation"):
        interval = getattr(p, name)
        for part in ("mean", "low", "high"):
            row[f"{name} {part}".removesuffix(" mean")] = None if interval is None else getattr(interval, part)
    return row | {
        "error": p.error, "change": p.change.difference, "change low": p.change.low, "change high": p.change.high, "verdict": p.change.verdict,
        "temperature": p.temperature, "calibration": p.calibration, "recalibrated": p.recalibrated,
    }  # fmt: skip


_AXES = {"sparseness": "Gini index of the evidence", "localisation": "share of the evidence in the mask"}


def _drawn(found: Sweep, across: dict[str, Interval], what: str) -> bytes:
    shown = [p for p in found.points if p.name in across]
    best = max(shown, key=lambda p: p.auc.mean)
    return trade_off(
        {p.name: (across[p.name], p.auc) for p in shown},
        lines=[[NONE, *(p.name for p in shown if p.penalty == penalty)] for penalty in dict.fromkeys(p.penalty for p in shown[1:])],
        marked={"one-standard-error choice": found.one_error, "non-inferior choice": found.non_inferior},
        level=best.auc.mean - best.error,
        level_name="one standard error below the best",
        xlabel=_AXES[what],
        ylabel="AUC",
    )  # fmt: skip


__all__ = ["FILE", "PENALTIES", "STRENGTHS", "Point", "Sweep", "judged", "least_costly", "recalibrated", "runs_of", "sweep", "within_one_error"]  # fmt: skip
