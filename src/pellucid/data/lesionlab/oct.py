"""An OCT section from seeds: layers, lesions that lift them, cysts, shadows, lens, speckle, marker and noise, in that order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab import drawing, shapes
from pellucid.data.lesionlab.drawing import Maker
from pellucid.data.lesionlab.frame import FRAME, blur_on, grid, lens
from pellucid.data.lesionlab.layers import EPITHELIUM, INNER, PHOTORECEPTORS, Layers, Lifts, layers, section, softness
from pellucid.data.lesionlab.marker import INK
from pellucid.data.lesionlab.patches import Kind, Patch, Size, Spot, apart, around, patch, told_apart, widened
from pellucid.data.lesionlab.scene import ALL, SITE_LENS, Scene, Setting, Shown, developed
from pellucid.data.lesionlab.streams import stream
from pellucid.data.lesionlab.texture import step

VERSION = "oct-1"

# Fixed for the kind, measured once over the easy preset.
MEAN = (0.235,)
STD = (0.20,)

_LENS, _GRAIN_LENS = lens(0.8, Scene.reach), lens(0.6, Scene.reach)
_ADDED = np.float32(0.02)
_CAMERA = np.array((-0.35,), np.float32)
_SHALLOWEST = 0.05  # pixels: a lift below it is none, so that a bump ends somewhere
# Deviation of the speckle after its blur, the mean being 1.
_SPECKLE = float(np.sqrt(1 / 3) * (_GRAIN_LENS[0] ** 2 + 2 * (_GRAIN_LENS[1:] ** 2).sum()))


@dataclass(frozen=True)
class Dome:
    """A lesion that lifts layers: a bump over some columns, in frame pixels.

    level: 7 where it lies beneath the epithelium, 6 beneath the photoreceptors. fill: the grey in it. shadow: the share of
    light that does not reach what is below. top, bottom: the lesion's edges, frame pixels.
    """

    kind: str
    columns: slice
    bump: Float32[Array, "width"]
    level: int
    fill: float
    shadow: float
    gain: float
    top: Float32[Array, "width"]
    bottom: Float32[Array, "width"]
    centre: tuple[float, float]
    radius: float
    contrast_to_noise: float | None = None

    def soft(self, n: int) -> Float32[Array, "n n"]:
        soft = np.zeros((n, n), np.float32)
        y, half = grid(n)[1], np.float32(0.5 * FRAME / n)
        within = step((y - self.top) / half) * step((self.bottom - y) / half)
        soft[:, self.columns] = np.float32(self.gain) * within * np.clip(self.bump / (0.5 * self.bump.max()), 0, 1)
        return soft

    def mask(self, n: int) -> Bool[Array, "n n"]:
        return self.soft(n) > 0.5 * np.float32(self.gain)

    def moved(self, columns: slice, pixels: int, n: int) -> Dome:
        """The dome where some columns of the picture have moved down."""
        inside = np.zeros(n, np.float32)
        inside[columns] = pixels * FRAME / n
        down = float(inside[min(int(self.centre[0] * n / FRAME), n - 1)])
        top, bottom = (edge + inside[self.columns] for edge in (self.top, self.bottom))
        return replace(self, top=top, bottom=bottom, centre=(self.centre[0], self.centre[1] + down))

    def latent(self) -> dict[str, Any]:
        known = {"type": self.kind, "x": self.centre[0], "y": self.centre[1], "radius": self.radius, "gain": self.gain}
        known["height"] = float(self.bump.max())
        return known if self.contrast_to_noise is None else {**known, "contrast_to_noise": self.contrast_to_noise}


@dataclass(frozen=True)
class Tear:
    """The eye moved while these columns were read: they lie lower or higher, with all that is in them.

    What is seen of it is the steps at its two edges, which are its mask.
    """

    columns: slice
    pixels: int
    centre: tuple[float, float]
    radius: float
    kind: str = "motion_tear"

    def soft(self, n: int) -> Float32[Array, "n n"]:
        return self.mask(n).astype(np.float32)

    def mask(self, n: int) -> Bool[Array, "n n"]:
        mask = np.zeros((n, n), bool)
        for edge in (self.columns.start, self.columns.stop):
            mask[:, max(0, edge - 1) : edge + 1] = True
        return mask

    def effect(self, n: int, spread: int) -> Bool[Array, "n n"]:
        return widened(np.ones((n, self.columns.stop - self.columns.start), bool), slice(0, n), self.columns, n, spread)

    def latent(self) -> dict[str, Any]:
        return {
            "type": self.kind, "x": self.centre[0], "y": self.centre[1], "radius": self.radius, "pixels": self.pixels,
        }  # fmt: skip


Part = Dome | Patch | Tear


@dataclass(frozen=True)
class Oct(Scene):
    """`base` is the lesion-free section, `speckle` a factor of mean 1 on it, `noise` what is added. Tears are in all of them."""

    layers: Layers
    base: Float32[Array, "n n"]
    speckle: Float32[Array, "1 n n"]
    noise: Float32[Array, "1 n n"]

    def tissue(self) -> Bool[Array, "n n"]:
        return _tissue(self.layers, self.n)

    def render(self, shown: Shown = ALL) -> Float32[Array, "1 n n"]:
        canvas = self.base.copy()[None]
        self._lift(canvas[0], self.left(shown.without))
        for one in self.patches(shown):
            one.compose(canvas)
        if self.contents.brightness:
            canvas *= np.float32(np.exp(self.contents.brightness))
        picture = blur_on(canvas, _LENS)
        if self.elsewhere(shown):
            picture = blur_on(picture, SITE_LENS)
        picture = developed(picture, self.setting, shown, _CAMERA) * self._grain(shown)
        for one in self.overlays(shown, lambda told: float(min(0.45 * np.exp(told), 1.0))):
            one.compose(picture)
        picture += self.noise
        clipped: Array = np.clip(picture, 0, 1, out=picture)
        return clipped

    def _lift(self, canvas: Float32[Array, "n n"], left: Collection[int]) -> None:
        """Draw the layers anew in the columns of every dome that is left, on top of the domes before it."""
        lifts, y = Lifts.none(self.n), grid(self.n)[1]
        domes = [one for one in (self.lesions[k] for k in left) if isinstance(one, Dome)]
        for dome in domes:
            lifts.add(dome.level, dome.columns, dome.bump, dome.fill)
            rows = lifts.rows(self.layers.boundaries, dome.columns)
            window = canvas[rows, dome.columns]
            window += np.float32(dome.gain) * (lifts.section(self.layers, dome.columns, rows) - window)
        for dome in (one for one in domes if one.shadow):
            below = step((y - self.layers.boundaries[-1, dome.columns]) / np.float32(4))
            canvas[:, dome.columns] *= 1 - np.float32(dome.gain * dome.shadow) * below * (dome.bump / dome.bump.max())

    def _grain(self, shown: Shown) -> Float32[Array, "1 n n"]:
        tiles = self.redrawn(shown)
        grain = self.speckle.copy() if tiles else self.speckle
        for tile in tiles:
            rows, columns = tile.slices
            other = _speckle(stream(tile.root, "background speckle", tile.number), self.n, self.setting.knobs.noise)
            window, weight = grain[:, rows, columns], tile.weight()
            window += weight * (other[:, rows, columns] - window)
        return grain

    def effect(self, number: int, without: Collection[str]) -> Bool[Array, "n n"]:
        """A cyst changes its own place; a dome, in its columns, all from the highest edge that domes there lift to their base."""
        dome, n = self.lesions[number], self.n
        if not isinstance(dome, Dome):
            return super().effect(number, without)
        lifts, columns = Lifts.none(n), dome.columns
        still = lifts.edges(self.layers.boundaries, columns)
        for k in self.left(without):
            other = self.lesions[k]
            if isinstance(other, Dome):
                lifts.add(other.level, other.columns, other.bump, other.fill)
        lifted = lifts.edges(self.layers.boundaries, columns)
        top = np.where(lifted != still, lifted, np.inf).min(0) - softness(n)
        bottom = np.inf if dome.shadow else still[-1] + softness(n)
        y = grid(n)[1]
        return widened((y >= top) & (y <= bottom), slice(0, n), columns, n, self.spread)


def scene(setting: Setting, patient: int, image: int, ill: bool, without: frozenset[str] = frozenset()) -> Oct:
    """The image `image` of the patient `patient`; `ill` says whether its label is to be other than the first.

    without: names of parts; a tear among them moves everything else in its columns back.
    """
    return _scene(setting, patient, image, ill, frozenset(name for name in without if name.startswith("distractor")))


@lru_cache(maxsize=4)
def _scene(setting: Setting, patient: int, image: int, ill: bool, without: frozenset[str]) -> Oct:
    n, knobs, still = setting.size, setting.knobs, layers(patient, setting.size)
    found = drawing.contents(image, setting, ill, _makers(setting, still, patient), _tissue(still, n), INK[:1])
    base, moved, here = section(patient, n), still, found.lesions
    for k, tear in enumerate(found.distractors):
        if isinstance(tear, Tear) and f"distractor:{k}" not in without:
            moved = moved.torn(tear.columns, tear.pixels)
            base = np.concatenate(
                [
                    base[:, : tear.columns.start],
                    Lifts.none(n).section(moved, tear.columns),
                    base[:, tear.columns.stop :],
                ],
                1,
            )
            here = tuple(one.moved(tear.columns, tear.pixels, n) for one in here)
    noise = np.abs(stream(image, "noise").standard_normal((1, n, n), dtype=np.float32))
    noise *= _ADDED * np.float32(knobs.noise)
    speckle = _speckle(stream(image, "speckle"), n, knobs.noise)
    return Oct(setting, replace(found, lesions=here), moved, base, speckle, noise)


def _speckle(generator: np.random.Generator, n: int, strength: float) -> Float32[Array, "1 n n"]:
    """Gamma of shape 3 and mean 1, blurred."""
    grain = blur_on(generator.standard_gamma(3.0, (1, n, n), dtype=np.float32) / np.float32(3), _GRAIN_LENS)
    return grain if strength == 1 else np.maximum(1 + np.float32(strength) * (grain - 1), 0)


def _tissue(of: Layers, n: int) -> Bool[Array, "n n"]:
    """The retina."""
    y = grid(n)[1]
    tissue: Array = (y > of.boundaries[0]) & (y < of.boundaries[-1])
    return tissue


@dataclass(frozen=True)
class _Dome:
    """What is drawn under a dome's name. radius: half the width; height: of the middle; profile: of -1 to 1."""

    radius: tuple[float, float]
    height: tuple[float, float]
    level: int
    fill: float
    profile: Callable[[Array], Array]
    shadow: float = 0.0


