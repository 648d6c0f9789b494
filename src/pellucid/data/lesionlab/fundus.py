"""A fundus photograph from seeds: anatomy, distractors, lesions, light, marker, lens and noise, in that order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab import drawing, shapes
from pellucid.data.lesionlab.drawing import Maker
from pellucid.data.lesionlab.frame import FRAME, blur, grid, lens
from pellucid.data.lesionlab.knobs import Knobs
from pellucid.data.lesionlab.marker import INK
from pellucid.data.lesionlab.patches import Kind, Patch, Spot, apart, around, patch, told_apart
from pellucid.data.lesionlab.retina import (
    DISC_CENTRE,
    DISC_RADIUS,
    FIELD_RADIUS,
    GRAIN,
    MACULA_CENTRE,
    anatomy,
    field,
    grain,
)
from pellucid.data.lesionlab.scene import ALL, SITE_LENS, Scene, Setting, Shown, developed
from pellucid.data.lesionlab.streams import stream

VERSION = "fundus-1"  # changes whenever equal seeds give other pictures

# Fixed for the kind, measured once over the easy preset: mean and deviation of all pixels.
MEAN = (0.40, 0.18, 0.08)
STD = (0.27, 0.13, 0.07)

_LENS = lens(0.7, Scene.reach)
_SHOT, _READ = np.float32(4e-4), np.float32(2e-5)
_CAMERA = np.array((-0.2, 0.15, 0.6), np.float32)

LESIONS = {
    "microaneurysm": Kind((2, 5), (0.45, 0.08, 0.05), shapes.dot),
    "haemorrhage": Kind((6, 16), (0.40, 0.06, 0.04), shapes.blot(0.22, 0.22, (1.0, 2.4))),
    "hard_exudate": Kind((1.5, 4), (0.95, 0.85, 0.45), shapes.cluster, extent=4.0),
    "cotton_wool": Kind((10, 25), (0.88, 0.80, 0.62), shapes.blot(0.45, 0.12, (1.0, 1.5))),
    "flame_haemorrhage": Kind((6, 14), (0.42, 0.06, 0.04), shapes.flame, extent=1.8, towards=DISC_CENTRE),
}
DISTRACTORS = {
    "pale_dot": Kind((2.5, 5), (0.86, 0.58, 0.27), shapes.blot(0.6, 0.05, (1.0, 1.2)), gain=(0.35, 0.6)),
    "reflection": Kind((4, 8), (0.90, 0.66, 0.42), shapes.streak, gain=(0.12, 0.30)),
    "dust": Kind((4, 9), (0.36, 0.22, 0.13), shapes.ring, gain=(0.20, 0.40)),
    "vessel_crossing": Kind((14, 24), (0.45, 0.13, 0.06), shapes.crossing, gain=(0.5, 0.9)),
}
_RED, _OUTLINE = (0.40, 0.06, 0.04), shapes.blot(0.3, 0.1, (1.0, 1.4))
CUES = {
    "texture": (
        Kind((14, 24), (0.0,) * 3, _OUTLINE, grain=shapes.stripes(0.09), adds=True),
        Kind((14, 24), (0.0,) * 3, _OUTLINE, grain=shapes.mottles(0.09), adds=True),
    ),
    "shape": (Kind((9, 16), _RED, shapes.cross), Kind((9, 16), _RED, shapes.disc)),
}


@dataclass(frozen=True)
class Fundus(Scene):
    """`base` is the lesion-free retina, `light` the illumination within the field, `noise` a fixed standard normal field."""

    patient: int
    base: Float32[Array, "3 n n"]
    light: Float32[Array, "n n"]
    noise: Float32[Array, "3 n n"]

    def tissue(self) -> Bool[Array, "n n"]:
        return field(self.n) > 0.5

    def render(self, shown: Shown = ALL) -> Float32[Array, "3 n n"]:
        canvas, noise = self._background(shown)
        for one in self.patches(shown):
            one.compose(canvas)
        canvas *= self.light
        for one in self.overlays(shown, lambda told: float(min(0.45 * np.exp(told), 1.0))):
            one.compose(canvas)
        picture = blur(canvas, _LENS)
        if self.elsewhere(shown):
            picture = blur(picture, SITE_LENS)
        picture = developed(picture, self.setting, shown, _CAMERA)
        deviation = picture * _SHOT
        deviation += _READ
        np.sqrt(np.maximum(deviation, 0, out=deviation), out=deviation)
        deviation *= noise
        if self.setting.knobs.noise != 1:
            deviation *= np.float32(self.setting.knobs.noise)
        picture += deviation
        clipped: Array = np.clip(picture, 0, 1, out=picture)
        return clipped

    def _background(self, shown: Shown) -> tuple[Array, Array]:
        """The lesion-free retina and the noise, with the tiles drawn anew that are left out."""
        canvas, noise, tiles = self.base.copy(), self.noise, self.redrawn(shown)
        if tiles:
            old = grain(self.patient, self.n)
            old = old if self.contents.right else old[:, ::-1]
            new, noise = old.copy(), noise.copy()
            for tile in tiles:
                tile.redrawn(new, 2.2, "grain")
                tile.redrawn(noise, None, "noise")
            canvas += GRAIN[:, None, None] * (new - old)
        return canvas, noise


def scene(setting: Setting, patient: int, image: int, ill: bool, without: frozenset[str] = frozenset()) -> Fundus:
    """The image `image` of the patient `patient`; `ill` says whether its label is to be other than the first.

    without: no part of a fundus moves others, so that all are drawn.
    """
    return _scene(setting, patient, image, ill)


@lru_cache(maxsize=4)
def _scene(setting: Setting, patient: int, image: int, ill: bool) -> Fundus:
    n, base = setting.size, anatomy(patient, setting.size)
    makers = _makers(setting.knobs, setting.labels, base)
    found = drawing.contents(image, setting, ill, makers, _inner(n), INK, mirror=lambda part: part.mirrored(n))
    light = _light(stream(image, "light"), n)
    noise = stream(image, "noise").standard_normal((3, n, n), dtype=np.float32)
    noise.setflags(write=False)
    return Fundus(
        setting,
        found,
        patient,
        base=base if found.right else base[:, :, ::-1],
        light=light * np.float32(np.exp(found.brightness)) if found.brightness else light,
        noise=noise,
    )


def _makers(knobs: Knobs, labels: str, base: Array) -> dict[str, Maker[Patch]]:
    """What draws a lesion or distractor of each name onto the retina `base`."""

    def lesion(name: str, kind: Kind) -> Maker[Patch]:
        place = partial(_in_a_quadrant, name) if labels == "graded" else partial(_PLACES[knobs.prior], name)
        make = partial(patch, name, kind, place)
        return make if knobs.contrast_to_noise is None else told(make, knobs.contrast_to_noise)

    def told(make: Maker[Patch], wanted: float) -> Maker[Patch]:
        def maker(*asked: Any) -> Patch:
            drawn = make(*asked)
            mean = float(base[:, drawn.rows, drawn.columns].mean())
            return told_apart(drawn, wanted, base, float(_SHOT * mean + _READ) / 3)

        return maker

    makers: dict[str, Maker[Patch]] = {name: lesion(name, kind) for name, kind in LESIONS.items()}
    makers |= {name: partial(patch, name, kind, partial(_anywhere, name)) for name, kind in DISTRACTORS.items()}
    for cue, kinds in CUES.items():
        makers |= {name: lesion(name, kind) for name, kind in zip((cue, f"{cue} decoy"), kinds, strict=True)}
    return makers


def _anywhere(name: str, generator: np.random.Generator, reach: float, others: Sequence[Any], number: int) -> Spot:
    """Inside the field, off the optic disc and apart from the others where that is possible."""
    return _tried(reach, others, lambda: _polar(generator, 0.40 * FRAME * np.sqrt(generator.random()), (0, 2 * np.pi)))


def _in_a_quadrant(name: str, generator: np.random.Generator, reach: float, others: Sequence[Any], number: int) -> Spot:
    """As anywhere, but lesions of one kind go round the quarters of the frame."""
    family = name.removeprefix("flame_")
    before = sum(other.kind.removeprefix("flame_") == family for other in others)
    low = (before % 4) * np.pi / 2
    turn = (low + 0.05, low + np.pi / 2 - 0.05)
    return _tried(reach, others, lambda: _polar(generator, 0.40 * FRAME * np.sqrt(generator.uniform(0.02, 1)), turn))


def _anatomical(name: str, generator: np.random.Generator, reach: float, others: Sequence[Any], number: int) -> Spot:
    """Cotton wool and flames around the optic disc, all else around the macula."""
    near_disc = name in ("cotton_wool", "flame_haemorrhage")
    (x, y), spread = (DISC_CENTRE, 0.13 * FRAME) if near_disc else (MACULA_CENTRE, 0.11 * FRAME)

    def draw() -> Spot:
        for _ in range(20):
            at = x + generator.normal(0, spread), y + generator.normal(0, spread)
            if np.hypot(at[0] - FRAME / 2, at[1] - FRAME / 2) < 0.40 * FRAME:
                break
        return at

    return _tried(reach, others, draw)


def _fixed(name: str, generator: np.random.Generator, reach: float, others: Sequence[Any], number: int) -> Spot:
    return around(FRAME / 2, FRAME / 2, number)


_PLACES = {"uniform": _anywhere, "anatomical": _anatomical, "fixed": _fixed}


def _polar(generator: np.random.Generator, distance: float, turn: tuple[float, float]) -> Spot:
    angle = generator.uniform(*turn)
    return FRAME / 2 + distance * np.cos(angle), FRAME / 2 + distance * np.sin(angle)


def _tried(reach: float, others: Sequence[Any], draw: Callable[[], Spot]) -> Spot:
    """The first of 30 places that keeps off the optic disc and the others, else the last."""
    x = y = FRAME / 2
    for _ in range(30):
        x, y = draw()
        if np.hypot(x - DISC_CENTRE[0], y - DISC_CENTRE[1]) > DISC_RADIUS + reach and apart(x, y, reach, others):
            break
    return float(x), float(y)


@lru_cache(maxsize=4)
def _inner(n: int) -> Bool[Array, "n n"]:
    """The field without its rim and the optic disc of either eye, where tiles of background lie."""
    x, y = grid(n)
    disc = np.hypot(np.abs(x - FRAME / 2) - (DISC_CENTRE[0] - FRAME / 2), y - DISC_CENTRE[1]) < DISC_RADIUS + 40
    inner: Array = (np.hypot(x - FRAME / 2, y - FRAME / 2) < 0.38 * FRAME) & ~disc
    return inner


def _light(generator: np.random.Generator, n: int) -> Float32[Array, "n n"]:
    """1 + a random quadratic, darker towards the rim, 0 outside the field."""
    x, y = (((v - FRAME / 2) / FIELD_RADIUS).astype(np.float32) for v in grid(n))
    c = generator.normal(0, 0.06, 6).astype(np.float32)
    quadratic = (1 + c[0] + c[1] * x + c[3] * x * x) + (c[2] * y + c[5] * y * y) + c[4] * x * y
    light: Array = np.clip(quadratic * (1 - np.float32(0.35) * (x * x + y * y)), 0.05, 1.5) * field(n)
    light.setflags(write=False)
    return light
