"""Where the samples of an input lie in their file and in the patient, by what the readers noted (`Sample.meta`).

So results go back to where their input came from. Readers note sizes and corners as (x, y, z); here axes are the input's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray as Array
from torch import Tensor

from pellucid.errors import BadInput
from pellucid.spatial import Geometry

Meta = Mapping[str, Any]
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM counts towards left and back, NIfTI towards right and front


def in_file(geometry: Geometry, meta: Meta) -> Geometry:
    """The same cells in samples of the file that the input was scaled and cut from.

    Raises `BadInput` where the reader did not note how that was done.
    """
    steps, offsets = _steps(meta)
    return replace(
        geometry,
        input_size=tuple(reversed(meta["file_size"])),
        start=tuple(o + step * s for o, step, s in zip(offsets, steps, geometry.start, strict=True)),
        jump=tuple(step * j for step, j in zip(steps, geometry.jump, strict=True)),
        receptive_field=None,
    )


def seen(meta: Meta) -> Bool[Tensor, "*file"]:
    """The samples of the file that lie in the input: what was cut off the network has not seen."""
    steps, offsets = _steps(meta)
    size, inside = tuple(reversed(meta["file_size"])), torch.tensor(True)
    for axis, (step, offset, wide) in enumerate(zip(steps, offsets, reversed(meta["placed"]["size"]), strict=True)):
        at = (torch.arange(size[axis], dtype=torch.float64) - offset) / step
        along = (at >= -0.5) & (at < wide - 0.5)
        inside = inside & along.view(-1, *(1,) * (len(size) - 1 - axis))
    return inside.expand(size)


def affine(meta: Meta, rank: int) -> Float[Array, "4 4"] | None:
    """From the axes of an input (of a picture: rows, columns, and the normal) to mm towards right, front and head.

    None where the file does not say where it lies.
    """
    known = meta.get("affine")
    if rank == 3 and known is not None:
        return np.asarray((np.eye(4) if "file_affine" in meta else _TO_RAS) @ np.array(known))
    if rank == 2 and known is not None:
        return np.asarray(np.array(known) @ _to_file(meta))
    if rank == 2 and {"ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"} <= set(meta):
        return np.asarray(_TO_RAS @ _of_frame(meta) @ _to_file(meta))
    return None


def _steps(meta: Meta) -> tuple[list[float], list[float]]:
    """Per axis: sample i of the input has its centre at `offset + step * i` of the file."""
    placed = meta.get("placed")
    if placed is None:
        raise BadInput(
            "It is not known where the input lies in its file.",
            why="Its reader did not note how it was scaled and cut.",
            hint="Explain the DICOM or NIfTI file itself.",
        )
    steps = [file / scaled for file, scaled in zip(meta["file_size"], placed["scaled"], strict=True)]
    offsets = [(corner + 0.5) * step - 0.5 for corner, step in zip(placed["corner"], steps, strict=True)]
    return steps[::-1], offsets[::-1]


def _to_file(meta: Meta) -> Float[Array, "4 4"]:
    """From rows and columns of a picture to those of its file."""
    steps, offsets = _steps(meta)
    made = np.diag([*steps, 1.0, 1.0])
    made[:2, 3] = offsets
    return made


def _of_frame(meta: Meta) -> Float[Array, "4 4"]:
    """From (row, column, normal) of a frame to mm towards left, back and head: DICOM part 3, C.7.6.2.1.1."""
    along_rows, along_columns = np.array(meta["ImageOrientationPatient"]).reshape(2, 3)
    between_rows, between_columns = meta["PixelSpacing"]
    made = np.eye(4)
    made[:3, 0], made[:3, 1] = along_columns * between_rows, along_rows * between_columns
    made[:3, 2] = np.cross(along_rows, along_columns) * float(meta.get("SliceThickness") or 1.0)
    made[:3, 3] = meta["ImagePositionPatient"]
    return made
