"""Trainings that several processes do together, and one process for comparison: what `test_ranks.py` starts and compares."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pellucid.errors import BadInput, PellucidError
from pellucid.sample import Facts, Sample
from pellucid.training.config import TrainingConfig
from pellucid.training.data import shuffled
from pellucid.training.launch import process_group
from pellucid.training.loop import train
from pellucid.training.session import Session, TrainingInterrupted
from training.kit import Net, Toy

BASE: dict[str, Any] = {
    "precision": "32",
    "optimiser": "sgd",
    "lr": 1e-2,
    "epochs": 4,
    "batch_size": 5,
    "schedule": "cosine",
    "threads": 1,
}


class Grouped(Net):
    """Statistics over groups of channels, so that no input sees another; and a layer that no pass uses."""

    def __init__(self, rank: int = 2, classes: int = 2) -> None:
        super().__init__(rank, classes, dropout=0.0)
        self.trunk[1] = nn.GroupNorm(2, 6)
        self.unused = nn.Linear(3, 3)


@dataclass(frozen=True)
class Masked(Toy):
    """With a mask on the upper half of every other sample, and two labels where asked."""

    many: bool = False

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        mask = torch.zeros(sample.input.shape[1:], dtype=torch.bool)
        mask[: len(mask) // 2] = True
        label = torch.tensor([sample.label, index % 3 == 0]).long() if self.many else sample.label
        return sample.changed(mask=mask if index % 2 else None, label=label)

    def facts(self, index: int) -> Facts:
        return Facts(f"s{index}", None if self.many else index // 2 % 2, f"p{index // 2}")


@dataclass(frozen=True)
class Signalling(Toy):
    """Asks the last process to stop when it reads this sample."""

    at: int = -1

    def __getitem__(self, index: int) -> Sample:
        if index == self.at and dist.is_initialized() and dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


TOY = Toy(n=23)


@dataclass(frozen=True)
class Dying(Toy):
    """Kills the last process when it reads this sample, but not one that was started again."""

    at: int = -1

    def __getitem__(self, index: int) -> Sample:
        last = dist.is_initialized() and dist.get_rank() == dist.get_world_size() - 1
        if index == self.at and last and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@dataclass(frozen=True)
class Case:
    """A network, data, settings; steps: how many it has to take."""

    config: dict[str, Any]
    data: Any = TOY
    net: Callable[[], Net] = Grouped
    steps: int = 20


# 23 samples in batches of 5: four whole batches, of which two processes have 3 and 2, and one of 3; 4 epochs.
CASES = {
    "weights and penalty": Case({"penalty": "l1", "strength": 0.3, "class_weights": (1.0, 3.0), "penalty_warm_up": 0.2}),
    "frozen statistics": Case(
        {"freeze": ["trunk.1"], "penalty": "entropy", "strength": 0.3, "penalty_classes": "contrast"},
        net=lambda: Net(2, dropout=0.0),
    ),
    "masks, pieces, chance": Case(
        {"penalty": "mask", "strength": 0.3, "accumulate": 3, "augment": ["hflip", "rotate90"]}, Masked(n=23)
    ),
    "labels": Case({"penalty": "l2", "strength": 0.3, "penalty_classes": "target"}, Masked(n=23, many=True)),
    "bad samples": Case({"max_bad": 0.3, "augment": ["vflip"]}, Toy(n=23, bad=(1, 8, 15, 16))),
    "one sample a step": Case({"epochs": 2, "batch_size": 1, "penalty": "l1", "strength": 0.1}, Toy(n=10)),
    "a class that does not count": Case({"epochs": 2, "batch_size": 2, "class_weights": (0.0, 1.0)}, Toy(n=20)),
    "held out": Case({"val_fraction": 0.3, "keep_best": "val_loss", "sampling": "balanced"}, Toy(n=32), steps=0),
}  # fmt: skip


def fresh(case: Case) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return case.net().double()


@contextmanager
def steps_noted() -> Iterator[list[list[float]]]:
    """What this process has added up after every step: images, loss, right answers, images under the penalty, penalty."""
    noted: list[list[float]] = []
    step = Session._step

    def noting(self: Session, *arguments: Any) -> None:
        step(self, *arguments)
        noted.append(self._sums.tolist())

    Session._step = noting  # type: ignore[method-assign]
    try:
        yield noted
    finally:
        Session._step = step  # type: ignore[method-assign]


def done(case: Case, folder: Path | None = None) -> dict[str, Any]:
    """Train, and tell weights, figures and steps."""
    with steps_noted() as noted:
        run = train(fresh(case), case.data, TrainingConfig(**{**BASE, **case.config}), folder=folder, progress=False)
    return {
        "weights": run.model.state_dict(), "history": run.history, "steps": noted, "skipped": dict(run.skipped),
        "best": run.best_epoch,
    }  # fmt: skip


def failure(work: Callable[[], Any]) -> str:
    try:
        work()
    except (PellucidError, TrainingInterrupted) as error:
        return f"{type(error).__name__}: {error}"
    return ""


AT = shuffled(23, BASE["batch_size"], seed=0, epoch=0)[1][-1]  # of the second batch, in the last process's share
STOPPED = Case({"save_every_steps": 2}, Signalling(n=23, at=AT))
AS_IF_NOT = Case({"save_every_steps": 2}, Signalling(n=23))
STATISTICS = Case({}, net=lambda: Net(2, dropout=0.0))


DEADLY = Case({"save_every_steps": 1}, Dying(n=23, at=AT))


# --- what `test_launch.py` has launched --------------------------------------------------------------------------------


def survived(out: Path) -> None:
    """Train on data that kill a process once."""
    torch.save(done(DEADLY, out / "run"), out / f"{dist.get_rank()}.pt")


def met(out: Path) -> None:
    """Add up the ranks of all, and leave the sum."""
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    (out / f"{dist.get_rank()}.txt").write_text(f"{total.item():g} of {dist.get_world_size()}")


class Odd(Exception):
    """Cannot be made again from its words."""

    def __init__(self, *, word: str) -> None:
        super().__init__(word)


FAILURES = {
    "known": BadInput("The file is damaged.", why="It ends early.", hint="Copy it again."),
    "bug": ZeroDivisionError("by hand"),
    "odd": Odd(word="by hand"),
}


def fail(how: str) -> None:
    """One process fails while the others wait for it."""
    if dist.get_rank() == 1 and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if dist.get_rank() == 1:
        raise FAILURES[how]
    dist.barrier()


def bad_training(out: Path) -> None:
    """A training whose data are of no use; as the process ends, it tells which threads of a group are left."""
    atexit.register(lambda: (out / f"{os.environ['LOCAL_RANK']}.threads").write_text(" ".join(group_threads())))
    done(Case({}, Toy(n=23, bad=tuple(range(0, 23, 4)))))


def group_threads() -> list[str]:
    """The threads of this process that carry the words of a group."""
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def together(rank: int, count: int, store: Path, out: Path, names: Sequence[str]) -> None:
    """All cases in a group of processes; what they give is left in `out`."""
    torch.set_num_threads(1)
    with process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count):
        found: dict[str, Any] = {name: done(CASES[name], out / name) for name in names}
        found["failures"] = [
            failure(lambda: done(Case({"lr": 0.5}), out / names[0])),
            failure(lambda: done(Case({}, Toy(n=23, bad=tuple(range(0, 23, 4)))))),
            failure(lambda: done(Case({"penalty": "l1", "compat": "paper-code"}))),
            failure(lambda: done(Case({}, Toy(n=23, fingerprint=f"other {rank}")))),
            failure(lambda: done(STOPPED, out / "stopped")),
            failure(lambda: done(Case({**STATISTICS.config, "save_every_steps": 1}, Signalling(n=23, at=AT), STATISTICS.net), out / "statistics")),
        ]  # fmt: skip
        found["threads in the group"] = group_threads()
        torch.save(found, out / f"{rank}.pt")
        dist.barrier()
    (out / f"{rank}.threads").write_text(" ".join(group_threads()))
