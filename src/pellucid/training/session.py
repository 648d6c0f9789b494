"""A training in progress: its state, one step, one epoch, and how it is stopped and taken up again.

Order, augmentation and dropout of every step depend on (seed, epoch, step) alone, so that a training taken up at any
step makes the same draws as one that was never stopped.

Several processes take a share of every batch each. Loss and penalty are means over the whole batch and gradients are
added up over the processes, so they take the steps that one process would take.
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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid import files
from pellucid.errors import IntegrityError, OptionError
from pellucid.spatial import Geometry, cells_in
from pellucid.training import checkpoint, penalties, run_folder, schedule
from pellucid.training import task as tasks
from pellucid.training.augment import Colours, augment, on_numbers
from pellucid.training.config import TrainingConfig
from pellucid.training.data import Batch, Source, drawn, seed_of, shuffled
from pellucid.training.metrics import collect, weights_dtype
from pellucid.training.progress import Progress
from pellucid.training.ranks import Ranks
from pellucid.training.task import Task
from pellucid.training.tracker import Tracker

_SUMS = 5  # images, loss, right answers, images under the penalty, penalty


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C (or SIGTERM) came and the state was saved: `train` with the same arguments goes on from here.

    folder: the run folder, None where none was given (then nothing is kept). epoch: epochs finished. step: batches
    finished of the one after them.
    """

    def __init__(self, folder: Path | None, epoch: int, step: int) -> None:
        kept = f"its state is in {folder}" if folder else "no folder was given, so nothing is kept"
        super().__init__(f"Training was interrupted after {epoch} epochs and {step} batches; {kept}.")
        self.folder, self.epoch, self.step = folder, epoch, step

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.epoch, self.step)


@dataclass(frozen=True)
class Extent:
    """Of a batch or a part of it. mass, counted: what the means of loss and penalty are divided by. images: inputs."""

    mass: float = 0.0
    counted: int = 0
    images: int = 0

    def __add__(self, other: Extent) -> Extent:
        return Extent(self.mass + other.mass, self.counted + other.counted, self.images + other.images)


