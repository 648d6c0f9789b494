"""Random textures with a power spectrum 1/f^beta, and the smooth steps that edges are made of."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float32
from numpy import ndarray as Array


@lru_cache(maxsize=64)
def _gain(height: int, width: int, beta: float) -> Float32[Array, "height half_width"]:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    gain = frequency ** (-beta / 2)
    twice = np.full(gain.shape[1], 2.0)  # rfft keeps one of each conjugate pair
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    variance = (twice * gain**2).sum() / (height * width)
    scaled: Array = (gain / np.sqrt(variance)).astype(np.float32)
    return scaled


def texture(generator: np.random.Generator, size: tuple[int, int], beta: float) -> Float32[Array, "height width"]:
    """White noise filtered by f^(-beta/2). The variance is 1 in expectation; nothing is measured on the result."""
    white = generator.standard_normal(size, dtype=np.float32)
    filtered: Array = np.fft.irfft2(np.fft.rfft2(white) * _gain(*size, beta), s=size).astype(np.float32)
    return filtered


def cut_texture(generator: np.random.Generator, size: tuple[int, int], beta: float) -> Float32[Array, "height width"]:
    """A texture cut out of a larger one whose sides are multiples of 16, which transforms are fast for."""
    height, width = size
    return texture(generator, (-(-height // 16) * 16, -(-width // 16) * 16), beta)[:height, :width]


def step(distance: Array) -> Array:
    """A smooth step, exactly 0 up to -1 and exactly 1 from 1."""
    t = np.clip(0.5 + 0.5 * distance, 0, 1)
    smooth: Array = t * t * (3 - 2 * t)
    return smooth
