"""A training in progress: its state, one step, one epoch, and how it is stopped and taken up again.

Order, augmentation and dropout of every step depend on (seed, epoch, step) alone, so that a training taken up at any
step makes the same draws as one that was never stopped.
"""

from __future__ import annotations

import csv
import io
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid import files
from pellucid.errors import IntegrityError, OptionError
from pellucid.training import checkpoint, penalties, run_folder, schedule
from pellucid.training import task as tasks
from pellucid.training.augment import augment
from pellucid.training.config import TrainingConfig
from pellucid.training.data import Batch, Source, seed_of, shuffled
from pellucid.training.metrics import collect, weights_dtype
from pellucid.training.progress import Progress
from pellucid.training.task import Task

_SUMS = 5  # images, loss, right answers, images under the penalty, penalty


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C came and the state was saved: `train` with the same arguments goes on from here.

    folder: the run folder, None where none was given (then nothing is kept). epoch: epochs finished. step: batches
    finished of the one after them.
    """

    def __init__(self, folder: Path | None, epoch: int, step: int) -> None:
        kept = f"its state is in {folder}" if folder else "no folder was given, so nothing is kept"
        super().__init__(f"Training was interrupted after {epoch} epochs and {step} batches; {kept}.")
        self.folder, self.epoch, self.step = folder, epoch, step


@dataclass
class Session:
    """model: the copy in training. forward, optimiser, backward: as Fabric set them up. held: validation source."""

    model: nn.Module
    forward: Callable[..., Any]
    optimiser: torch.optim.Optimizer
    backward: Callable[[Tensor], None]
    config: TrainingConfig
    task: Task
    source: Source
    held: Source | None
    weights: Tensor | None
    plan: str
    device: torch.device
    folder: Path | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    epoch: int = 0
    batch: int = 0
    stopped: bool = False
    _sums: Tensor = field(default_factory=lambda: torch.zeros(_SUMS, dtype=torch.float64))

    def run(self, bar: Progress) -> None:
        """All epochs that are left. Raises `TrainingInterrupted` after Ctrl-C, at the end of the step."""
        self._sums = self._sums.to(self.device)
        with _interrupts() as interrupted:
            while self.epoch < self.config.epochs and not self.stopped:
                self._run_epoch(bar, interrupted)

    def _run_epoch(self, bar: Progress, interrupted: Callable[[], bool]) -> None:
        started, cpu = time.monotonic(), time.process_time()
        order = self._order(self.epoch)
        training_mode(self.model, self.config.freeze)
        for batch in self.source.batches(order[self.batch :]):
            if batch is not None:
                self._step(batch, self.epoch * len(order) + self.batch, self.config.epochs * len(order))
                bar.advance(len(batch))
            self.batch += 1
            if interrupted():
                self._interrupt(bar)
            if self.config.save_every_steps and self.batch % self.config.save_every_steps == 0:
                self.save()
        row = self._close_epoch(len(order))
        self._log(
            "epoch",
            epoch=row["epoch"],
            seconds=round(time.monotonic() - started, 3),
            cpu_seconds=round(time.process_time() - cpu, 3),
            images_per_second=round(bar.rate, 1),
        )
        bar.epoch(row)

    def _order(self, epoch: int) -> list[list[int]]:
        return shuffled(len(self.source.dataset), self.config.batch_size, self.config.seed, epoch)

    def _step(self, batch: Batch, step: int, total: int) -> None:
        config = self.config
        self._set_rates(step, total)
        _seed_everything(seed_of("step", config.seed, step), self.device)
        chance = torch.Generator().manual_seed(seed_of("augment", config.seed, step))
        x = replace(batch, stored=augment(batch.stored, config.augment, chance)).inputs(
            self.device, weights_dtype(self.model)
        )
        labels = batch.labels.to(self.device)
        penalised = config.penalty != "none" and step >= config.penalty_warm_up * total
        output, maps = self.forward(x, return_evidence=True) if penalised else (self.forward(x), None)
        loss = tasks.loss(self.task, output, labels, self.weights)
        penalty = loss.new_zeros(()) if maps is None else penalties.of_config(config, maps, labels)
        self.optimiser.zero_grad(set_to_none=True)
        self.backward(loss + config.strength * penalty if penalised else loss)
        self.optimiser.step()
        self._count(output, labels, loss.detach(), penalty.detach(), penalised)

    def _set_rates(self, step: int, total: int) -> None:
        momentum = schedule.momentum(self.config, step, total)
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.learning_rate(self.config, step, total)
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum

    @torch.no_grad()
    def _count(self, output: Any, labels: Tensor, loss: Tensor, penalty: Tensor, penalised: bool) -> None:
        right = tasks.correct(self.task, tasks.parts(output)[0], labels).sum()
        images = len(labels)
        under = images if penalised else 0
        parts = torch.stack([loss.double() * images, right.double(), penalty.double() * under])
        self._sums += torch.stack([parts.new_tensor(images), parts[0], parts[1], parts.new_tensor(under), parts[2]])

    def _close_epoch(self, batches: int) -> dict[str, Any]:
        images, loss, right, under, penalty = self._sums.tolist()
        if not isfinite(loss) or not isfinite(penalty):
            raise OptionError(
                f"The loss is not a number after epoch {self.epoch + 1}.",
                why=f"lr is {self.config.lr:g}, precision {self.config.precision}.",
                hint="Lower lr or strength, or use precision='32'.",
            )
        step = (self.epoch + 1) * batches
        rate = schedule.learning_rate(self.config, step - 1, self.config.epochs * batches)
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": step,
            "lr": rate,
            "loss": loss / max(images, 1),
            "accuracy": right / max(images, 1),
        }
        if self.config.penalty != "none":
            row["penalty"] = penalty / under if under else None
        if self.held is not None:
            row |= self._validate(self.held)
        self.history.append(row)
        self._judge(row)
        self.epoch, self.batch, self._sums = self.epoch + 1, 0, torch.zeros_like(self._sums)
        self.save()
        self._write_metrics()
        return row

    def _validate(self, held: Source) -> dict[str, float | None]:
        _seed_everything(seed_of("validation", self.config.seed, self.epoch), self.device)
        self.model.eval()
        with torch.no_grad():
            scores = collect(
                lambda batch: self.forward(batch.inputs(self.device, weights_dtype(self.model))), held, self.task
            ).scores()
        return {f"val_{name}": value if isfinite(value) else None for name, value in scores.items()}

    def _judge(self, row: Mapping[str, Any]) -> None:
        """Note the best epoch so far, and whether it is time to stop."""
        config = self.config
        if "val_loss" in row and (self.best is None or self._merit(row) > tuple(self.best["merit"])):
            kept = checkpoint.to_cpu(self.model.state_dict()) if config.keep_best != "last" else {}
            self.best = {"epoch": row["epoch"], "merit": self._merit(row), "model": kept}
        since = row["epoch"] - (self.best["epoch"] if self.best else 0)
        self.stopped = config.patience is not None and since >= config.patience

    def _merit(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """How good an epoch is: by AUC, then by loss; or by loss alone."""
        auc = row["val_auc"] if self.config.keep_best == "val_auc" and row["val_auc"] is not None else 0.0
        return auc, float("-inf") if row["val_loss"] is None else -row["val_loss"]

    def take_best(self) -> int:
        """Put the kept weights into the network; the epoch they are from."""
        if self.config.keep_best == "last" or self.best is None:
            return len(self.history)
        self.model.load_state_dict(self.best["model"])
        return int(self.best["epoch"])

    def save(self) -> None:
        """Write the state, where there is a folder."""
        if self.folder is None:
            return
        state = {
            "plan": self.plan, "epoch": self.epoch, "batch": self.batch, "stopped": self.stopped, "sums": self._sums.tolist(), "history": self.history, "best": self.best,
            "skipped": self.source.skipped, "held_skipped": self.held.skipped if self.held else {}, "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        checkpoint.save(self.folder / "state", state)

    def restore(self) -> bool:
        """Go back to the latest whole state of the folder. False where there is none."""
        state = None if self.folder is None else checkpoint.load(self.folder / "state")
        if state is None:
            return False
        if state["plan"] != self.plan:
            raise IntegrityError(
                f"The state in {self.folder} belongs to another training.",
                why="It does not fit plan.json.",
                hint="Start again with resume=False.",
                path=self.folder,
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.batch, self.stopped = state["epoch"], state["batch"], state["stopped"]
        self.history, self.best = state["history"], state["best"]
        self._sums = torch.tensor(state["sums"], dtype=torch.float64)
        self.source.skipped.update(state["skipped"])
        if self.held is not None:
            self.held.skipped.update(state["held_skipped"])
        return True

    def _interrupt(self, bar: Progress) -> None:
        self.save()
        self._log("interrupted", epoch=self.epoch, step=self.batch)
        stop = TrainingInterrupted(self.folder, self.epoch, self.batch)
        bar.say(str(stop))
        raise stop

    def _write_metrics(self) -> None:
        if self.folder is None:
            return
        files.write_text(
            self.folder / "metrics.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.history)
        )
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(self.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        files.write_text(self.folder / "metrics.csv", stream.getvalue())

    def _log(self, event: str, **facts: Any) -> None:
        if self.folder is not None:
            run_folder.log(self.folder, event, **facts)


def optimiser_of(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser over everything that learns. Raises `OptionError` where nothing does."""
    learning = [p for p in model.parameters() if p.requires_grad]
    if not learning:
        raise OptionError(
            "No parameter of the network can learn.", why="All are frozen, or there are none.", hint="Freeze less."
        )
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            learning,
            lr=config.lr,
            momentum=schedule.momentum(config, 0, 1),
            nesterov=True,
            weight_decay=config.weight_decay,
        )
    return torch.optim.AdamW(learning, lr=config.lr, weight_decay=config.weight_decay)


def frozen(model: nn.Module, prefixes: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    """The modules that are meant by the prefixes, with all that is inside them."""
    return (
        (name, m) for name, m in model.named_modules() if any(name == p or name.startswith(f"{p}.") for p in prefixes)
    )


def training_mode(model: nn.Module, freeze: tuple[str, ...]) -> None:
    """Training mode; frozen parts stay in evaluation mode, so that their batch statistics do not move."""
    model.train()
    for _, module in frozen(model, freeze):
        module.eval()


def _seed_everything(seed: int, device: torch.device) -> None:
    """Seed the generators a network may draw from; of the accelerators only the one in use."""
    torch.default_generator.manual_seed(seed)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Tell of Ctrl-C instead of raising it in the middle of a step; a second one raises at once."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGINT, before)


__all__ = ["Session", "TrainingInterrupted", "frozen", "optimiser_of", "training_mode"]