def _bell(t: Array) -> Array:
    bell: Array = np.exp(-np.float32(np.log(2)) * t * t)
    return bell


def _lens_shaped(t: Array) -> Array:
    lens_shaped: Array = np.square(np.clip(1 - t * t, 0, None))
    return lens_shaped


def _steep(t: Array) -> Array:
    inside = np.clip(1 - np.square(t * t), 0, None)
    steep: Array = inside * np.sqrt(inside)
    return steep


DOMES = {
    "druse": _Dome((10, 28), (4, 20), 7, 0.38, _bell),
    "subretinal_fluid": _Dome((36, 74), (10, 26), 6, 0.07, _lens_shaped),
    "pigment_epithelium_detachment": _Dome((30, 62), (18, 40), 7, 0.15, _steep, shadow=0.4),
}
CYST = Kind((7, 22), (0.09,), shapes.ellipse(0.25, (1.5, 2.2)))
_OUTLINE = shapes.ellipse(0.25, (1.2, 1.6))
CUES = {
    "texture": (
        Kind((14, 24), (0.0,), _OUTLINE, grain=shapes.stripes(0.10), adds=True),
        Kind((14, 24), (0.0,), _OUTLINE, grain=shapes.mottles(0.10), adds=True),
    ),
    "shape": (Kind((9, 16), (0.75,), shapes.cross), Kind((9, 16), (0.75,), shapes.disc)),
}


