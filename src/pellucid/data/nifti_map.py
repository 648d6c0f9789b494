"""A map as a NIfTI volume that lies where its input lies."""

from __future__ import annotations

import gzip
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from pellucid.data.dicom_file import INSTALL
from pellucid.data.placement import Meta, affine
from pellucid.errors import OptionError
from pellucid.explanation import Explanation
from pellucid.spatial import Geometry

GridOf = Literal["input", "cells"]
_SCANNER, _UNKNOWN = 1, 0  # what an affine speaks of (NIfTI-1, xform codes)


def nifti_map(e: Explanation, meta: Meta, grid: GridOf = "input") -> bytes:
    """The map of one input as the bytes of a `.nii.gz`: signed 32-bit floats in the map's own unit.

    grid: "cells" holds the map's own values, one voxel per cell; "input" one voxel per sample of the input, interpolated.
    The affine is that of the input's file; without one the voxels are 1 mm wide and lie nowhere (code 0). Axes are x, y, z,
    those of a NIfTI file as they are there. Raises `OptionError` where nibabel is not installed.
    """
    nibabel = _require()
    cells = e.map if grid == "cells" else e.at_input_size()
    values = cells[0].detach().float().cpu().numpy()
    known = affine(meta, values.ndim)
    place = (np.eye(4) if known is None else known) @ (_to_input(e.geometry) if grid == "cells" else np.eye(4))
    if "file_affine" not in meta:  # rows and slices come first elsewhere
        values, place = values.T, place[:, [*range(values.ndim)[::-1], *range(values.ndim, 4)]]
    image = nibabel.Nifti1Image(values.reshape(*values.shape, *(1,) * (3 - values.ndim)), place)
    code = _UNKNOWN if known is None else _SCANNER
    image.set_sform(place, code)
    image.set_qform(place, code)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"{e.method}: evidence for {e.target.describe(e.classes)}".encode("ascii", "replace")[:79]
    return gzip.compress(image.to_bytes(), mtime=0)


def _to_input(geometry: Geometry) -> Float[Array, "4 4"]:
    """From cells to samples of the input."""
    made, axes = np.eye(4), range(len(geometry.grid))
    made[axes, axes] = geometry.jump
    made[axes, 3] = geometry.start
    return made


def _require() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise OptionError(
            "NIfTI files need nibabel.", why="It is not installed.", hint=f"Install the extra: {INSTALL}."
        ) from error
    return nibabel
