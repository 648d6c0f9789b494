"""One process per name, so that a name over its limit of time or memory can be ended without harm to the others."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from benchmarks.zoo.records import Record, Store
from benchmarks.zoo.survey import Facts

Work = Callable[[Facts, Path], None]
_PAUSE = 0.1  # seconds between looks
_PATIENCE = 10  # a name may wait this many times its limit on a busy machine


@dataclass(frozen=True)
class Limits:
    """Processor time in seconds and resident MiB of one name; jobs: names at a time."""

    seconds: float = 120
    memory: int = 6144
    jobs: int = 2


def measured(facts: Facts, folder: Path) -> None:
    """What a worker does: measure one name and keep the record."""
    import torch

    from benchmarks.zoo.measure import measure

    torch.set_num_threads(1)
    Store(folder).keep(measure(facts))


def run(
    wanted: Sequence[Facts],
    store: Store,
    limits: Limits,
    report: Callable[[Record], None] = lambda record: None,
    work: Work = measured,
    code: str = "",
) -> None:
    """Work through the names in order. Each leaves a record, also when it is ended or crashes.

    Stopping this process stops its workers; the names that they were at have no record then.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["benchmarks.zoo.measure", "timm", "torchvision.models"]
    )  # imported once, not per name
    waiting, active = list(wanted)[::-1], dict[str, tuple[ForkServerProcess, float]]()
    try:
        while waiting or active:
            while waiting and len(active) < limits.jobs:
                facts = waiting.pop()
                process = context.Process(target=work, args=(facts, store.folder), daemon=True)
                process.start()
                active[facts.name] = process, time.monotonic()
            time.sleep(_PAUSE)
            for name, (process, start) in list(active.items()):
                ended = _ended(process, time.monotonic() - start, limits)
                if ended is None:
                    continue
                del active[name]
                record = store.record(name)
                if record is None:
                    seconds = round(time.monotonic() - start, 1)
                    record = Record(name, ended[0], code, message=ended[1], seconds=seconds)
                    store.keep(record)
                report(record)
    finally:
        for process, _ in active.values():
            process.kill()
            process.join()


def _ended(process: ForkServerProcess, waited: float, limits: Limits) -> tuple[str, str] | None:
    """None while the worker may go on; else outcome and message, should it have left no record."""
    if not process.is_alive():
        process.join()
        return "failed", f"The process ended with code {process.exitcode}."
    seconds, memory = used(process.pid or 0) or (waited, 0.0)
    if seconds <= limits.seconds and memory <= limits.memory and waited <= _PATIENCE * limits.seconds:
        return None
    process.kill()
    process.join()
    if memory > limits.memory:
        return "over the memory limit", f"Ended at {limits.memory} MiB."
    return "over the time limit", f"Ended after {limits.seconds:g} s."


def used(pid: int) -> tuple[float, float] | None:
    """Processor time in seconds and resident memory in MiB of a process; None where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return None  # it has just ended
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20
