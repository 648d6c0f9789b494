"""How far a training is: a bar with rate and remaining time on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

SHOWN = ("loss", "penalty", "accuracy", "val_loss", "val_balanced_accuracy", "val_auc")


class Progress:
    """Use as a context; writes to stderr only, nothing at all when `shown` is False.

    epochs, images: of the whole training (images per epoch). done: epochs that an earlier session finished.
    """

    def __init__(self, epochs: int, images: int, *, shown: bool = True, done: int = 0) -> None:
        self.epochs, self.images, self.shown = epochs, images, shown
        self.seen = 0
        self.left = (epochs - done) * images
        self.start = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self.shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("training", total=self.left, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, images: int) -> None:
        self.seen += images
        if self._bar is not None:
            self._bar.update(self._task, advance=images, rate=f"{self.rate:.0f} inputs/s")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Tell of a finished epoch."""
        numbers = "  ".join(f"{k} {row[k]:.4f}" for k in SHOWN if row.get(k) is not None)
        self.say(
            f"epoch {row['epoch']}/{self.epochs}  {numbers}  {self.rate:.0f} inputs/s  {max(self.left - self.seen, 0) / max(self.rate, 1e-9):.0f} s left"
        )

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Images per second of this session."""
        return self.seen / max(time.monotonic() - self.start, 1e-9)


__all__ = ["Progress"]