def _makers(setting: Setting, of: Layers, patient: int) -> dict[str, Maker[Part]]:
    """What draws a lesion or distractor of each name into these layers."""
    knobs, n = setting.knobs, setting.size
    base = section(patient, n)

    def dome(
        name: str, kind: _Dome, generator: np.random.Generator, size: Size, others: Sequence[Part], number: int
    ) -> Dome:
        drawn = _dome(name, kind, partial(_x, knobs.prior, of), of, generator, size, others, number)
        return drawn if knobs.contrast_to_noise is None else _told_apart(drawn, knobs.contrast_to_noise, of, base)

    def inner(
        name: str, kind: Kind, generator: np.random.Generator, size: Size, others: Sequence[Part], number: int
    ) -> Patch:
        drawn = patch(name, kind, partial(_inner, knobs.prior, of), generator, size, others, number)
        if knobs.contrast_to_noise is None:
            return drawn
        under = base[drawn.rows, drawn.columns]
        return told_apart(drawn, knobs.contrast_to_noise, base[None], _variance(under))

    makers: dict[str, Maker[Part]] = {name: partial(dome, name, kind) for name, kind in DOMES.items()}
    makers["cyst"] = partial(inner, "cyst", CYST)
    makers |= {"vessel_shadow": partial(_vessel_shadow, of), "motion_tear": _tear}
    for cue, kinds in CUES.items():
        makers |= {name: partial(inner, name, kind) for name, kind in zip((cue, f"{cue} decoy"), kinds, strict=True)}
    return makers


