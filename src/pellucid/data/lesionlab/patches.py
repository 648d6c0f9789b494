"""Lesions and things that are none: shapes over a window of the frame, put onto a canvas one after the other.

Every shape is 1 at its core and exactly 0 outside its window. A patch has a stream of chance of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab.frame import FRAME
from pellucid.data.lesionlab.knobs import Knobs
from pellucid.data.lesionlab.shapes import Grain, Shape

FAINTEST = 1e-3  # opacities below this are set to 0, so that a shape ends somewhere

Spot = tuple[float, float]  # x, y in the frame
# (generator, reach, what lies there already, number) -> where
Place = Callable[[np.random.Generator, float, Sequence[Any], int], Spot]


@dataclass(frozen=True)
class Patch:
    """A shape over a window. The opacity is `gain * shape`; the shape's core (above .5) is its mask.

    filling: what the canvas is mixed with, per channel, alike or pixel by pixel. adds: the filling is added to the canvas
    instead of taking its place. gain may be above 1 where it adds.
    """

    kind: str
    rows: slice
    columns: slice
    shape: Float32[Array, "height width"]
    filling: Float32[Array, "channels #height #width"]
    gain: float
    centre: tuple[float, float]
    radius: float
    adds: bool = False
    contrast_to_noise: float | None = None

    @property
    def opacity(self) -> Float32[Array, "height width"]:
        opacity = np.float32(self.gain) * self.shape
        opacity[opacity < FAINTEST] = 0
        return opacity

    def compose(self, canvas: Float32[Array, "channels n n"]) -> None:
        """I = I (1 - opacity) + opacity filling, in place; where the patch adds, I = I + opacity filling."""
        window, opacity = canvas[:, self.rows, self.columns], self.opacity
        if not self.adds:
            window *= 1 - opacity
        window += opacity * self.filling

    def soft(self, n: int) -> Float32[Array, "n n"]:
        """The opacity over the whole frame."""
        soft = np.zeros((n, n), np.float32)
        soft[self.rows, self.columns] = self.opacity
        return soft

    def mask(self, n: int) -> Bool[Array, "n n"]:
        mask = np.zeros((n, n), bool)
        mask[self.rows, self.columns] = self.shape > 0.5
        return mask

    def effect(self, n: int, spread: int) -> Bool[Array, "n n"]:
        """Where the picture can change when the patch is dropped: its support, widened by the blur's reach."""
        return widened(self.opacity > 0, self.rows, self.columns, n, spread)

    def mirrored(self, n: int) -> Patch:
        """The patch of the mirror image."""
        return replace(
            self,
            columns=slice(n - self.columns.stop, n - self.columns.start),
            shape=self.shape[:, ::-1],
            filling=self.filling[:, :, ::-1],
            centre=(FRAME - self.centre[0], self.centre[1]),
        )

    def moved(self, columns: slice, pixels: int, n: int) -> Patch:
        """The patch where some columns of the picture have moved down by whole pixels."""
        at = np.arange(self.columns.start, self.columns.stop)
        inside = (at >= columns.start) & (at < columns.stop)
        if not inside.any():
            return self
        source = np.arange(n)[:, None] - pixels * inside  # the row that comes to lie there

        def tall(values: Array) -> Array:
            whole = np.zeros((*values.shape[:-2], n, len(at)), values.dtype)
            whole[..., self.rows, :] = values
            return np.where(
                (source >= 0) & (source < n),
                np.take_along_axis(whole, source.clip(0, n - 1) * np.ones_like(whole, int), -2),
                0,
            )

        filling = self.filling if self.filling.shape[-2:] == (1, 1) else tall(self.filling)
        x, y = self.centre
        down = pixels * FRAME / n if columns.start <= x * n / FRAME < columns.stop else 0.0
        return replace(self, rows=slice(0, n), shape=tall(self.shape), filling=filling, centre=(x, y + down))

    def latent(self) -> dict[str, Any]:
        """What was drawn, in frame pixels, for the sample's meta data."""
        known = {"type": self.kind, "x": self.centre[0], "y": self.centre[1], "radius": self.radius, "gain": self.gain}
        return known if self.contrast_to_noise is None else {**known, "contrast_to_noise": self.contrast_to_noise}


def widened(support: Bool[Array, "height width"], rows: slice, columns: slice, n: int, spread: int) -> Array:
    """The support in the whole frame, grown by `spread` pixels to all sides."""
    height, width = support.shape
    effect = np.zeros((n + 2 * spread, n + 2 * spread), bool)
    tall = np.zeros((height + 2 * spread, width), bool)
    window = effect[rows.start : rows.stop + 2 * spread, columns.start : columns.stop + 2 * spread]
    for k in range(2 * spread + 1):
        tall[k : k + height] |= support
    for k in range(2 * spread + 1):
        window[:, k : k + width] |= tall
    return effect[spread : spread + n, spread : spread + n]


