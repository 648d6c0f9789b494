"""Things in the picture that are no tissue and can give a label away: a letter, a hospital's tag, a ruler, a device.

Lengths are shares of the frame unless a name says pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab.frame import FRAME, grid
from pellucid.data.lesionlab.patches import Patch, widened
from pellucid.data.lesionlab.streams import stream

MARKERS = ("letter", "tag", "ruler", "gamma", "blur", "device")
WITHOUT_PLACE = ("gamma", "blur")  # the whole picture changes: no mask exists
INK = (0.95, 0.95, 0.92)  # of a screen

Strokes = tuple[tuple[tuple[float, float], ...], ...]

_LOW, _HIGH = 0.035 * FRAME, 0.145 * FRAME  # the box of a glyph, from the border
_STROKE = 0.011 * FRAME  # half its width

# Corners of the pen's way in a unit box, y downwards.
_L = ((0.2, 0.05), (0.2, 0.95), (0.8, 0.95))
_R = (
    (0.2, 0.95), (0.2, 0.05), (0.62, 0.05), (0.8, 0.17), (0.8, 0.38), (0.62, 0.5), (0.2, 0.5), (0.5, 0.5), (0.82, 0.95),
)  # fmt: skip
_H = ((0.2, 0.05), (0.2, 0.95), (0.2, 0.5), (0.8, 0.5), (0.8, 0.05), (0.8, 0.95))
_A = ((0.1, 0.95), (0.5, 0.05), (0.9, 0.95), (0.72, 0.6), (0.28, 0.6))
_GLYPHS = {"letter": {"L": _L, "R": _R}, "tag": {"H": _H, "A": _A}}
_RULERS = {"fine": 9, "coarse": 5}  # ticks
_DEVICES = ("ring", "cross")
_DEVICE = 24.0  # radius of a device, frame pixels

VARIANTS = {"letter": ("L", "R"), "tag": tuple(_GLYPHS["tag"]), "ruler": tuple(_RULERS), "device": _DEVICES}


@dataclass(frozen=True)
class Stencil:
    """An opaque shape over a window of the frame, in whatever paint."""

    rows: slice
    columns: slice
    shape: Float32[Array, "height width"]

    def painted(self, name: str, paint: tuple[float, ...], adds: bool) -> Patch:
        """The shape as a patch with these values per channel."""
        filling = np.array(paint, np.float32)[:, None, None]
        return Patch(name, self.rows, self.columns, self.shape, filling, 1.0, (0.0, 0.0), 0.0, adds)


@dataclass(frozen=True)
class Mark:
    """A marker ready to be shown: its usual form and the other one. `place` is where either can be."""

    kind: str
    variant: str
    usual: Patch
    other: Patch
    place: tuple[slice, slice] | None

    def shown(self, swapped: bool) -> Patch:
        return self.other if swapped else self.usual

    def zone(self, n: int, spread: int) -> Bool[Array, "n n"]:
        """All pixels that either form can change."""
        zone = np.zeros((n, n), bool)
        if self.place is not None:
            zone[tuple(slice(max(0, s.start - spread), s.stop + spread) for s in self.place)] = True
        else:
            for form in (self.usual, self.other):
                zone |= widened(form.opacity > 0, form.rows, form.columns, n, spread)
        return zone


def mark(
    kind: str, variant: str, n: int, paint: tuple[float, ...], adds: bool, centre: tuple[float, float]
) -> Mark | None:
    """The marker of an image. centre: of a device, in frame pixels. None where there is no place for it."""
    if kind not in VARIANTS:
        return None
    first, second = VARIANTS[kind]
    other = second if variant == first else first
    at = centre if kind == "device" else None
    usual, changed = (_stencil(kind, v, n, at).painted(f"{kind} {v}", paint, adds) for v in (variant, other))
    return Mark(kind, variant, usual, changed, None if kind == "device" else _box(kind, n))


def variant_of(kind: str, image: int, right: bool) -> str:
    """Which form of the marker the image has: the letter tells the side, all else is chance and not the label's."""
    if kind not in VARIANTS:
        return ""
    first, second = VARIANTS[kind]
    if kind == "letter":
        return second if right else first
    return second if stream(image, "marker form").random() < 0.5 else first


