"""The lesion-free chest of one patient as optical thickness: body, lungs, heart, ribs and clavicles add up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab.frame import FRAME, grid
from pellucid.data.lesionlab.streams import stream
from pellucid.data.lesionlab.texture import step, texture

AIR, BODY, LUNG, HEART, MEDIASTINUM, RIB, CLAVICLE = 0.15, 1.25, -0.85, 0.70, 0.55, 0.14, 0.22
BODY_GRAIN, LUNG_GRAIN = 0.05, 0.045
_RIBS, _SPACING = 9, 0.075 * FRAME
_EXPONENT = 2.6  # of the lungs' superellipse


@dataclass(frozen=True)
class Lung:
    """One lung: a superellipse cut off by the diaphragm. side: -1 on the picture's left, 1 on its right."""

    side: int
    x: float
    y: float
    wide: float
    high: float
    dome: float  # y of the diaphragm's top

    def depth(self, x: Array, y: Array) -> Array:
        """The superellipse's own radius: 0 in the middle, 1 at the wall."""
        power = np.abs((x - self.x) / self.wide) ** _EXPONENT + np.abs((y - self.y) / self.high) ** _EXPONENT
        depth: Array = power ** (1 / _EXPONENT)
        return depth

    def base(self, x: Array) -> Array:
        """y of the diaphragm: highest in the middle, lower towards the walls."""
        base: Array = self.dome + 0.055 * FRAME * np.square((x - self.x) / self.wide)
        return base

    def share(self, x: Array, y: Array, pixel: float) -> Array:
        """How much of each pixel is lung."""
        wall = step((1 - self.depth(x, y)) * np.float32(self.wide / max(4.0, pixel)))
        share: Array = wall * step((self.base(x) - y) / np.float32(max(4.0, pixel)))
        return share


@dataclass(frozen=True)
class Chest:
    """thickness: without the lungs' own texture. lungs: the share of lung in each pixel, before the heart. Do not write to them."""

    thickness: Float32[Array, "n n"]
    lungs: Float32[Array, "n n"]
    grain: Float32[Array, "2 n n"]  # of the body, of the lungs, of unit variance
    left: Lung
    right: Lung

    @property
    def base(self) -> Float32[Array, "n n"]:
        """The whole thickness."""
        base: Array = self.thickness + self.grained(self.grain)
        return base

    def grained(self, grain: Float32[Array, "2 n n"]) -> Float32[Array, "n n"]:
        """What texture adds, whichever it is."""
        added: Array = np.float32(BODY_GRAIN) * grain[0] + np.float32(LUNG_GRAIN) * self.lungs * grain[1]
        return added


@lru_cache(maxsize=8)
def chest(root: int, n: int, heart_width: tuple[float, float]) -> Chest:
    """The chest of the patient `root`, `n` pixels wide. heart_width: range of the heart's share of the chest's width."""
    generator = stream(root, "chest")
    x, y = grid(n)
    pixel = FRAME / n
    lungs = [_lung(generator, side) for side in (-1, 1)]
    shares = [lung.share(x, y, pixel) for lung in lungs]
    lung = np.maximum(*shares)
    body = _body(x, y)
    middle = _mediastinum(x, y)
    wide = float(stream(root, "heart").uniform(*heart_width)) * 0.36 * FRAME
    heart = _heart(x, y, wide, float(generator.uniform(-8, 8)))
    thickness = AIR + BODY * body + LUNG * lung * (1 - 0.3 * heart)
    # The heart lies in front of the spine, which would be pure white if both counted in full.
    thickness = thickness + MEDIASTINUM * middle + HEART * heart * (1 - 0.75 * middle)
    thickness = thickness + body * (RIB * _ribs(generator, x, y) + CLAVICLE * _clavicles(generator, x, y))
    grain = np.stack(
        [texture(stream(root, f"{name} texture"), (n, n), beta) for name, beta in (("body", 2.6), ("lung", 1.6))]
    )
    arrays = thickness.astype(np.float32), lung.astype(np.float32), grain
    for array in arrays:
        array.setflags(write=False)
    return Chest(*arrays, *lungs)


