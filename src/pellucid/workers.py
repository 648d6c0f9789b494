"""Independent jobs, one after the other or in several processes, each on one thread."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeAlias

Job: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]


def work(jobs: Sequence[Job], processes: int, tick: Callable[[], None] = lambda: None) -> None:
    """Do all jobs, which have to pickle where there are several processes; none is begun before those in front of it.

    tick: called after each. The first failure is raised.
    """
    if processes < 2 or len(jobs) < 2:
        for function, arguments in jobs:
            _alone(function, arguments)
            tick()
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent) as pool:
        for running in [pool.submit(_alone, *job) for job in jobs]:
            running.result()
            tick()


def _end_with_parent() -> None:
    """A process whose parent was killed would go on with its job while the next run starts the same one."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """On one thread: small networks are many times slower on two, and runs repeat."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        function(*arguments)
    finally:
        torch.set_num_threads(threads)