@dataclass(frozen=True)
class Window:
    """A square of pixels around a centre that lies on a pixel; x and y are distances from it in frame pixels."""

    n: int
    row: int
    column: int
    reach: float

    @property
    def scale(self) -> float:
        return FRAME / self.n

    @property
    def slices(self) -> tuple[slice, slice]:
        half = int(np.ceil(self.reach / self.scale)) + 1
        return tuple(slice(max(0, c - half), min(self.n, c + half + 1)) for c in (self.row, self.column))  # type: ignore[return-value]

    def offsets(self) -> tuple[Array, Array]:
        rows, columns = self.slices
        y = (np.arange(rows.start, rows.stop) - self.row) * self.scale
        x = (np.arange(columns.start, columns.stop) - self.column) * self.scale
        return x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]


@dataclass(frozen=True)
class Kind:
    """What is drawn under a name. radius: range, in frame pixels. extent: half the lesion's diameter over its radius.

    colour: what fills the shape, one value per channel. grain: a texture of zero mean on it. towards: the point that the
    shape's x axis looks at, where it has one.
    """

    radius: tuple[float, float]
    colour: tuple[float, ...]
    shape: Shape
    gain: tuple[float, float] = (1.0, 1.0)
    extent: float = 1.0
    grain: Grain | None = None
    towards: tuple[float, float] | None = None
    adds: bool = False


@dataclass(frozen=True)
class Size:
    """How large and how opaque patches are drawn: scales of their own sizes, or one diameter for all (frame pixels)."""

    n: int
    scale: float = 1.0
    contrast: float = 1.0
    diameter: float | None = None

    @classmethod
    def of(cls, knobs: Knobs, n: int) -> Size:
        """The size that the knobs ask for in a picture `n` wide."""
        strides = knobs.diameter_over_stride
        contrast = knobs.contrast if knobs.contrast_to_noise is None else 1.0
        return cls(n, knobs.diameter, contrast, None if strides is None else strides * knobs.stride * FRAME / n)

    def radius(self, drawn: float, extent: float = 1.0) -> float:
        return float(self.scale * drawn if self.diameter is None else self.diameter / 2 / extent)


def patch(
    name: str, kind: Kind, place: Place, generator: np.random.Generator, size: Size, others: Sequence[Any], number: int
) -> Patch:
    """One patch, all of its chance taken from `generator` in a fixed order."""
    radius = size.radius(generator.uniform(*kind.radius), kind.extent)
    gain = size.contrast * generator.uniform(*kind.gain)
    colour = np.array(kind.colour) * generator.uniform(0.94, 1.06) + generator.normal(0, 0.01, len(kind.colour))
    reach, draw = kind.shape(generator, radius)
    x, y = place(generator, reach, others, number)
    window = Window(size.n, row=int(y * size.n / FRAME), column=int(x * size.n / FRAME), reach=reach)
    at = window.offsets()
    if kind.towards is not None:
        at = _turned(*at, kind.towards[0] - x, kind.towards[1] - y)
    shape = draw(*at, window.scale).astype(np.float32)
    filling = colour.astype(np.float32)[:, None, None]
    if kind.grain is not None:
        filling = filling + kind.grain(generator, *at, window.scale)
    rows, columns = window.slices
    return Patch(name, rows, columns, shape, filling, float(gain), (float(x), float(y)), float(radius), kind.adds)


def _turned(x: Array, y: Array, to_x: float, to_y: float) -> tuple[Array, Array]:
    """Coordinates whose first axis points along (to_x, to_y)."""
    length = np.hypot(to_x, to_y) or 1.0
    cos, sin = np.float32(to_x / length), np.float32(to_y / length)
    return x * cos + y * sin, y * cos - x * sin


def apart(x: float, y: float, reach: float, others: Sequence[Any]) -> bool:
    """Whether a patch of this reach would keep off all others."""
    return all(np.hypot(x - o.centre[0], y - o.centre[1]) > reach + 12 + o.radius for o in others)


def around(x: float, y: float, number: int) -> Spot:
    """A fixed place near (x, y) for patch `number`: a spiral, so that many do not hide each other."""
    distance, angle = 26 * np.sqrt(number), 2.4 * number
    return float(x + distance * np.cos(angle)), float(y + distance * np.sin(angle))


def told_apart(patch: Patch, wanted: float, base: Float32[Array, "channels n n"], noise: float) -> Patch:
    """The patch with the gain at which it differs from what is under it by `wanted` times the deviation there.

    base: the lesion-free picture. noise: the variance that comes on top of that of the base in the patch's window.
    Differences are those of the mean over channels, root mean square over the core. Where the patch does not add, its gain
    ends at 1.
    """
    under = base[:, patch.rows, patch.columns]
    change = (patch.filling - (0 if patch.adds else under)).mean(0) * np.ones_like(patch.shape)
    core = patch.shape > 0.5
    difference = float(np.sqrt(np.square(change[core]).mean()))
    deviation = float(np.sqrt(under.mean(0).var() + noise))
    gain = wanted * deviation / max(difference, 1e-6)
    gain = gain if patch.adds else min(gain, 1.0)
    return replace(patch, gain=gain, contrast_to_noise=gain * difference / deviation)
