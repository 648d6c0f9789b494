"""The lesion-free fundus of one patient: base colour, texture, macula, optic disc and vessels.

The picture is that of an eye whose optic disc is on the right; the fellow eye is its mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab.frame import FRAME, grid
from pellucid.data.lesionlab.streams import stream
from pellucid.data.lesionlab.texture import step, texture

FIELD_RADIUS = 0.47 * FRAME
DISC_CENTRE = (FRAME * 0.74, FRAME * 0.5)  # x, y
DISC_RADIUS = 0.062 * FRAME
MACULA_CENTRE = (FRAME * 0.44, FRAME * 0.5)

_BASE = np.array((0.72, 0.33, 0.14), np.float32)
GRAIN = np.array((0.03, 0.025, 0.012), np.float32)
_DISC = np.array((0.93, 0.72, 0.42), np.float32)
_CUP = np.array((0.98, 0.88, 0.68), np.float32)
_VESSEL = np.array((0.35, 0.60, 0.55), np.float32)

_STRIDE = 4.0  # of the vessels' random walk
_BRANCHING = 2.2 / FRAME
_GENERATIONS = 5
# heading (degrees, up is positive), curvature (rad/px), radius, darkness: two arcades and two nasal trunks, each a vein
# with its artery
_TRUNKS = np.array(
    [
        (100, 0.0075, 2.8, 1.0), (-100, -0.0075, 2.8, 1.0), (48, -0.001, 2.2, 1.0), (-48, 0.001, 2.2, 1.0),
        (82, 0.0075, 1.9, 0.7), (-82, -0.0075, 1.9, 0.7), (26, -0.001, 1.5, 0.7), (-26, 0.001, 1.5, 0.7),
    ]
)  # fmt: skip


@lru_cache(maxsize=4)
def field(n: int) -> Float32[Array, "n n"]:
    """The round field of the camera: 1 inside, exactly 0 outside, a soft edge between."""
    x, y = grid(n)
    edge = max(3.0, FRAME / n)
    inside: Array = step((FIELD_RADIUS - np.hypot(x - FRAME / 2, y - FRAME / 2)) / edge).astype(np.float32)
    inside.setflags(write=False)
    return inside


@lru_cache(maxsize=8)
def anatomy(root: int, n: int) -> Float32[Array, "3 n n"]:
    """The fundus of the patient `root` before illumination, `n` pixels wide. The array is shared: do not write to it."""
    tint = 1 + 0.05 * stream(root, "tint").standard_normal(3).astype(np.float32)
    colour: Array = (_BASE * tint)[:, None, None] + GRAIN[:, None, None] * grain(root, n)
    x, y = grid(n)
    colour *= 1 - 0.35 * _bump(x - MACULA_CENTRE[0], 0.06 * FRAME) * _bump(y - MACULA_CENTRE[1], 0.06 * FRAME)
    _optic_disc(colour, stream(root, "disc"), n)
    colour *= 1 - vessels(root, n)[None] * _VESSEL[:, None, None]
    colour.setflags(write=False)
    return colour


@lru_cache(maxsize=4)
def grain(root: int, n: int) -> Float32[Array, "n n"]:
    """The texture of the retina, of unit variance; `GRAIN` says how much of it each colour takes."""
    drawn = texture(stream(root, "texture"), (n, n), 2.2)
    drawn.setflags(write=False)
    return drawn


def _bump(distance: Array, deviation: float) -> Array:
    bump: Array = np.exp(-0.5 * np.square(distance / np.float32(deviation)))
    return bump


def _optic_disc(colour: Array, generator: np.random.Generator, n: int) -> None:
    stretch, cup = generator.uniform(0.94, 1.06), generator.uniform(0.024, 0.038) * FRAME
    x, y = grid(n)
    reach = int(np.ceil(1.6 * DISC_RADIUS * n / FRAME))
    column, row = int(DISC_CENTRE[0] * n / FRAME), int(DISC_CENTRE[1] * n / FRAME)
    rows, columns = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
    distance = np.hypot((x[:, columns] - DISC_CENTRE[0]) * np.float32(stretch), y[rows] - DISC_CENTRE[1])
    window = colour[:, rows, columns]
    for radius, shade in ((DISC_RADIUS, _DISC), (cup, _CUP)):
        inside = step((radius - distance) / np.float32(0.012 * FRAME))
        window *= 1 - inside
        window += inside * shade[:, None, None]


@dataclass(frozen=True)
class _Paths:
    """Points along the vessels' centre lines."""

    x: Float[Array, points]
    y: Float[Array, points]
    radius: Float[Array, points]
    darkness: Float[Array, points]