def _x(prior: str, of: Layers, generator: np.random.Generator, number: int) -> float:
    """Where along the section a lesion lies."""
    if prior == "fixed":
        return around(FRAME / 2, 0, number)[0]
    if prior == "anatomical":
        return float(np.clip(of.fovea + generator.normal(0, 62), 0.08 * FRAME, 0.92 * FRAME))
    return float(generator.uniform(0.08, 0.92) * FRAME)


def _inner(
    prior: str, of: Layers, generator: np.random.Generator, reach: float, others: Sequence[Any], number: int
) -> Spot:
    """In the inner layers, apart from the others where that is possible."""
    x = y = FRAME / 2
    for _ in range(30):
        x, share = _x(prior, of, generator, number), generator.uniform(0.25, 0.75)
        top, bottom = _at(of, x)[[INNER, PHOTORECEPTORS]]
        y = float(top + (0.5 if prior == "fixed" else share) * (bottom - top))
        if apart(x, y, 0.6 * reach, others):
            break
    return x, y


def _at(of: Layers, x: float) -> Float32[Array, "8"]:
    """The boundaries at one place along the section."""
    n = of.boundaries.shape[1]
    return of.boundaries[:, min(int(x * n / FRAME), n - 1)]


def _dome(
    name: str, kind: _Dome, place: Callable[[np.random.Generator, int], float], of: Layers, generator: np.random.Generator, size: Size, others: Sequence[Any], number: int
) -> Dome:  # fmt: skip
    usual, height = generator.uniform(*kind.radius), generator.uniform(*kind.height)
    radius = size.radius(usual)
    height *= radius / usual
    x = place(generator, number)
    for _ in range(29):
        if all(abs(x - other.centre[0]) > 1.3 * radius + other.radius for other in others):
            break
        x = place(generator, number)
    n = size.n
    pixel = FRAME / n
    bump = (height * kind.profile((grid(n)[0][0] - np.float32(x)) / np.float32(radius))).astype(np.float32)
    bump[bump < _SHALLOWEST * pixel] = 0
    middle = min(int(x / pixel), n - 1)
    bump[middle] = max(bump[middle], np.float32(_SHALLOWEST * pixel))
    lifted = np.flatnonzero(bump)
    columns = slice(int(lifted[0]), int(lifted[-1]) + 1)
    foot = of.boundaries[EPITHELIUM, columns]
    bottom = foot if kind.level == 6 else of.boundaries[-1, columns]
    top = np.minimum(foot - bump[columns], bottom - np.float32(1.2 * pixel))
    centre = x, float(of.boundaries[EPITHELIUM, middle] - bump[middle] / 2)
    return Dome(
        name, columns, bump[columns], kind.level, kind.fill, kind.shadow, size.contrast, top, bottom, centre, float(radius)
    )  # fmt: skip


