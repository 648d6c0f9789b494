"""Lesions and the things that are none: small soft shapes with a colour, each drawn in a window of its own.

Sizes are in pixels of a 512-pixel frame. Every shape is 1 at its core and exactly 0 outside its window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab.anatomy import DISC_CENTRE, DISC_RADIUS, FRAME
from pellucid.data.lesionlab.knobs import Knobs
from pellucid.data.lesionlab.streams import stream
from pellucid.data.lesionlab.texture import step, texture

FAINTEST = 1e-3  # opacities below this are set to 0, so that a shape ends somewhere


@dataclass(frozen=True)
class Patch:
    """A shape over a window of the frame. The opacity is `gain * shape`; the shape's core (above .5) is its mask."""

    kind: str
    rows: slice
    columns: slice
    shape: Float32[Array, "height width"]
    colour: tuple[float, float, float]
    gain: float
    centre: tuple[float, float]
    radius: float

    @property
    def opacity(self) -> Float32[Array, "height width"]:
        opacity = np.float32(self.gain) * self.shape
        opacity[opacity < FAINTEST] = 0
        return opacity

    def compose(self, canvas: Float32[Array, "3 n n"]) -> None:
        """I = I (1 - opacity) + opacity colour, in place."""
        window, opacity = canvas[:, self.rows, self.columns], self.opacity
        window *= 1 - opacity
        window += opacity * np.array(self.colour, np.float32)[:, None, None]

    def mask(self, n: int) -> Bool[Array, "n n"]:
        mask = np.zeros((n, n), bool)
        mask[self.rows, self.columns] = self.shape > 0.5
        return mask

    def effect(self, n: int, spread: int) -> Bool[Array, "n n"]:
        """Where the picture can change when the patch is dropped: its support, widened by the blur's reach."""
        rows, columns, support = self.rows, self.columns, self.opacity > 0
        height, width = support.shape
        effect = np.zeros((n + 2 * spread, n + 2 * spread), bool)
        tall = np.zeros((height + 2 * spread, width), bool)
        window = effect[rows.start : rows.stop + 2 * spread, columns.start : columns.stop + 2 * spread]
        for k in range(2 * spread + 1):
            tall[k : k + height] |= support
        for k in range(2 * spread + 1):
            window[:, k : k + width] |= tall
        return effect[spread : spread + n, spread : spread + n]

    def latent(self) -> dict[str, Any]:
        """What was drawn, in frame pixels, for the sample's meta data."""
        return {"type": self.kind, "x": self.centre[0], "y": self.centre[1], "radius": self.radius}


@dataclass(frozen=True)
class _Window:
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


# A shape: (generator, radius) -> (reach, draw); draw(x, y, pixel) -> opacities. All chance is used up before drawing,
# except for textures, which are drawn over the window.
Draw = Callable[[Array, Array, float], Array]
Shape = Callable[[np.random.Generator, float], tuple[float, Draw]]


