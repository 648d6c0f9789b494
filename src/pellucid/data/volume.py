"""Volumes made ready for a network: grey values between 0 and 1, resampled to one size, with their place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from torch import Tensor

from pellucid.data.image_file import GREY_MEAN, GREY_STD
from pellucid.errors import BadInput, OptionError, nearest

MOST_VOXELS = 1 << 27
PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Volumes:
    """How a volume becomes an input of one channel.

    size: side, or one number per axis, of the input; None: as the file has it. crop: "resize" scales every axis to
    `size`; "centre" keeps the scale and takes the middle, with zeros where the volume ends before. spacing: mm per voxel
    (one number, or one per axis) to bring the volume to before it is cropped. Scaling is linear, with antialiasing.
    window: (low, high) values that become 0 and 1; None: the 0.5th and 99.5th percentile of each volume (DICOM: what the
    files ask for). mean, std: subtracted and divided by after that. canonical: whether axes are reordered and turned to
    right, anterior, superior (NIfTI). fill: the value put where the file has none (NaN, infinity); None: such a file is bad.
    """

    size: int | tuple[int, ...] | None = 96
    crop: Literal["centre", "resize"] = "resize"
    spacing: float | tuple[float, ...] | None = None
    window: tuple[float, float] | None = None
    mean: tuple[float, ...] = GREY_MEAN
    std: tuple[float, ...] = GREY_STD
    canonical: bool = True
    fill: float | None = None

    def __post_init__(self) -> None:
        axes = 3
        size = self.size if self.size is None else _each(self.size, axes)
        spacing = self.spacing if self.spacing is None else _each(self.spacing, axes)
        if self.crop not in ("centre", "resize"):
            raise OptionError(f"There is no crop '{self.crop}'.", hint=nearest(self.crop, ("centre", "resize")))
        if size is not None and (len(size) != axes or min(size) < 1 or np.prod(size) > MOST_VOXELS):
            raise OptionError(
                f"size is {self.size!r}.", why=f"One side or {axes} are needed, in voxels.", hint="Give size=96."
            )
        if spacing is not None and (len(spacing) != axes or not 0 < min(spacing) <= max(spacing) < float("inf")):
            raise OptionError(
                f"spacing is {self.spacing!r}.", why=f"One length or {axes} are needed, in mm.", hint="Give spacing=1."
            )
        if self.window is not None and not (len(self.window) == 2 and self.window[0] < self.window[1]):
            raise OptionError(
                f"window is {self.window!r}.",
                why="The low end must be below the high end.",
                hint="Give window=[low, high].",
            )
        mean, std = _each(self.mean, 1), _each(self.std, 1)
        if len(mean) != 1 or len(std) != 1 or not std[0] > 0:
            raise OptionError(
                f"mean is {self.mean}, std {self.std}.", why="A volume has one channel.", hint="Give one."
            )
        window = None if self.window is None else tuple(self.window)
        found = {"size": size, "spacing": spacing, "mean": mean, "std": std, "window": window}
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def grid(self, shape: Sequence[int], spacing: Sequence[float]) -> Grid:
        """Where a volume of this shape and spacing (mm) goes. Raises `BadInput` for one that would become too large."""
        asked: Any = self.spacing or tuple(spacing)
        scaled = tuple(max(1, round(n * s / a)) for n, s, a in zip(shape, spacing, asked, strict=True))
        size: Any = self.size or scaled
        scaled = size if self.crop == "resize" else scaled
        corner = tuple((n - m) // 2 for n, m in zip(scaled, size, strict=True))
        if np.prod(scaled, dtype=float) > MOST_VOXELS:
            raise BadInput(
                f"The volume would have {scaled} voxels.",
                why=f"At most {MOST_VOXELS:,} are made.",
                hint="Give a larger spacing or a smaller size.",
            )
        return Grid(tuple(shape), tuple(scaled), corner, tuple(size))

    def scaled_values(self, values: Float[Array, "*spatial"]) -> Float[Array, "*spatial"]:
        """Grey values from 0 to 1. Raises `BadInput` for values that are no numbers, unless `fill` says what they are."""
        finite = np.isfinite(values)
        if not finite.all():
            if self.fill is None:
                raise BadInput(
                    f"{int((~finite).sum()):,} of {values.size:,} voxels hold no number.",
                    why="NaN or infinity came.",
                    hint="Give fill=0, or the value that they stand for.",
                )
            values = np.where(finite, values, np.float32(self.fill))
        low, high = self.window or np.percentile(values, PERCENTILES)
        if not high > low:
            return np.zeros(values.shape, np.float32)
        scaled: Array = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        return scaled.clip(0, 1)

    def normalised(self, grey: Float[Array, "*spatial"], grid: Grid) -> Float[Tensor, "1 *spatial"]:
        """The input: resampled, then by mean and standard deviation."""
        placed = grid.place(torch.from_numpy(np.ascontiguousarray(grey, np.float32)))
        return ((placed - self.mean[0]) / self.std[0])[None]


def _each(value: Any, axes: int) -> tuple[Any, ...]:
    return (value,) * axes if isinstance(value, int | float) else tuple(value)


@dataclass(frozen=True)
class Grid:
    """From a file's voxels to the input's: scale `file` to `scaled`, then take `size` from `corner` (negative: pad)."""

    file: tuple[int, ...]
    scaled: tuple[int, ...]
    corner: tuple[int, ...]
    size: tuple[int, ...]

    def place(self, values: Float[Tensor, "*file"]) -> Float[Tensor, "*size"]:
        """Linear interpolation, antialiased where an axis shrinks; 0 outside."""
        for axis, (old, new) in enumerate(zip(self.file, self.scaled, strict=True)):
            if old != new:
                values = torch.tensordot(_weights(old, new), values, dims=([1], [axis])).movedim(0, axis)
        return self._cropped(values)

    def nearest(self, values: Tensor) -> Tensor:
        """The nearest voxel's own value, for masks; 0 outside."""
        for axis, (old, new) in enumerate(zip(self.file, self.scaled, strict=True)):
            centres = ((torch.arange(new) + 0.5) * (old / new)).long().clamp(max=old - 1)
            values = values.index_select(axis, centres)
        return self._cropped(values)

    def _cropped(self, values: Tensor) -> Tensor:
        out = values.new_zeros(self.size)
        here, there = [], []
        for corner, old, new in zip(self.corner, self.scaled, self.size, strict=True):
            start, stop = max(0, -corner), min(new, old - corner)
            here.append(slice(start, stop))
            there.append(slice(start + corner, stop + corner))
        out[tuple(here)] = values[tuple(there)]
        return out

    def told(self) -> dict[str, tuple[int, ...]]:
        """What is kept with a sample, so that results can be written back; as (x, y, z)."""
        return {"scaled": self.scaled[::-1], "corner": self.corner[::-1], "size": self.size[::-1]}

    def affine(self, file: Float[Array, "4 4"]) -> Float[Array, "4 4"]:
        """The place in the patient (mm) of the input's voxels, from that of the file's."""
        step = np.array(self.file) / np.array(self.scaled)
        to_file = np.eye(4)
        to_file[:3, :3] = np.diag(step)
        to_file[:3, 3] = (np.array(self.corner) + 0.5) * step - 0.5
        return file @ to_file


def _weights(old: int, new: int) -> Float[Tensor, "new old"]:
    """Per new voxel the shares of the old ones: a triangle as wide as the larger of the two voxels, held at the ends."""
    scale = max(1.0, old / new)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * (old / new) - 0.5
    if scale == 1:
        centres = centres.clamp(0, old - 1)
    away = (torch.arange(old, dtype=torch.float64) - centres[:, None]).abs() / scale
    weights = (1 - away).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


def check_voxels(shape: Sequence[int], path: str | Path) -> None:
    """Raise `BadInput` for a volume without voxels, or with more than can be borne."""
    if not shape or min(shape) < 1:
        raise BadInput(f"{path} has no voxels.", why=f"Its shape is {tuple(shape)}.", hint="Remove it.", path=path)
    if np.prod(shape, dtype=float) > MOST_VOXELS:
        raise BadInput(
            f"{path} is too large.",
            why=f"It declares {tuple(shape)} voxels; at most {MOST_VOXELS:,} are read.",
            hint="Resample it first.",
            path=path,
        )