def _told_apart(dome: Dome, wanted: float, of: Layers, base: Float32[Array, "n n"]) -> Dome:
    """The dome with the gain at which it differs from the lesion-free section by `wanted` times the deviation there."""
    n = of.boundaries.shape[1]
    lifts, core = Lifts.none(n), dome.mask(n)[:, dome.columns]
    lifts.add(dome.level, dome.columns, dome.bump, dome.fill)
    under = base[:, dome.columns]
    change = (lifts.section(of, dome.columns) - under)[core]
    difference = float(np.sqrt(np.square(change).mean()))
    deviation = float(np.sqrt(under[core].var() + _variance(under[core])))
    gain = min(wanted * deviation / max(difference, 1e-6), 1.0)
    return replace(dome, gain=gain, contrast_to_noise=gain * difference / deviation)


def _variance(grey: Array) -> float:
    """Of speckle and noise on this grey; |N| has the variance 1 - 2 / pi."""
    return float((_SPECKLE * grey.mean()) ** 2 + _ADDED**2 * (1 - 2 / np.pi))


def _vessel_shadow(of: Layers, generator: np.random.Generator, size: Size, others: Sequence[Any], number: int) -> Patch:
    """A vessel in the nerve fibres takes nearly half of the light from all that is below it."""
    x, radius = float(generator.uniform(0.06, 0.94) * FRAME), float(generator.uniform(4, 10))
    n, pixel = size.n, FRAME / size.n
    at = int(x / pixel)
    half = int(np.ceil(1.6 * radius / pixel)) + 1
    columns = slice(max(0, at - half), min(n, at + half + 1))
    edge = float(of.boundaries[1, at])
    rows = slice(max(0, int(edge / pixel) - 2), n)
    across, down = grid(n)
    share = step(
        (np.float32(radius) - np.abs(across[:, columns] - np.float32(x))) / np.float32(max(0.5 * radius, 0.6 * pixel))
    )
    shape = (share * step((down[rows] - np.float32(edge)) / np.float32(max(4.0, pixel)))).astype(np.float32)
    return Patch("vessel_shadow", rows, columns, shape, np.zeros((1, 1, 1), np.float32), 0.45, (x, edge), radius)


def _tear(generator: np.random.Generator, size: Size, others: Sequence[Any], number: int) -> Tear:
    n, x, radius = size.n, float(generator.uniform(0.1, 0.9) * FRAME), float(generator.uniform(10, 26))
    down = float(generator.uniform(4, 9) * (1 if generator.random() < 0.5 else -1))
    columns = slice(max(0, round((x - radius) * n / FRAME)), min(n, round((x + radius) * n / FRAME)))
    pixels = round(down * n / FRAME) or int(np.sign(down))
    return Tear(columns, pixels, (x, FRAME / 2), radius)
