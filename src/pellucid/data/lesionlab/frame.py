"""The frame that everything is measured in, and the lens in front of it.

Lengths are in pixels of a frame 512 wide and scaled to the picture that is drawn.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float32
from numpy import ndarray as Array

FRAME = 512.0


@lru_cache(maxsize=8)
def grid(n: int) -> tuple[Float32[Array, "1 n"], Float32[Array, "n 1"]]:
    """The x of every column and the y of every row (pixel centres), in frame units."""
    along = ((np.arange(n, dtype=np.float32) + 0.5) * np.float32(FRAME / n)).astype(np.float32)
    along.setflags(write=False)
    return along[None, :], along[:, None]


def lens(deviation: float, reach: int) -> Float32[Array, "half"]:
    """Half of a Gaussian, `deviation` pixels wide and cut off beyond `reach`; the whole of it sums to 1."""
    half = np.exp(-0.5 * (np.arange(reach + 1) / deviation) ** 2)
    scaled: Array = (half / (half[0] + 2 * half[1:].sum())).astype(np.float32)
    return scaled


def blur(canvas: Float32[Array, "channels n n"], half: Float32[Array, "half"]) -> Float32[Array, "channels n n"]:
    """The canvas behind a lens. What lies beyond the frame is black."""
    return _along(_along(canvas, half, 1), half, 2)


def blur_on(canvas: Float32[Array, "channels n n"], half: Float32[Array, "half"]) -> Float32[Array, "channels n n"]:
    """The canvas behind a lens. Beyond the frame it goes on as it is at the edge."""
    reach = len(half) - 1
    wide = np.pad(canvas, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    return blur(wide, half)[:, reach:-reach, reach:-reach]


def _along(canvas: Array, half: Array, axis: int) -> Array:
    blurred: Array = canvas * half[0]
    for k in range(1, len(half)):
        part = canvas * half[k]
        for to, source in ((slice(k, None), slice(None, -k)), (slice(None, -k), slice(k, None))):
            index = (slice(None),) * axis
            blurred[(*index, to)] += part[(*index, source)]
    return blurred