@dataclass
class Session:
    """model: the copy in training. forward, optimiser, backward: as Fabric set them up. held: validation source.

    weights: per class, of the loss. chances: per sample, of being drawn (None: each once an epoch). colours: how the
    inputs were normalised. ranks: the processes. apart: a context in which gradients stay in this process.
    """

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
    chances: Tensor | None = None
    colours: Colours | None = None
    ranks: Ranks = field(default_factory=Ranks)
    apart: Callable[[], AbstractContextManager[Any]] = nullcontext
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    epoch: int = 0
    batch: int = 0
    stopped: bool = False
    _tracker: Tracker = field(default_factory=lambda: Tracker("none", None))
    _sums: Tensor = field(default_factory=lambda: torch.zeros(_SUMS, dtype=torch.float64))

    def begin(self) -> None:
        """Go back to where a run in the folder was stopped, and note that."""
        event = "resumed" if self.restore() else "started"
        self._log(event, epoch=self.epoch, step=self.batch, device=str(self.device), processes=self.ranks.count)

    def run(self, bar: Progress) -> None:
        """All epochs that are left. Raises `TrainingInterrupted` after Ctrl-C, at the end of the step."""
        self._sums = self._sums.to(self.device)
        tracked = self.folder if self.ranks.first else None
        with _interrupts() as interrupted, Tracker(self.config.track, tracked) as self._tracker:
            while self.epoch < self.config.epochs and not self.stopped:
                self._run_epoch(bar, interrupted)

    def _run_epoch(self, bar: Progress, interrupted: Callable[[], bool]) -> None:
        started, cpu = time.monotonic(), time.process_time()
        order = self._order(self.epoch)
        training_mode(self.model, self.config.freeze)
        left = order[self.batch :]
        batches = self.source.batches([[indices[i] for i in self.ranks.share(indices)] for indices in left])
        for indices in left:
            step = self.epoch * len(order) + self.batch
            batch, whole = self._read(batches, indices, step)
            if whole.images:
                self._step(batch, whole, indices, step, self.config.epochs * len(order))
                bar.advance(whole.images)
            self.batch += 1
            if self.ranks.any(interrupted()):
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
        self._tracker.epoch(row)
        bar.epoch(row)

    def _order(self, epoch: int) -> list[list[int]]:
        if self.chances is not None:
            return drawn(self.chances, self.config.batch_size, self.config.seed, epoch)
        return shuffled(len(self.source.dataset), self.config.batch_size, self.config.seed, epoch)

    def _read(self, batches: Iterator[Batch | None], indices: list[int], step: int) -> tuple[Batch | None, Extent]:
        """This process's share of the batch of these samples, None where there is none; and the extent of it all."""
        batch: Batch | None = None

        def read() -> tuple[Extent, dict[str, str]]:
            nonlocal batch
            batch = next(batches)
            if batch is not None:
                batch = self._augmented(batch, step, self.ranks.share(indices).start, len(indices))
            return self._extent(batch), self.source.news()

        told = self.ranks.together(read)
        for _, skipped in told:
            self.source.hear(skipped)
        return batch, sum((extent for extent, _ in told), Extent())

    def _step(self, batch: Batch | None, whole: Extent, indices: list[int], step: int, total: int) -> None:
        config = self.config
        self._set_rates(step, total)
        _seed_everything(seed_of("step", config.seed, step, *self._beyond_first()), self.device)
        share = schedule.penalty_share(config, step, total)
        self.optimiser.zero_grad(set_to_none=True)
        *others, last = [self._spare(indices)] if batch is None else batch.pieces(config.accumulate)
        learn = self._idle if batch is None else partial(self._learn, strength=share * config.strength, whole=whole)
        for piece in others:
            with self.apart():
                learn(piece, share > 0)
        learn(last, share > 0)
        self.optimiser.step()

    def _beyond_first(self) -> tuple[int, ...]:
        """What keeps the dropout of other processes apart from that of the first, which draws like one alone."""
        return () if self.ranks.first else (self.ranks.rank,)

    def _learn(self, piece: Batch, penalised: bool, *, strength: float, whole: Extent) -> None:
        """The gradients of one piece of a batch, whose loss and penalty are means over the whole batch."""
        config = self.config
        output, maps = self._forward(piece, penalised)
        labels, own = piece.labels.to(self.device), self._extent(piece)
        total = tasks.parts(output)[0].sum() * 0
        if own.mass:
            smoothing, focusing = config.label_smoothing, config.focal_gamma
            loss = tasks.loss(self.task, output, labels, self.weights, smoothing=smoothing, focusing=focusing)
            total = loss * (own.mass / whole.mass)
        penalty = total.new_zeros(())
        if maps is not None:
            penalty = penalties.of_config(config, maps, labels, self._inside(piece, maps))
        penalty_share = own.counted / max(whole.counted, 1)
        self._backward(total + strength * penalty_share * penalty if penalised else total)
        counted = own.counted if penalised else 0
        self._count(output, labels, total.detach().double() * whole.images, penalty.detach(), counted)

    def _spare(self, indices: list[int]) -> Batch:
        """A sample of the batch for a process that has none of its own."""
        return next(batch for batch in self.source.batches([[i] for i in indices]) if batch is not None)

    def _idle(self, spare: Batch, penalised: bool) -> None:
        """A pass that counts nothing: the gradients of the other processes wait for those of this one."""
        output, maps = self._forward(spare, penalised)
        logits, auxiliary = tasks.parts(output)
        parts = [logits, *auxiliary] + ([] if maps is None else [maps])
        self._backward(torch.stack([part.sum() for part in parts]).sum() * 0)

    def _forward(self, batch: Batch, penalised: bool) -> tuple[Any, Tensor | None]:
        x = batch.inputs(self.device, weights_dtype(self.model))
        return self.forward(x, return_evidence=True) if penalised else (self.forward(x), None)

    def _backward(self, total: Tensor) -> None:
        self.backward(total * self.ranks.count)  # gradients are averaged over the processes, and are to be added up

    def _augmented(self, batch: Batch, step: int, start: int, size: int) -> Batch:
        """The share from the place `start` on of a batch of that size, each input changed by its own chance."""
        config = self.config
        if not config.augment:
            return batch
        chance = torch.Generator().manual_seed(seed_of("augment", config.seed, step))
        batch = batch.numbers() if on_numbers(config.augment) else batch
        part = [start + place for place in batch.places], size
        stored, masks = augment(
            batch.stored, config.augment, chance, masks=batch.masks, config=config, colours=self.colours, part=part
        )
        return replace(batch, stored=stored, masks=masks)

    def _extent(self, batch: Batch | None) -> Extent:
        if batch is None:
            return Extent()
        exclusive = self.task == "multiclass"
        counted = penalties.counted(self.config, batch.labels, batch.masks, exclusive=exclusive)
        return Extent(tasks.mass(self.task, batch.labels, self.weights), counted, len(batch))

    def _inside(self, piece: Batch, maps: Tensor) -> Tensor | None:
        """The cells that hold some of the masks."""
        if piece.masks is None:
            return None
        grid, size = tuple(maps.shape[2:]), tuple(piece.masks.shape[1:])
        known = getattr(self.model, "geometry", None)
        geometry = Geometry.unregistered(grid, size) if known is None else known(grid, size)
        return (cells_in(piece.masks, geometry) > 0).to(maps.device)

    def _set_rates(self, step: int, total: int) -> None:
        momentum = schedule.momentum(self.config, step, total)
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.learning_rate(self.config, step, total) * group.get("share", 1.0)
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum

    @torch.no_grad()
    def _count(self, output: Any, labels: Tensor, loss: Tensor, penalty: Tensor, under: int) -> None:
        right = tasks.correct(self.task, tasks.parts(output)[0], labels).sum()
        images = len(labels)
        parts = torch.stack([loss, right.double(), penalty.double() * under])
        self._sums += torch.stack([parts.new_tensor(images), parts[0], parts[1], parts.new_tensor(under), parts[2]])

    def _close_epoch(self, batches: int) -> dict[str, Any]:
        images, loss, right, under, penalty = self.ranks.total(self._sums.tolist())
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
        if (
            self.config.penalty == "mask"
            and not under
            and schedule.penalty_share(self.config, step - 1, self.config.epochs * batches) > 0
        ):
            raise OptionError(
                "No sample has a mask.",
                why="The penalty 'mask' rests on masks, and none was seen in a whole epoch.",
                hint="Give masks with the data, or choose another penalty.",
            )
        if self.held is not None:
            row |= self._validate(self.held)
        self.history.append(row)
        self._judge(row)
        self.epoch, self.batch, self._sums = self.epoch + 1, 0, torch.zeros_like(self._sums)
        self.save()
        if (folder := self.folder) is not None:
            self.ranks.once(lambda: _write_metrics(folder, self.history))
        return row

    def _validate(self, held: Source) -> dict[str, float | None]:
        _seed_everything(seed_of("validation", self.config.seed, self.epoch), self.device)
        self.ranks.even_out(self.model)
        self.model.eval()
        with torch.no_grad():
            scores = collect(lambda batch: self._forward(batch, False)[0], held, self.task, self.ranks).scores()
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
        """How good an epoch is: by the score that is asked for, then by loss; or by loss alone."""
        by_loss = self.config.keep_best in ("last", "val_loss")
        score = None if by_loss else row[self.config.keep_best]
        return score or 0.0, float("-inf") if row["val_loss"] is None else -row["val_loss"]

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
        place, sums = self.folder / "state", self.ranks.total(self._sums.tolist())
        self.ranks.once(lambda: str(checkpoint.save(place, self._state(sums))))

    def _state(self, sums: list[float]) -> dict[str, Any]:
        return {
            "plan": self.plan, "epoch": self.epoch, "batch": self.batch, "stopped": self.stopped, "sums": sums, "history": self.history, "best": self.best,
            "skipped": self.source.skipped, "held_skipped": self.held.skipped if self.held else {}, "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip

    def restore(self) -> bool:
        """Go back to the latest whole state of the folder. False where there is none."""
        if self.folder is None:
            return False
        place = self.folder / "state"
        state = self.ranks.once(lambda: checkpoint.load(place))
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
        if self.ranks.first:
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

    def _log(self, event: str, **facts: Any) -> None:
        folder = self.folder
        if folder is not None:
            self.ranks.once(lambda: run_folder.log(folder, event, **facts))


def _write_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    rows = "".join(json.dumps(row, allow_nan=False) + "\n" for row in history)
    files.write_text(folder / "metrics.jsonl", rows)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    files.write_text(folder / "metrics.csv", stream.getvalue())


def optimiser_of(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser over everything that learns. Raises `OptionError` where nothing does."""
    groups = _groups(model, config)
    if not groups:
        raise OptionError(
            "No parameter of the network can learn.", why="All are frozen, or there are none.", hint="Freeze less."
        )
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=schedule.momentum(config, 0, 1),
            nesterov=True,
            weight_decay=config.weight_decay,
        )
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


def _groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """What learns: all alike, or the trunk at its `share` of the rate and the head."""
    learning = [p for p in model.parameters() if p.requires_grad]
    if config.trunk_lr == 1.0:
        return [{"params": learning}] if learning else []
    head = {id(p) for module in heads(model) for p in module.parameters()}
    parts = [
        ([p for p in learning if (id(p) in head) == own], 1.0 if own else config.trunk_lr) for own in (False, True)
    ]
    return [{"params": found, "share": share} for found, share in parts if found]


def heads(model: nn.Module) -> list[nn.Module]:
    """What turns features into logits: the evidence heads, a SoftCAM's linear layer, else the last module with weights."""
    own = getattr(model, "heads", None)
    if isinstance(own, nn.ModuleList):
        return list(own)
    layer = getattr(getattr(model, "plan", None), "layer", None)
    inner = getattr(model, "model", None)
    if layer and isinstance(inner, nn.Module):
        return [inner.get_submodule(layer)]
    return [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))][-1:]


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
    """Tell of Ctrl-C, or SIGTERM, instead of raising it in the middle of a step; a second one raises at once."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["Session", "TrainingInterrupted", "frozen", "heads", "optimiser_of", "training_mode"]
