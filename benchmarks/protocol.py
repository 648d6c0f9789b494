r"""How time is measured: never alone, always between two plain forward passes of the same run.

    plain  A  plain  B  plain  C  plain      one round; the order of A, B, C moves on by one from round to round
      \__/ \__/
       each subject's time over the mean of the two plain passes beside it is one ratio

Time is the CPU time of the process on one thread, so another job on the machine is not counted, and what it does to
caches and clock speed falls on the neighbouring plain passes as well. With several threads it is the time of the clock,
which means something only while nothing else runs. Of at least 31 ratios the median is reported, with
a 95 % bootstrap interval. Two subjects are compared round by round in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

PAIRS = 31
_RESAMPLES = 4000


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def estimate(ratios: Sequence[float], seed: int = 0) -> Ratio:
    """The median of `ratios`; the interval holds the middle 95 % of the medians of resampled ratios."""
    values = np.asarray(ratios, dtype=float)
    rows = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[rows], axis=1), (0.025, 0.975))
    return Ratio(float(np.median(values)), float(low), float(high), len(values))


def alternate(
    plain: Callable[[], object],
    subjects: Mapping[str, Callable[[], object]],
    pairs: int = PAIRS,
    clock: Callable[[], float] | None = None,
    warm: int = 2,
) -> dict[str, list[float]]:
    """The ratios of every subject, one per round, in the order of the rounds. Everything runs `warm` times before it counts."""
    clock = clock or (time.process_time if torch.get_num_threads() == 1 else time.perf_counter)
    for run in (plain, *subjects.values()) * warm:
        run()
    names = list(subjects)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for number in range(pairs):
        shift = number % len(names) if names else 0
        before = _timed(plain, clock)
        for name in names[shift:] + names[:shift]:
            taken = _timed(subjects[name], clock)
            after = _timed(plain, clock)
            ratios[name].append(2 * taken / (before + after))
            before = after
    return ratios


def _timed(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """How many times the time of `theirs` is taken by `ours`, paired by round."""
    return estimate([a / b for a, b in zip(ours, theirs, strict=True)])
