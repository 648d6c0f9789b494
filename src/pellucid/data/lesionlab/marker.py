"""The planted shortcut: a bright laterality letter in the upper left corner of the frame, outside the fundus."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy import ndarray as Array

from pellucid.data.lesionlab.anatomy import FRAME, grid
from pellucid.data.lesionlab.patches import Patch

_LOW, _HIGH = 0.035 * FRAME, 0.145 * FRAME  # the box of the letter, on both axes
_STROKE = 0.011 * FRAME  # half its width
_COLOUR = (0.95, 0.95, 0.92)

# Corners of the pen's way in a unit box, y downwards.
_PEN = {
    "L": ((0.2, 0.05), (0.2, 0.95), (0.8, 0.95)),
    "R": (
        (0.2, 0.95),
        (0.2, 0.05),
        (0.62, 0.05),
        (0.8, 0.17),
        (0.8, 0.38),
        (0.62, 0.5),
        (0.2, 0.5),
        (0.5, 0.5),
        (0.82, 0.95),
    ),
}


@lru_cache(maxsize=16)
def letter(name: str, n: int) -> Patch:
    """The letter "L" or "R" as a patch of the frame."""
    rows = columns = box(n, 0)[0]
    x, y = grid(n)
    x, y, pixel = x[:, columns], y[rows], FRAME / n
    pen = np.array(_PEN[name]) * (_HIGH - _LOW - 2 * _STROKE) + _LOW + _STROKE
    distance = np.min([_to_segment(x, y, a, b) for a, b in pairwise(pen)], axis=0)
    shape = np.clip((_STROKE - distance) / pixel + 0.5, 0, 1).astype(np.float32)
    shape.setflags(write=False)
    middle = (_LOW + _HIGH) / 2
    return Patch(f"letter {name}", rows, columns, shape, _COLOUR, 1.0, (middle, middle), (_HIGH - _LOW) / 2)


def box(n: int, spread: int) -> tuple[slice, slice]:
    """Rows and columns that any letter can change, `spread` being the reach of the blur."""
    side = slice(max(0, int(_LOW * n / FRAME) - spread), int(np.ceil(_HIGH * n / FRAME)) + spread)
    return side, side


def _to_segment(x: Array, y: Array, a: Array, b: Array) -> Array:
    """The distance of every pixel from the segment a-b."""
    dx, dy = b - a
    along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    distance: Array = np.hypot(x - a[0] - along * dx, y - a[1] - along * dy)
    return distance