def gauge_box(n: int) -> tuple[slice, slice]:
    """Rows and columns of the gauge that tells the brightness: the lower right corner."""
    side = slice(int((FRAME - _HIGH) * n / FRAME), int((FRAME - _LOW) * n / FRAME))
    return side, side


def gauge(n: int, value: float) -> Patch:
    """The gauge, painted over what is there, alike in all channels."""
    rows, columns = gauge_box(n)
    shape = np.ones((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    return Stencil(rows, columns, shape).painted("gauge", (value,), adds=False)


def _box(kind: str, n: int) -> tuple[slice, slice]:
    """Rows and columns that the marker can change: a glyph's upper left or right corner, a ruler's lower left border."""
    near = slice(max(0, int(_LOW * n / FRAME)), int(np.ceil(_HIGH * n / FRAME)))
    far = slice(n - near.stop, n - near.start)
    if kind == "ruler":
        return slice(int(0.74 * n), int(0.985 * n)), slice(int(0.015 * n), int(np.ceil(0.075 * n)))
    return near, far if kind == "tag" else near


@lru_cache(maxsize=32)
def _stencil(kind: str, variant: str, n: int, centre: tuple[float, float] | None) -> Stencil:
    if centre is not None:
        return _device(variant, n, centre)
    rows, columns = _box(kind, n)
    if kind == "ruler":
        strokes, half = _ruler(_RULERS[variant]), 0.004 * FRAME
    else:
        pen = np.array(_GLYPHS[kind][variant]) * (_HIGH - _LOW - 2 * _STROKE) + _LOW + _STROKE
        strokes, half = [pen + ((FRAME - _HIGH - _LOW, 0.0) if kind == "tag" else (0.0, 0.0))], _STROKE
    return Stencil(rows, columns, _drawn(strokes, half, n, rows, columns))


def _ruler(ticks: int) -> list[Array]:
    """A line along the border with ticks, every second one long."""
    x, y = 0.028 * FRAME, np.linspace(0.76, 0.965, ticks) * FRAME
    long = np.where(np.arange(ticks) % 2 == 0, 0.035, 0.02) * FRAME
    return [np.array(((x, y[0]), (x, y[-1])))] + [np.array(((x, t), (x + a, t))) for t, a in zip(y, long, strict=True)]


def _device(variant: str, n: int, centre: tuple[float, float]) -> Stencil:
    reach = int(np.ceil((_DEVICE + 8) * n / FRAME)) + 1
    column, row = (int(c * n / FRAME) for c in centre)
    rows, columns = (slice(max(0, c - reach), min(n, c + reach + 1)) for c in (row, column))
    angle, (x, y) = np.linspace(0, 2 * np.pi, 25), centre
    if variant == "ring":
        strokes = [np.stack([x + _DEVICE * np.cos(angle), y + _DEVICE * np.sin(angle)], 1)]
    else:
        arm = _DEVICE * np.sqrt(0.5)
        strokes = [np.array(((x - arm, y - s * arm), (x + arm, y + s * arm))) for s in (-1, 1)]
    return Stencil(rows, columns, _drawn(strokes, 2.5, n, rows, columns))


def _drawn(strokes: list[Array], half: float, n: int, rows: slice, columns: slice) -> Float32[Array, "height width"]:
    """Strokes of a pen that is `2 * half` frame pixels wide, smoothed by a pixel at the edge."""
    x, y = grid(n)
    x, y, pixel = x[:, columns], y[rows], FRAME / n
    distance = np.min([_to_segment(x, y, a, b) for pen in strokes for a, b in pairwise(pen)], axis=0)
    drawn: Array = np.clip((half - distance) / pixel + 0.5, 0, 1).astype(np.float32)
    drawn.setflags(write=False)
    return drawn


def _to_segment(x: Array, y: Array, a: Array, b: Array) -> Array:
    """The distance of every pixel from the segment a-b."""
    dx, dy = b - a
    along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    distance: Array = np.hypot(x - a[0] - along * dx, y - a[1] - along * dy)
    return distance
