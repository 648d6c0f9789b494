"""A fundus photograph from seeds: anatomy, light, distractors, lesions, letter, blur and noise, in that order.

Rules that make the counterfactuals exact: one stream of chance per component; nothing is measured on the picture; the
blur has finite reach and comes after compositing; the noise is a fixed field and comes last. So dropping a
lesion changes no bit outside its effect zone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab.anatomy import FIELD_RADIUS, FRAME, anatomy, field, grid
from pellucid.data.lesionlab.knobs import Knobs
from pellucid.data.lesionlab.marker import box, letter
from pellucid.data.lesionlab.patches import Patch, distractors, lesions
from pellucid.data.lesionlab.streams import stream

VERSION = "fundus-1"  # changes whenever equal seeds give other pictures

# Fixed for the kind, measured once over the easy preset: mean and deviation of all pixels.
MEAN = (0.40, 0.18, 0.08)
STD = (0.27, 0.13, 0.07)

REACH = 2  # of the blur, pixels
_BLUR = np.exp(-0.5 * (np.arange(REACH + 1) / 0.7) ** 2)
_BLUR = (_BLUR / (_BLUR[0] + 2 * _BLUR[1:].sum())).astype(np.float32)
_SHOT, _READ = np.float32(4e-4), np.float32(2e-5)


@dataclass(frozen=True)
class Scene:
    """Everything that is in the picture, drawn once; `render` puts it together with or without some of it.

    `base` is the lesion-free fundus, `light` the illumination within the field, `noise` a fixed standard normal field.
    All arrays are shared between renderings: do not write to them.
    """

    n: int
    base: Float32[Array, "3 n n"]
    light: Float32[Array, "n n"]
    noise: Float32[Array, "3 n n"]
    lesions: tuple[Patch, ...]
    distractors: tuple[Patch, ...]
    letter: Patch

    def zones(self, drop: Collection[int]) -> dict[str, Bool[Array, "n n"]]:
        """Named regions: the field, distractors, the letter's place, each lesion left and where it can have an effect."""
        place = np.zeros((self.n, self.n), bool)
        place[box(self.n, REACH)] = True
        others = np.zeros((self.n, self.n), bool)
        for patch in self.distractors:
            others[patch.rows, patch.columns] |= patch.shape > 0.5
        zones = {"field": field(self.n) > 0.5, "distractors": others, "marker": place}
        for k, patch in enumerate(self.lesions):
            if k not in drop:
                zones[f"lesion:{k}"] = patch.mask(self.n)
                zones[f"effect:{k}"] = patch.effect(self.n, REACH)
        return zones

    def latent(self, drop: Collection[int]) -> dict[str, Any]:
        """What was drawn, ready for JSON."""
        return {
            "lesions": [{"number": k, **p.latent()} for k, p in enumerate(self.lesions) if k not in drop],
            "distractors": [p.latent() for p in self.distractors],
            "letter": self.letter.kind[-1],
        }


@lru_cache(maxsize=4)
def scene(patient: int, image: int, n: int, knobs: Knobs, ill: bool) -> Scene:
    """The image `image` of the patient `patient`, `n` pixels wide; `ill` says whether it has lesions at all."""
    base = anatomy(patient, n)
    right = bool(stream(image, "eye").random() < 0.5)
    noise = stream(image, "noise").standard_normal((3, n, n), dtype=np.float32)
    noise.setflags(write=False)
    patches = lesions(image, n, knobs) if ill else ()
    return Scene(
        n,
        base if right else base[:, :, ::-1],
        _light(stream(image, "light"), n),
        noise,
        tuple(patches if right else (_mirrored(p, n) for p in patches)),
        tuple(p if right else _mirrored(p, n) for p in distractors(image, n, knobs)),
        letter("R" if right else "L", n),
    )


def render(scene: Scene, drop: Collection[int] = (), marker: bool = False) -> Float32[Array, "3 n n"]:
    """The picture, 0 to 1, without the lesions numbered in `drop`, with or without the letter."""
    canvas = scene.base.copy()
    for patch in scene.distractors:
        patch.compose(canvas)
    for k, patch in enumerate(scene.lesions):
        if k not in drop:
            patch.compose(canvas)
    canvas *= scene.light
    if marker:
        scene.letter.compose(canvas)
    blurred = _blur(_blur(canvas, 1), 2)
    deviation = blurred * _SHOT
    deviation += _READ
    np.sqrt(deviation, out=deviation)
    deviation *= scene.noise
    blurred += deviation
    picture: Array = np.clip(blurred, 0, 1, out=blurred)
    return picture


def _blur(canvas: Float32[Array, "3 n n"], axis: int) -> Float32[Array, "3 n n"]:
    """A Gaussian of .7 pixels cut off at `REACH`; what lies beyond the frame is black."""
    blurred: Array = canvas * _BLUR[0]
    for k in range(1, REACH + 1):
        part = canvas * _BLUR[k]
        for to, source in ((slice(k, None), slice(None, -k)), (slice(None, -k), slice(k, None))):
            index = (slice(None),) * axis
            blurred[(*index, to)] += part[(*index, source)]
    return blurred


def _light(generator: np.random.Generator, n: int) -> Float32[Array, "n n"]:
    """1 + a random quadratic, darker towards the rim, 0 outside the field."""
    x, y = (((v - FRAME / 2) / FIELD_RADIUS).astype(np.float32) for v in grid(n))
    c = generator.normal(0, 0.06, 6).astype(np.float32)
    quadratic = (1 + c[0] + c[1] * x + c[3] * x * x) + (c[2] * y + c[5] * y * y) + c[4] * x * y
    light: Array = np.clip(quadratic * (1 - np.float32(0.35) * (x * x + y * y)), 0.05, 1.5) * field(n)
    light.setflags(write=False)
    return light


def _mirrored(patch: Patch, n: int) -> Patch:
    columns = slice(n - patch.columns.stop, n - patch.columns.start)
    centre = (FRAME - patch.centre[0], patch.centre[1])
    return Patch(patch.kind, patch.rows, columns, patch.shape[:, ::-1], patch.colour, patch.gain, centre, patch.radius)
