"""Shapes: (generator, radius) -> (reach, draw), where draw(x, y, pixel) gives opacities from 0 to 1.

x and y are distances from the centre in frame pixels, `pixel` is the width of one. Chance is used up before drawing,
except for textures, which are drawn over the window.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray as Array

from pellucid.data.lesionlab.texture import cut_texture, step, texture

Draw = Callable[[Array, Array, float], Array]
Shape = Callable[[np.random.Generator, float], tuple[float, Draw]]
Texture = Callable[[np.random.Generator, tuple[int, int], float], Array]
Grain = Callable[[np.random.Generator, Array, Array, float], Array]


def dot(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """A blurred dot whose opacity is one half at `radius`."""

    def draw(x: Array, y: Array, pixel: float) -> Array:
        deviation = np.float32(max(radius / 1.18, 0.5 * pixel))
        drawn: Array = np.exp(-0.5 * (x * x + y * y) / (deviation * deviation))
        return drawn

    return 3.2 * radius + 4, draw


def blot(softness: float, ragged: float, stretch: tuple[float, float], warped: Texture = texture) -> Shape:
    """An ellipse with an edge `softness * radius` wide, warped by 1/f^3 noise."""

    def shape(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
        aspect, angle = generator.uniform(*stretch), generator.uniform(0, np.pi)
        long, short = radius * np.sqrt(aspect), radius / np.sqrt(aspect)

        def draw(x: Array, y: Array, pixel: float) -> Array:
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            distance = np.hypot((x * cos + y * sin) / np.float32(long), (y * cos - x * sin) / np.float32(short))
            warp = np.float32(ragged) * np.clip(warped(generator, distance.shape, 3.0), -1.5, 1.5)
            edge = np.float32(max(softness, 0.6 * pixel / short))
            # The core stays whole: the warp grows from the centre outwards.
            return step((1 - distance * (1 + warp)) / edge)

        return float(long * (1 + softness) / max(1 - 1.5 * ragged, 0.4)) + 2, draw

    return shape


def ellipse(softness: float, stretch: tuple[float, float]) -> Shape:
    """A lying ellipse, `radius` being half its length, with an edge `softness` times its half height wide."""

    def shape(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
        height = radius / generator.uniform(*stretch)

        def draw(x: Array, y: Array, pixel: float) -> Array:
            edge = np.float32(max(softness, 0.6 * pixel / height))
            return step((1 - np.hypot(x / np.float32(radius), y / np.float32(height))) / edge)

        return (1 + softness) * radius + 4, draw

    return shape


def cluster(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """4 to 11 sharp dots around a first one in the centre."""
    count = int(generator.integers(4, 12))
    size = radius * generator.uniform(0.55, 1.45, count)
    x0, y0 = np.clip(generator.normal(0, 2.1, (2, count)), -4, 4) * radius
    x0[0] = y0[0] = 0.0

    def draw(x: Array, y: Array, pixel: float) -> Array:
        drawn = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        for cx, cy, r in zip(x0, y0, size, strict=True):
            distance = np.hypot(x - np.float32(cx), y - np.float32(cy))
            one = step((np.float32(max(r, 0.5 * pixel)) - distance) / np.float32(max(0.35 * r, 0.5 * pixel)))
            np.maximum(drawn, one, out=drawn)
        return drawn

    return 6.0 * radius + 4, draw


def flame(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """A spindle along the x axis whose ends fray, as blood between nerve fibres does."""
    stretch = generator.uniform(2.6, 3.8)
    phases, sizes = generator.uniform(0, 2 * np.pi, (2, 3)), generator.uniform(0.08, 0.2, (2, 3))
    long, short = radius * np.sqrt(stretch), radius / np.sqrt(stretch)

    def draw(x: Array, y: Array, pixel: float) -> Array:
        along, across = x / np.float32(long), y / np.float32(short)
        fray = [1 + sum(s * np.sin((4 + 3 * k) * across + p) for k, (s, p) in enumerate(zip(*end, strict=True)))
                for end in zip(sizes, phases, strict=True)]  # fmt: skip
        length = np.where(along > 0, fray[0], fray[1])
        edge = np.float32(max(0.3, 0.6 * pixel / short))
        return step((1 - np.hypot(along / length, across)) / edge)

    return float(1.7 * long * 1.3) + 2, draw


def ring(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """Dust out of focus: a disc, darker at its rim."""

    def draw(x: Array, y: Array, pixel: float) -> Array:
        distance = np.hypot(x, y) / np.float32(radius)
        edge = np.float32(max(0.25, 0.6 * pixel / radius))
        disc: Array = step((1 - distance) / edge) * np.minimum(0.75 + 0.25 * distance, 1)
        return disc

    return 1.4 * radius + 4, draw


def streak(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """A reflection: a faint, long, bent glow."""
    angle, bend, aspect = generator.uniform(0, np.pi), generator.uniform(-0.5, 0.5), generator.uniform(2.5, 4.5)

    def draw(x: Array, y: Array, pixel: float) -> Array:
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along, across = (x * cos + y * sin) / np.float32(radius * aspect), (y * cos - x * sin) / np.float32(radius)
        across = across - np.float32(bend * aspect) * along * along
        glow: Array = np.exp(-(along * along + across * across) * np.float32(1.5))
        return glow

    return 2.4 * radius * aspect, draw


def crossing(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """Two thin bent lines that cross and fade towards their ends."""
    angles = generator.uniform(0, np.pi) + np.array([0.0, generator.uniform(0.7, 1.6)])
    bends, widths = generator.uniform(-0.25, 0.25, 2), radius * generator.uniform(0.09, 0.14, 2)

    def draw(x: Array, y: Array, pixel: float) -> Array:
        drawn = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        for angle, bend, width in zip(angles, bends, widths, strict=True):
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            along, across = (x * cos + y * sin) / np.float32(radius), (y * cos - x * sin) / np.float32(radius)
            across = (across - np.float32(bend) * along * along) * np.float32(radius / max(width, 0.5 * pixel))
            line = np.exp(-0.5 * across * across) * step((1 - np.abs(along)) / np.float32(0.3))
            np.maximum(drawn, line, out=drawn)
        return drawn

    return 1.35 * radius + 4, draw


def electrode(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """A button with a denser rim and a piece of its lead."""
    angle, bend = generator.uniform(0, 2 * np.pi), generator.uniform(-0.15, 0.15)

    def draw(x: Array, y: Array, pixel: float) -> Array:
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along, across = (x * cos + y * sin) / np.float32(radius), (y * cos - x * sin) / np.float32(radius)
        distance, edge = np.hypot(along, across), np.float32(max(0.2, 0.6 * pixel / radius))
        button = step((1 - distance) / edge) * np.clip(0.45 + 0.55 * distance, 0, 1)
        lead = np.exp(
            -np.square((across - np.float32(bend) * along * along) * np.float32(radius / max(1.8, 0.5 * pixel)))
        )
        lead *= step((along - 1) / edge) * step((np.float32(4.2) - along) / np.float32(0.5))
        drawn: Array = np.maximum(button, np.float32(0.6) * lead)
        return drawn

    return 5 * radius, draw


def ball(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """What a ray meets of a ball, sqrt(1 - r^2)."""

    def draw(x: Array, y: Array, pixel: float) -> Array:
        wide = np.float32(max(radius, 0.5 * pixel))
        drawn: Array = np.sqrt(np.clip(1 - (x * x + y * y) / (wide * wide), 0, 1))
        return drawn

    return radius + 4, draw


def cross(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """Two bars at right angles."""
    angle = generator.uniform(0, np.pi / 2)

    def draw(x: Array, y: Array, pixel: float) -> Array:
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        u, v = np.abs(x * cos + y * sin), np.abs(y * cos - x * sin)
        edge = np.float32(max(0.1 * radius, 0.6 * pixel))
        outside = np.maximum(
            np.maximum(u, v) - np.float32(_LONG * radius), np.minimum(u, v) - np.float32(_THIN * radius)
        )
        return step(-outside / edge)

    return 1.8 * radius + 4, draw


def disc(generator: np.random.Generator, radius: float) -> tuple[float, Draw]:
    """A round shape of the area of `cross`."""

    def draw(x: Array, y: Array, pixel: float) -> Array:
        edge = np.float32(max(0.1 * radius, 0.6 * pixel))
        return step((np.float32(_AS_LARGE * radius) - np.hypot(x, y)) / edge)

    return 1.8 * radius + 4, draw


_LONG, _THIN = 1.2, 0.4  # half the length and width of a bar
_AS_LARGE = float(np.sqrt((8 * _LONG * _THIN - 4 * _THIN**2) / np.pi))  # two bars less the square that they share


def stripes(strength: float) -> Grain:
    """Stripes of one direction, mean 0, deviation `strength`."""

    def grain(generator: np.random.Generator, x: Array, y: Array, pixel: float) -> Array:
        angle, phase = generator.uniform(0, np.pi), generator.uniform(0, 2 * np.pi)
        period = max(10.0, 3 * pixel)
        along = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * np.float32(2 * np.pi / period)
        drawn: Array = np.float32(strength * np.sqrt(2)) * np.sin(along + np.float32(phase))
        return drawn.astype(np.float32)

    return grain


def mottles(strength: float, beta: float = 1.0) -> Grain:
    """Noise without a direction, 1/f^beta, mean 0, deviation `strength`."""

    def grain(generator: np.random.Generator, x: Array, y: Array, pixel: float) -> Array:
        drawn: Array = np.float32(strength) * cut_texture(generator, np.broadcast_shapes(x.shape, y.shape), beta)
        return drawn

    return grain
