"""Figures of every epoch in TensorBoard, where that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pellucid.errors import ResourceError

_NO_FIGURES = ("epoch", "step")


class Tracker:
    """Use as a context. kind "tensorboard" writes to `folder`/tb, "none" (or no folder) nothing.

    Raises `ResourceError` where TensorBoard is not installed.
    """

    def __init__(self, kind: str, folder: Path | None) -> None:
        self._writer: Any = _writer(folder / "tb") if kind == "tensorboard" and folder is not None else None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Note an epoch's figures by its number; those of validation stand beside those of training."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name not in _NO_FIGURES and value is not None:
                part, figure = ("validation", name[4:]) if name.startswith("val_") else ("training", name)
                self._writer.add_scalar(f"{figure}/{part}", value, row["epoch"])
        self._writer.flush()


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ResourceError(
            "Tracking needs TensorBoard.",
            why="The package tensorboard is not installed.",
            hint='Install it: pip install "pellucid[track]", or leave track out.',
        ) from error
    return SummaryWriter(str(folder))


__all__ = ["Tracker"]