def vessels(root: int, n: int) -> Float32[Array, "n n"]:
    """How much of the vessels' colour each pixel takes, 0 to 1: a Gaussian profile around each centre line."""
    paths, scale = _walk(stream(root, "vessels"), fine=max(1, n // 128)), n / FRAME
    deviation = np.maximum(0.85 * paths.radius * scale, 0.5)
    # A vessel thinner than a pixel darkens it in proportion to its width.
    darkness = paths.darkness * np.minimum(1, 0.85 * paths.radius * scale / deviation)
    reach = int(np.ceil(2.5 * deviation.max()))
    near = (paths.x >= 0) & (paths.x < FRAME) & (paths.y >= 0) & (paths.y < FRAME)
    deviation, darkness = deviation[near], darkness[near]
    x, y = paths.x[near] * scale - 0.5, paths.y[near] * scale - 0.5
    column, row = np.rint(x).astype(np.intp).clip(0, n - 1), np.rint(y).astype(np.intp).clip(0, n - 1)
    offset = np.arange(-reach, reach + 1)
    across, down = (
        np.exp(-0.5 * ((centre[:, None] + offset - exact[:, None]) / deviation[:, None]) ** 2).astype(np.float32)
        for centre, exact in ((column, x), (row, y))
    )
    values = darkness.astype(np.float32)[:, None, None] * down[:, :, None] * across[:, None, :]
    side = n + 2 * reach
    index = (row[:, None, None] + offset[:, None] + reach) * side + column[:, None, None] + offset + reach
    drawn = np.zeros(side * side, np.float32)
    np.maximum.at(drawn, index.ravel(), values.ravel())
    return drawn.reshape(side, side)[reach : reach + n, reach : reach + n]


@dataclass(frozen=True)
class _Twigs:
    """The vessels of one generation: where they start, their heading, and what they are like. One value per vessel."""

    x: Array
    y: Array
    heading: Array
    curvature: Array
    radius: Array
    darkness: Array
    upper: Array  # 1 for the vessels above the horizontal through the disc, -1 below

    def __len__(self) -> int:
        return len(self.x)


def _trunks(generator: np.random.Generator) -> _Twigs:
    count = len(_TRUNKS)
    heading = np.deg2rad(-_TRUNKS[:, 0]) + generator.normal(0, 0.08, count)
    curvature = -_TRUNKS[:, 1] * generator.uniform(0.8, 1.1, count)
    x, y = np.full(count, DISC_CENTRE[0]), np.full(count, DISC_CENTRE[1])
    return _Twigs(x, y, heading, curvature, _TRUNKS[:, 2], _TRUNKS[:, 3], np.sign(_TRUNKS[:, 0]))


def _walk(generator: np.random.Generator, fine: int) -> _Paths:
    """Random walks from the disc that branch by Murray's law r^3 = r1^3 + r2^3; `fine` points per stride."""
    twigs, pieces = _trunks(generator), []
    share = (np.arange(fine) + 1) / fine
    for _ in range(_GENERATIONS):
        steps = np.clip(generator.exponential(0.6 / _BRANCHING, len(twigs)) / _STRIDE + 6, 6, 60).astype(int)
        t = np.arange(1, steps.max() + 1)
        turn = generator.normal(0, 0.03 * np.sqrt(_STRIDE), (len(twigs), len(t))).cumsum(1)
        course = twigs.heading[:, None] + twigs.curvature[:, None] * _STRIDE * t + turn
        dx, dy = _STRIDE * np.cos(course), _STRIDE * np.sin(course)
        x, y = twigs.x[:, None] + dx.cumsum(1), twigs.y[:, None] + dy.cumsum(1)
        drawn = np.logical_and.accumulate(_allowed(x, y, twigs.upper[:, None]) & (t <= steps[:, None]), axis=1)
        rows, last = np.arange(len(twigs)), steps - 1
        alive = drawn[rows, last] & (twigs.radius > 0.9)
        length = drawn.sum(1)
        # A vessel that ends in the field thins out over its last strides.
        taper = np.where(alive[:, None], 1.0, np.minimum((length[:, None] - t + 1) / 12, 1.0))
        radius = twigs.radius[:, None] * taper
        pieces.append(
            (
                (x[drawn][:, None] + (share - 1) * dx[drawn][:, None]).ravel(),
                (y[drawn][:, None] + (share - 1) * dy[drawn][:, None]).ravel(),
                np.repeat(radius[drawn], fine),
                np.repeat(twigs.darkness, length * fine),
            )
        )
        if not alive.any():
            break
        twigs = _branch(generator, twigs, alive, x[rows, last], y[rows, last], course[rows, last])
    return _Paths(*(np.concatenate(values) for values in zip(*pieces, strict=True)))


def _allowed(x: Array, y: Array, upper: Array) -> Array:
    """Within the field, on the vessel's own side of the horizontal, and off the fovea, which has no vessels."""
    inside = np.square(x - FRAME / 2) + np.square(y - FRAME / 2) < (FIELD_RADIUS + 6) ** 2
    fovea = np.square(x - MACULA_CENTRE[0]) + np.square(y - MACULA_CENTRE[1]) < (0.075 * FRAME) ** 2
    allowed: Array = inside & ~fovea & (upper * (DISC_CENTRE[1] - y) > -4)
    return allowed


def _branch(generator: np.random.Generator, parents: _Twigs, alive: Array, x: Array, y: Array, course: Array) -> _Twigs:
    """The two children of every living vessel: the stouter one keeps half of the curvature, the other goes straight."""
    count = len(parents)
    split, spread = generator.uniform(0.35, 0.5, count), generator.uniform(0.4, 0.9, count)
    side = np.where(generator.random(count) < 0.5, -1.0, 1.0)

    def both(first: Array, second: Array) -> Array:
        return np.concatenate([first[alive], second[alive]])

    radius, darkness, upper = parents.radius, parents.darkness, parents.upper
    return _Twigs(
        both(x, x),
        both(y, y),
        both(course + side * spread * split, course - side * spread * (1 - split)),
        both(0.5 * parents.curvature, 0 * parents.curvature),
        both(radius * np.cbrt(1 - split), radius * np.cbrt(split)),
        both(darkness, darkness),
        both(upper, upper),
    )
