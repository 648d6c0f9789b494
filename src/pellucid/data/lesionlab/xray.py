"""A chest X-ray from seeds: thickness of body, distractors, lesions and marker, rays, lens, photons and film, in that order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab import drawing, shapes
from pellucid.data.lesionlab.drawing import Maker
from pellucid.data.lesionlab.frame import FRAME, blur_on, grid, lens
from pellucid.data.lesionlab.patches import Kind, Patch, Size, Spot, apart, around, patch, told_apart
from pellucid.data.lesionlab.scene import ALL, SITE_LENS, Scene, Setting, Shown, developed
from pellucid.data.lesionlab.streams import stream
from pellucid.data.lesionlab.texture import cut_texture, step
from pellucid.data.lesionlab.thorax import LUNG_GRAIN, Chest, Lung, chest

VERSION = "xray-1"

# Fixed for the kind, measured once over the easy preset.
MEAN = (0.484,)
STD = (0.27,)

_LENS = lens(0.7, Scene.reach)
_PER_THICKNESS, _PHOTONS = np.float32(1.35), np.float32(4000)
_WINDOW = (0.15, 2.9)
_TAG = 1.6
_BRIGHTER = 0.5  # thickness per unit of log-brightness
_CAMERA = np.array((-0.3,), np.float32)

LESIONS = {
    "consolidation": Kind(
        (15, 70), (0.42,), shapes.blot(0.5, 0.25, (1.0, 1.7), cut_texture), grain=shapes.mottles(0.10, 2.0), adds=True
    ),
    "nodule": Kind((5, 10), (0.36,), shapes.ball, adds=True),
}
DISTRACTORS = {
    "nipple": Kind((7, 10), (0.10,), shapes.blot(0.5, 0.05, (1.0, 1.2), cut_texture), adds=True),
    "hilum": Kind((20, 34), (0.17,), shapes.blot(0.7, 0.3, (1.2, 2.0), cut_texture), adds=True),
    "electrode": Kind((8, 12), (0.75,), shapes.electrode, adds=True),
}
_OUTLINE = shapes.blot(0.3, 0.1, (1.0, 1.4), cut_texture)
CUES = {
    "texture": (
        Kind((16, 30), (0.0,), _OUTLINE, grain=shapes.stripes(0.12), adds=True),
        Kind((16, 30), (0.0,), _OUTLINE, grain=shapes.mottles(0.12), adds=True),
    ),
    "shape": (Kind((10, 20), (0.35,), shapes.cross, adds=True), Kind((10, 20), (0.35,), shapes.disc, adds=True)),
}


@dataclass(frozen=True)
class Xray(Scene):
    """`chest` is the lesion-free body, `noise` a fixed standard normal field of photons."""

    chest: Chest
    base: Float32[Array, "n n"]
    noise: Float32[Array, "1 n n"]

    def tissue(self) -> Bool[Array, "n n"]:
        return self.chest.lungs > 0.5

    def render(self, shown: Shown = ALL) -> Float32[Array, "1 n n"]:
        canvas, noise = self._background(shown)
        for one in self.patches(shown):
            one.compose(canvas)
        if self.contents.brightness:
            canvas += np.float32(_BRIGHTER * self.contents.brightness)
        for one in self.overlays(shown, lambda told: 1.0 + _BRIGHTER * told):
            one.compose(canvas)
        canvas = blur_on(canvas, _LENS)
        if self.elsewhere(shown):
            canvas = blur_on(canvas, SITE_LENS)
        counts = _PHOTONS * np.exp(-_PER_THICKNESS * canvas)
        if self.setting.knobs.noise:
            counts += np.float32(self.setting.knobs.noise) * np.sqrt(counts) * noise
        film = -np.log(np.maximum(counts, 1) / _PHOTONS)
        picture = (film - np.float32(_WINDOW[0])) / np.float32(_WINDOW[1] - _WINDOW[0])
        picture = developed(picture, self.setting, shown, _CAMERA)
        clipped: Array = np.clip(picture, 0, 1, out=picture)
        return clipped

    def _background(self, shown: Shown) -> tuple[Array, Array]:
        """The lesion-free body and the noise, with the tiles drawn anew that are left out."""
        canvas, noise, tiles = self.base.copy(), self.noise, self.redrawn(shown)
        if tiles:
            grain, noise = self.chest.grain.copy(), noise.copy()
            for tile in tiles:
                tile.redrawn(grain[0], 2.6, "body")
                tile.redrawn(grain[1], 1.6, "lung")
                tile.redrawn(noise, None, "noise")
            canvas += self.chest.grained(grain - self.chest.grain)
        return canvas[None], noise


def scene(setting: Setting, patient: int, image: int, ill: bool, without: frozenset[str] = frozenset()) -> Xray:
    """The image `image` of the patient `patient`; `ill` says whether its label is to be other than the first.

    without: no part of a chest moves others, so that all are drawn.
    """
    return _scene(setting, patient, image, ill)


@lru_cache(maxsize=4)
def _scene(setting: Setting, patient: int, image: int, ill: bool) -> Xray:
    n, wide = setting.size, setting.knobs.heart_width
    body = chest(patient, n, wide)
    found = drawing.contents(image, setting, ill, _makers(setting, body, patient), body.lungs > 0.9, (_TAG,), adds=True)
    noise = stream(image, "noise").standard_normal((1, n, n), dtype=np.float32)
    noise.setflags(write=False)
    return Xray(setting, found, body, _lesion_free(patient, n, wide), noise)


@lru_cache(maxsize=8)
def _lesion_free(patient: int, n: int, heart_width: tuple[float, float]) -> Float32[Array, "n n"]:
    base = chest(patient, n, heart_width).base
    base.setflags(write=False)
    return base


def _makers(setting: Setting, of: Chest, patient: int) -> dict[str, Maker[Patch]]:
    """What draws a lesion or distractor of each name into this chest."""
    knobs = setting.knobs
    base = _lesion_free(patient, setting.size, knobs.heart_width)

    def told(make: Maker[Patch]) -> Maker[Patch]:
        def maker(*asked: Any) -> Patch:
            drawn = make(*asked)
            counts = float(_PHOTONS * np.exp(-_PER_THICKNESS * base[drawn.rows, drawn.columns].mean()))
            noise = 1 / counts / float(_PER_THICKNESS) ** 2
            assert knobs.contrast_to_noise is not None
            return told_apart(drawn, knobs.contrast_to_noise, base[None], noise)

        return maker if knobs.contrast_to_noise is not None else make

    place = partial(_in_a_lung, knobs.prior, of)
    makers: dict[str, Maker[Patch]] = {
        name: told(partial(_inside, of, name, kind, partial(place, name))) for name, kind in LESIONS.items()
    }
    makers |= {"effusion": told(partial(_effusion, of)), "pneumothorax": told(partial(_pneumothorax, of))}
    for cue, kinds in CUES.items():
        for name, kind in zip((cue, f"{cue} decoy"), kinds, strict=True):
            makers[name] = told(partial(_inside, of, name, kind, partial(place, name)))
    return makers | {name: partial(patch, name, kind, partial(_PLACES[name], of)) for name, kind in DISTRACTORS.items()}


def _inside(
    of: Chest, name: str, kind: Kind, place: Any, generator: np.random.Generator, size: Size, others: Sequence[Any], number: int
) -> Patch:  # fmt: skip
    """A patch of which only what lies in the lungs is there."""
    drawn = patch(name, kind, place, generator, size, others, number)
    return replace(drawn, shape=_whole(drawn.shape * of.lungs[drawn.rows, drawn.columns]))


def _in_a_lung(
    prior: str, of: Chest, name: str, generator: np.random.Generator, reach: float, others: Sequence[Any], number: int
) -> Spot:
    """Well inside a lung, apart from the others where that is possible."""
    if prior == "fixed":
        return around(of.left.x, of.left.y, number)
    x = y = FRAME / 2
    for _ in range(30):
        lung = of.left if generator.random() < 0.5 else of.right
        x, y = _within(lung, prior, name, generator)
        if apart(x, y, 0.6 * reach, others):
            break
    return x, y


def _within(lung: Lung, prior: str, name: str, generator: np.random.Generator) -> Spot:
    """A place in the lung: anywhere, or by custom (consolidations low, all else high)."""
    x, y = lung.x, lung.y
    for _ in range(30):
        u, v = generator.uniform(-0.9, 0.9, 2)
        if prior == "anatomical":
            v = float(np.clip(generator.normal(0.35 if name == "consolidation" else -0.35, 0.25), -0.9, 0.9))
        x, y = lung.x + u * lung.wide, lung.y + v * lung.high
        at = np.array(x, np.float32), np.array(y, np.float32)
        if lung.depth(*at) < 0.88 and y < lung.base(at[0]) - 10:
            break
    return float(x), float(y)


def _at_the_hilum(of: Chest, generator: np.random.Generator, *_: Any) -> Spot:
    side = 1 if generator.random() < 0.5 else -1
    right, down = generator.normal(0, (6, 10))
    return float((0.5 + 0.095 * side) * FRAME + right), float(0.45 * FRAME + down)


def _at_a_nipple(of: Chest, generator: np.random.Generator, *_: Any) -> Spot:
    lung = of.left if generator.random() < 0.5 else of.right
    right, down = generator.normal(0, 14, 2)
    return float(lung.x + lung.side * 0.03 * FRAME + right), float(0.64 * FRAME + down)


def _on_the_chest(of: Chest, generator: np.random.Generator, *_: Any) -> Spot:
    x, y = generator.uniform((0.14, 0.2), (0.86, 0.85)) * FRAME
    return float(x), float(y)


_PLACES: dict[str, Callable[..., Spot]] = {"hilum": _at_the_hilum, "nipple": _at_a_nipple, "electrode": _on_the_chest}


def _lung_for(of: Chest, name: str, generator: np.random.Generator, others: Sequence[Any]) -> Lung:
    """A lung that has no lesion of this name yet, where there is one."""
    lung = of.left if generator.random() < 0.5 else of.right
    taken = {of.left.side if other.centre[0] < FRAME / 2 else of.right.side for other in others if other.kind == name}
    return (of.right if lung is of.left else of.left) if taken == {lung.side} else lung


def _effusion(of: Chest, generator: np.random.Generator, size: Size, others: Sequence[Any], number: int) -> Patch:
    """Fluid at the base of a lung: level towards the middle, rising at the wall."""
    lung, height = _lung_for(of, "effusion", generator, others), 2 * size.radius(generator.uniform(22, 55))
    n, (x, y) = size.n, grid(size.n)
    rows, columns = _around(lung, n, low=lung.dome - height - 12, high=lung.dome + 0.12 * FRAME)
    x, y = x[:, columns], y[rows]
    out = np.clip(0.5 + 0.5 * lung.side * (x - np.float32(lung.x)) / np.float32(lung.wide), 0, 1)
    level = np.float32(lung.dome + 0.055 * FRAME) - np.float32(height) * (0.4 + 0.6 * np.square(out))
    surface = np.minimum(level, lung.base(x) - np.float32(0.6 * height) * np.square(out))
    fluid = step((y - surface) / np.float32(max(6.0, FRAME / n))) * (np.sign(x - FRAME / 2) == lung.side)
    shape = _whole(fluid * of.lungs[rows, columns])
    centre = lung.x + 0.4 * lung.side * lung.wide, lung.dome - 0.3 * height
    amount = np.full((1, 1, 1), 0.72 * generator.uniform(0.9, 1.1), np.float32)
    return Patch("effusion", rows, columns, shape, amount, size.contrast, centre, height / 2, adds=True)


def _pneumothorax(of: Chest, generator: np.random.Generator, size: Size, others: Sequence[Any], number: int) -> Patch:
    """Air between lung and wall, widest at the apex: darker, without the lung's texture, behind a thin line."""
    lung, width = _lung_for(of, "pneumothorax", generator, others), 2 * size.radius(generator.uniform(12, 32))
    n, pixel, (x, y) = size.n, FRAME / size.n, grid(size.n)
    rows, columns = _around(lung, n, low=lung.y - lung.high - 8, high=lung.y + 0.5 * lung.high)
    x, y = x[:, columns], y[rows]
    u = lung.side * (x - np.float32(lung.x)) / np.float32(lung.wide)
    v = (y - np.float32(lung.y)) / np.float32(lung.high)
    lean = np.clip(0.55 * u - 0.75 * v, 0, 1)  # towards the apex and outwards
    wall = np.float32(1) - np.float32(width / lung.wide) * lean
    past = (lung.depth(x, y) - wall) * np.float32(lung.wide)
    upper = step((lean - np.float32(0.12)) / np.float32(0.1))
    air = step(past / np.float32(max(2.5, pixel))) * upper * of.lungs[rows, columns]
    line = np.exp(-0.5 * np.square(past / np.float32(max(2.5, 0.6 * pixel)))) * upper
    lost = -0.15 - LUNG_GRAIN * of.grain[1, rows, columns]
    line = np.where(line > 0.01, line, 0) * of.lungs[rows, columns]
    shape = _whole(np.maximum(air, line))
    filling = np.divide(air * lost + np.float32(0.14) * line, shape, out=np.zeros_like(shape), where=shape > 0)
    centre = lung.x + 0.45 * lung.side * lung.wide, lung.y - 0.6 * lung.high
    return Patch(
        "pneumothorax", rows, columns, shape, filling[None].astype(np.float32), size.contrast, centre, width / 2, adds=True
    )  # fmt: skip


def _whole(shape: Float32[Array, "height width"]) -> Float32[Array, "height width"]:
    """The shape, 1 where it is largest, so that a thin one has a core too."""
    whole: Array = (shape / max(float(shape.max()), 1e-6)).astype(np.float32)
    return whole


def _around(lung: Lung, n: int, low: float, high: float) -> tuple[slice, slice]:
    """Rows from `low` to `high` and the columns of a lung."""
    across = lung.x - 1.05 * lung.wide, lung.x + 1.05 * lung.wide
    rows, columns = (
        slice(max(0, int(a * n / FRAME)), min(n, int(np.ceil(b * n / FRAME)) + 1)) for a, b in ((low, high), across)
    )
    return rows, columns
