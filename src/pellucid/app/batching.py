"""One thread in which all networks run, and the bounded queue in front of it.

Explaining changes nothing in a network but is not made for two threads at a time, so networks are used here only. Work
of one kind that waits together runs together: the evidence of several clients takes one forward pass.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from pellucid.app.problems import Refused
from pellucid.app.served import Served, Stopped

MOST_TOGETHER = 8


@dataclass(eq=False)
class Work:
    """Something to do with a network. kind: what is of one kind may run together, None: alone.

    run: gives one result, or one exception, for each of several payloads. patient: waits while there are others, and begins again where they come in the middle.
    """

    served: Served
    kind: Hashable | None
    payload: Any
    run: Callable[[Sequence[Any]], Sequence[Any]]
    patient: bool = False
    result: Future[Any] = field(default_factory=Future)
    gone: bool = False


class Worker:
    """The thread. done, turns: how much work ran, in how many turns. seconds: of one, as a running mean."""

    def __init__(self) -> None:
        self._queue: deque[Work] = deque()
        self._wake = threading.Condition()
        self._open = True
        self.done, self.turns = 0, 0
        self.seconds = 0.1
        self._thread = threading.Thread(target=self._work, name="pellucid-networks", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self._open

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def do(self, work: Work) -> Any:
        """The result. Where the waiting task is cancelled, the work is not begun, or stops at its next pass."""
        self.add(work)
        try:
            return await asyncio.wrap_future(work.result)
        finally:
            work.gone = True

    def add(self, work: Work) -> Future[Any]:
        with self._wake:
            self._queue.append(work)
            self._wake.notify()
        return work.result

    def close(self) -> None:
        with self._wake:
            self._open = False
            self._wake.notify()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while True:
            with self._wake:
                while self._open and not self._queue:
                    self._wake.wait()
                if not self._open:
                    return
                together = self._take()
            if together:
                self._turn(together)

    def _take(self) -> list[Work]:
        """What waits longest, and others of its kind."""
        first = next((work for work in self._queue if not work.patient), self._queue[0])
        self._queue.remove(first)
        if first.gone:
            return []
        alike = [j for j in self._queue if first.kind is not None and j.kind == first.kind and not j.gone]
        chosen = [first, *alike[: MOST_TOGETHER - 1]]
        for work in chosen[1:]:
            self._queue.remove(work)
        return chosen

    def _turn(self, together: Sequence[Work]) -> None:
        start = time.perf_counter()
        self.done, self.turns = self.done + len(together), self.turns + 1
        try:
            with together[0].served.interruptible(lambda: self._in_vain(together)):
                results = together[0].run([work.payload for work in together])
        except Stopped:
            self._put_back(together)
            return
        except Exception as error:
            results = [error] * len(together)
        for work, result in zip(together, results, strict=True):
            _settle(work.result, result)
        self.seconds += 0.1 * ((time.perf_counter() - start) / len(together) - self.seconds)

    def _in_vain(self, together: Sequence[Work]) -> bool:
        """Whether nobody waits for it any more, or only the patient do while somebody else waits."""
        with self._wake:
            still = [work for work in together if not work.gone]
            return all(work.patient for work in still) and (not still or any(not w.patient for w in self._queue))

    def _put_back(self, together: Sequence[Work]) -> None:
        with self._wake:
            self._queue.extendleft(work for work in reversed(together) if not work.gone)


def _settle(future: Future[Any], result: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


class Slots:
    """How many requests may be at work or wait. The next one is told to come back."""

    def __init__(self, most: int, worker: Worker) -> None:
        self.most, self.taken, self._worker = most, 0, worker

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place until the block ends. Raises `Refused` (503) where there is none."""
        self.check()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def check(self) -> None:
        """Raise `Refused` (503) where no place is free."""
        if self.taken < self.most:
            return
        seconds = min(30, max(1, ceil(self.taken * self._worker.seconds)))
        raise Refused(
            503,
            "The server is busy.",
            detail=f"{self.taken} requests are waiting already.",
            hint=f"Try again in {seconds} s.",
            headers={"Retry-After": str(seconds)},
        )


__all__ = ["MOST_TOGETHER", "Slots", "Work", "Worker"]