def _gaussian(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """A blurred dot whose opacity is one half at `radius`."""

    def draw(x: Array, y: Array, pixel: float) -> Array:
        deviation = np.float32(max(radius / 1.18, 0.5 * pixel))
        dot: Array = np.exp(-0.5 * (x * x + y * y) / (deviation * deviation))
        return dot

    return 3.2 * radius + 4, draw


def _blot(softness: float, ragged: float, stretch: tuple[float, float], grain: float = 3.0) -> Shape:
    """An ellipse with an edge `softness * radius` wide, warped by 1/f noise."""

    def shape(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
        aspect, angle = generator.uniform(*stretch), generator.uniform(0, np.pi)
        long, short = radius * np.sqrt(aspect), radius / np.sqrt(aspect)

        def draw(x: Array, y: Array, pixel: float) -> Array:
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            distance = np.hypot((x * cos + y * sin) / np.float32(long), (y * cos - x * sin) / np.float32(short))
            warp = np.float32(ragged) * np.clip(texture(generator, distance.shape, grain), -1.5, 1.5)
            edge = np.float32(max(softness, 0.6 * pixel / short))
            # The core stays whole: the warp grows from the centre outwards.
            return step((1 - distance * (1 + warp)) / edge)

        return float(long * (1 + softness) / max(1 - 1.5 * ragged, 0.4)) + 2, draw

    return shape


def _cluster(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """4 to 11 sharp dots around a first one in the centre."""
    count = int(generator.integers(4, 12))
    size = radius * generator.uniform(0.55, 1.45, count)
    x0, y0 = np.clip(generator.normal(0, 2.1, (2, count)), -4, 4) * radius
    x0[0] = y0[0] = 0.0

    def draw(x: Array, y: Array, pixel: float) -> Array:
        drawn = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        for cx, cy, r in zip(x0, y0, size, strict=True):
            distance = np.hypot(x - np.float32(cx), y - np.float32(cy))
            dot = step((np.float32(max(r, 0.5 * pixel)) - distance) / np.float32(max(0.35 * r, 0.5 * pixel)))
            np.maximum(drawn, dot, out=drawn)
        return drawn

    return 6.0 * radius + 4, draw


def _ring(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """Dust out of focus: a disc, darker at its rim."""

    def draw(x: Array, y: Array, pixel: float) -> Array:
        distance = np.hypot(x, y) / np.float32(radius)
        edge = np.float32(max(0.25, 0.6 * pixel / radius))
        disc: Array = step((1 - distance) / edge) * np.minimum(0.75 + 0.25 * distance, 1)
        return disc

    return 1.4 * radius + 4, draw


def _streak(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """A reflection: a faint, long, bent glow."""
    angle, bend, aspect = generator.uniform(0, np.pi), generator.uniform(-0.5, 0.5), generator.uniform(2.5, 4.5)

    def draw(x: Array, y: Array, pixel: float) -> Array:
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along, across = (x * cos + y * sin) / np.float32(radius * aspect), (y * cos - x * sin) / np.float32(radius)
        across = across - np.float32(bend * aspect) * along * along
        glow: Array = np.exp(-(along * along + across * across) * np.float32(1.5))
        return glow

    return 2.4 * radius * aspect, draw


@dataclass(frozen=True)
class _Kind:
    radius: tuple[float, float]
    colour: tuple[float, float, float]
    shape: Shape
    gain: tuple[float, float] = (1.0, 1.0)


_LESIONS = {
    "microaneurysm": _Kind((2, 5), (0.45, 0.08, 0.05), _gaussian),
    "haemorrhage": _Kind((6, 16), (0.40, 0.06, 0.04), _blot(0.22, 0.22, (1.0, 2.4))),
    "hard_exudate": _Kind((1.5, 4), (0.95, 0.85, 0.45), _cluster),
    "cotton_wool": _Kind((10, 25), (0.88, 0.80, 0.62), _blot(0.45, 0.12, (1.0, 1.5))),
}
_DISTRACTORS = {
    "pale_dot": _Kind((2.5, 5), (0.86, 0.58, 0.27), _blot(0.6, 0.05, (1.0, 1.2)), gain=(0.35, 0.6)),
    "reflection": _Kind((4, 8), (0.90, 0.66, 0.42), _streak, gain=(0.12, 0.30)),
    "dust": _Kind((4, 9), (0.36, 0.22, 0.13), _ring, gain=(0.20, 0.40)),
}


def lesions(root: int, n: int, knobs: Knobs) -> tuple[Patch, ...]:
    """The lesions of the image `root`, were it ill. Each has a stream of its own and keeps its number when others go."""
    few, many = knobs.lesions
    count = int(stream(root, "lesion count").integers(few, many + 1))
    placed: list[Patch] = []
    for k in range(count):
        generator = stream(root, "lesion", k)
        name = knobs.types[int(generator.integers(len(knobs.types)))]
        placed.append(_patch(name, _LESIONS[name], generator, n, knobs.diameter, knobs.contrast, placed))
    return tuple(placed)


def distractors(root: int, n: int, knobs: Knobs) -> tuple[Patch, ...]:
    """Pale dots, reflections and dust. They know nothing of label and lesions."""
    count = min(int(stream(root, "distractor count").poisson(knobs.distractors)), 40)
    names = tuple(_DISTRACTORS)
    placed: list[Patch] = []
    for k in range(count):
        generator = stream(root, "distractor", k)
        name = names[int(generator.integers(len(names)))]
        placed.append(_patch(name, _DISTRACTORS[name], generator, n, 1.0, 1.0, []))
    return tuple(placed)


def _patch(
    name: str, kind: _Kind, generator: np.random.Generator, n: int, diameter: float, contrast: float, others: Sequence[Patch]
) -> Patch:  # fmt: skip
    radius = diameter * generator.uniform(*kind.radius)
    gain = contrast * generator.uniform(*kind.gain)
    colour = tuple(
        float(c) for c in np.array(kind.colour) * generator.uniform(0.94, 1.06) + generator.normal(0, 0.01, 3)
    )
    reach, draw = kind.shape(generator, radius)
    x, y = _place(generator, reach, others)
    window = _Window(n, row=int(y * n / FRAME), column=int(x * n / FRAME), reach=reach)
    shape = draw(*window.offsets(), window.scale).astype(np.float32)
    rows, columns = window.slices
    return Patch(name, rows, columns, shape, colour, float(gain), (float(x), float(y)), float(radius))  # type: ignore[arg-type]


def _place(generator: np.random.Generator, reach: float, others: Sequence[Patch]) -> tuple[float, float]:
    """A place inside the field, off the optic disc and apart from the others where that is possible."""
    x = y = FRAME / 2
    for _ in range(30):
        distance, angle = 0.40 * FRAME * np.sqrt(generator.random()), generator.uniform(0, 2 * np.pi)
        x, y = FRAME / 2 + distance * np.cos(angle), FRAME / 2 + distance * np.sin(angle)
        off_disc = np.hypot(x - DISC_CENTRE[0], y - DISC_CENTRE[1]) > DISC_RADIUS + reach
        if off_disc and all(np.hypot(x - o.centre[0], y - o.centre[1]) > reach + 12 + o.radius for o in others):
            break
    return float(x), float(y)