def _lung(generator: np.random.Generator, side: int) -> Lung:
    wide, high = (0.155 * FRAME, 0.33 * FRAME) * generator.uniform(0.95, 1.05, 2)
    x, y = FRAME / 2 + side * 0.205 * FRAME, 0.47 * FRAME + generator.normal(0, 4)
    # The liver lifts the diaphragm on the patient's right, which is the picture's left.
    dome = (0.735 if side < 0 else 0.765) * FRAME + generator.normal(0, 6)
    return Lung(side, float(x), float(y), float(wide), float(high), float(dome))


def _body(x: Array, y: Array) -> Array:
    """A neck that widens into shoulders and a trunk."""
    shoulders = step((y - np.float32(0.11 * FRAME)) / np.float32(0.13 * FRAME))
    wide = np.float32(0.13 * FRAME) + np.float32(0.34 * FRAME) * shoulders
    body: Array = step((wide - np.abs(x - FRAME / 2)) / np.float32(0.02 * FRAME))
    return body


def _mediastinum(x: Array, y: Array) -> Array:
    """Spine and great vessels; the windpipe is a darker band in its upper part."""
    away = np.abs(x - FRAME / 2)
    band = step((np.float32(0.055 * FRAME) - away) / np.float32(0.025 * FRAME))
    pipe = step((np.float32(0.018 * FRAME) - away) / np.float32(0.012 * FRAME)) * step(
        (np.float32(0.36 * FRAME) - y) / np.float32(20)
    )
    middle: Array = band * (1 - 0.55 * pipe)
    return middle


def _heart(x: Array, y: Array, wide: float, down: float) -> Array:
    """An egg that points down to the patient's left. wide: half its width."""
    cx, cy = np.float32(FRAME / 2 + 0.3 * wide), np.float32(0.625 * FRAME + down)
    cos, sin = np.float32(np.cos(0.65)), np.float32(np.sin(0.65))
    long, short = (
        ((x - cx) * cos + (y - cy) * sin) / np.float32(1.1 * wide),
        ((y - cy) * cos - (x - cx) * sin) / np.float32(0.84 * wide),
    )
    heart: Array = step((1 - np.hypot(long, short * (1 + np.float32(0.18) * long))) / np.float32(0.17))
    return heart


def _ribs(generator: np.random.Generator, x: Array, y: Array) -> Array:
    """Nine arcs on each side, falling outwards."""
    ribs = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    n = len(y)
    for side in (-1, 1):
        half = slice(0, n // 2) if side < 0 else slice(n // 2, n)
        out = np.clip(side * (x[:, half] - FRAME / 2) / np.float32(0.36 * FRAME), 0, 1.2)
        ends = step((out - np.float32(0.08)) / np.float32(0.06)) * step((np.float32(1.04) - out) / np.float32(0.05))
        for k in range(_RIBS):
            top = 0.15 * FRAME + k * _SPACING + generator.normal(0, 3)
            drop = (24 + 5.5 * k) * generator.uniform(0.9, 1.1)
            middle = (
                top
                + np.float32(drop) * np.square(out)
                - np.float32(14) * np.sin(np.float32(np.pi) * np.minimum(out, 1))
            )
            # Beyond 4 deviations there is no rib.
            rows = slice(
                *(int(np.clip(v * n / FRAME, 0, n)) for v in (middle.min() - 24, middle.max() + 24 + FRAME / n))
            )
            ribs[rows, half] += ends * np.exp(-0.5 * np.square((y[rows] - middle) / np.float32(6)))
    return ribs


def _clavicles(generator: np.random.Generator, x: Array, y: Array) -> Array:
    bones = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for side in (-1, 1):
        out = side * (x - FRAME / 2) / np.float32(0.36 * FRAME)
        ends = step((out - np.float32(0.12)) / np.float32(0.06)) * step((np.float32(1.0) - out) / np.float32(0.08))
        bend = np.float32(6) * np.sin(np.float32(2 * np.pi) * out)
        middle = np.float32(0.2 * FRAME + generator.normal(0, 4)) - np.float32(22) * out + bend
        bones += ends * np.exp(-0.5 * np.square((y - middle) / np.float32(7)))
    return bones
