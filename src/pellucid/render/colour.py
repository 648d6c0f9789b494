"""The signed colour map: blue speaks against, white says nothing, orange speaks for.

Lightness falls evenly and equally on both sides, so a step in value is the same step to the eye wherever it is, and a
print without colour still shows how strong a place is. Blue against orange stays apart for the colour-blind.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

# CIELAB (L, a, b) at 0, 1/4, 1/2, 3/4 and 1: lightness 100 to 56, chroma growing evenly, hue turning slightly.
_AGAINST = ((100.0, 0.0, 0.0), (89.0, -2.1, -11.0), (78.0, -2.7, -22.3), (67.0, -1.2, -33.7), (56.0, 2.4, -44.9))
_FOR = ((100.0, 0.0, 0.0), (89.0, 6.3, 17.4), (78.0, 15.0, 33.8), (67.0, 26.1, 49.0), (56.0, 38.7, 63.1))
_HALF = 255  # steps on either side of zero

_TO_RGB = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])

UNKNOWN = (128, 128, 128)


def diverging(values: Float[np.ndarray, "*shape"], limit: float) -> UInt8[np.ndarray, "*shape 3"]:
    """RGB of signed values: `-limit` and below is the full blue, 0 white, `limit` and above the full orange.

    A limit of 0 makes everything white. Values that are not finite are grey.
    """
    share = np.zeros(np.shape(values)) if limit <= 0 else np.clip(np.asarray(values, dtype=float) / limit, -1, 1)
    known = np.isfinite(np.asarray(values, dtype=float))
    rgb: NDArray[np.uint8] = _table()[np.rint(np.where(known, share, 0.0) * _HALF).astype(int) + _HALF]
    rgb[~known] = UNKNOWN
    return rgb


def stops(count: int = 9) -> list[str]:
    """The map from the full blue to the full orange as `#rrggbb`, for legends."""
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in diverging(np.linspace(-1, 1, count), 1.0)]


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint8]:
    along = np.linspace(0, 1, _HALF + 1)
    at = np.linspace(0, 1, len(_FOR))
    halves = [
        np.stack([np.interp(along, at, axis) for axis in zip(*side, strict=True)], -1) for side in (_AGAINST, _FOR)
    ]
    return _rgb(np.concatenate([halves[0][:0:-1], halves[1]]))


def _rgb(lab: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"]:
    """CIELAB (D65) to sRGB."""
    middle = (lab[:, 0] + 16) / 116
    f = np.stack([middle + lab[:, 1] / 500, middle, middle - lab[:, 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _WHITE
    linear = np.clip(xyz @ _TO_RGB.T, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(rgb * 255), dtype=np.uint8)
