"""What a picture is made of, by name, and which of it is shown.

Parts are named "lesion:k", "distractor:k", "background:j", "suppressor". Each can be left out, and nothing else changes:
every part has a stream of chance of its own, nothing is measured on the picture, blur has finite reach and comes after
compositing, noise is a fixed field and comes last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab.background import Tile
from pellucid.data.lesionlab.frame import lens
from pellucid.data.lesionlab.knobs import Knobs
from pellucid.data.lesionlab.marker import Mark, gauge, gauge_box
from pellucid.data.lesionlab.patches import Patch

SITE_GAMMA, SITE_BLUR, SITE_REACH = 1.35, 1.1, 3


@dataclass(frozen=True)
class Setting:
    """What all images of a set have in common. marker: which shortcut is planted, "none" or one of `MARKERS`."""

    kind: str
    size: int
    knobs: Knobs
    marker: str = "none"
    labels: str = "binary"


@dataclass(frozen=True)
class Shown:
    """What of a scene is in the picture. without: names of parts left out; a background left out is drawn anew."""

    without: frozenset[str] = frozenset()
    marker: bool = False
    swapped: bool = False


ALL = Shown()


class Part(Protocol):
    """A lesion or a distractor."""

    @property
    def kind(self) -> str: ...

    @property
    def centre(self) -> tuple[float, float]: ...

    @property
    def radius(self) -> float: ...

    def soft(self, n: int) -> Float32[Array, "n n"]: ...

    def mask(self, n: int) -> Bool[Array, "n n"]: ...

    def latent(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Contents:
    """What is in an image beside its anatomy. lesions: those that it has, in whatever of them is shown.

    right: whether it is a right eye (or a picture with the letter of one). mark: the planted marker, None where it has no
    place. brightness: the logarithm of what the suppressor does to the light; 0 without one.
    """

    lesions: Sequence[Any]
    distractors: Sequence[Any]
    tiles: tuple[Tile, ...]
    right: bool
    mark: Mark | None
    brightness: float


@dataclass(frozen=True)
class Scene(ABC):
    """Everything that is in the picture, drawn once; `render` puts it together with or without some of it.

    Arrays are shared between renderings: do not write to them.
    """

    setting: Setting
    contents: Contents

    reach = 2  # of the lens, pixels

    @abstractmethod
    def render(self, shown: Shown = ALL) -> Float32[Array, "channels n n"]:
        """The picture, 0 to 1."""

    @abstractmethod
    def tissue(self) -> Bool[Array, "n n"]:
        """Where lesions can be."""

    @property
    def lesions(self) -> Sequence[Part]:
        return self.contents.lesions

    @property
    def distractors(self) -> Sequence[Part]:
        return self.contents.distractors

    @property
    def n(self) -> int:
        return self.setting.size

    @property
    def spread(self) -> int:
        """How far blur carries a change, in pixels; that of another site's lens included where there may be one."""
        return self.reach + (SITE_REACH if self.setting.marker == "blur" else 0)

    def left(self, without: Collection[str]) -> list[int]:
        """The numbers of the lesions that are shown."""
        return [k for k in range(len(self.lesions)) if f"lesion:{k}" not in without]

    def parts(self) -> list[str]:
        """The names of all parts."""
        counted = {"lesion": self.lesions, "distractor": self.distractors, "background": self.contents.tiles}
        names = [f"{noun}:{k}" for noun, parts in counted.items() for k in range(len(parts))]
        return names + (["suppressor"] if self.setting.knobs.suppressor else [])

    def patches(self, shown: Shown) -> Iterator[Patch]:
        """The distractors, then the lesions that are shown, as far as they are patches."""
        for noun, parts in (("distractor", self.contents.distractors), ("lesion", self.contents.lesions)):
            yield from (p for k, p in enumerate(parts) if isinstance(p, Patch) and f"{noun}:{k}" not in shown.without)

    def redrawn(self, shown: Shown) -> list[Tile]:
        """The tiles of background that are drawn anew."""
        return [tile for k, tile in enumerate(self.contents.tiles) if f"background:{k}" in shown.without]

    def overlays(self, shown: Shown, gauge_of: Callable[[float], float]) -> Iterator[Patch]:
        """The marker and the gauge, as far as they are shown. gauge_of: from the brightness to the gauge's value."""
        if shown.marker and self.contents.mark is not None:
            yield self.contents.mark.shown(shown.swapped)
        if self.setting.knobs.suppressor:
            told = 0.0 if "suppressor" in shown.without else self.contents.brightness
            yield gauge(self.n, gauge_of(told))

    def elsewhere(self, shown: Shown) -> bool:
        """Whether the picture was taken with the lens of the other site."""
        return shown.marker and self.setting.marker == "blur"

    def effect(self, number: int, without: Collection[str]) -> Bool[Array, "n n"]:
        """Where the picture can change when lesion `number` is left out too."""
        zone: Array = self.contents.lesions[number].effect(self.n, self.spread)
        return zone

    def zones(self, without: Collection[str] = ()) -> dict[str, Bool[Array, "n n"]]:
        """Named regions: the tissue, the place of the marker, each part left, and where each lesion can have an effect."""
        n, zones = self.n, {"field": self.tissue()}
        zones["distractors"] = np.zeros((n, n), bool)
        if self.contents.mark is not None:
            zones["marker"] = self.contents.mark.zone(n, self.spread)
        for k, lesion in enumerate(self.lesions):
            if f"lesion:{k}" not in without:
                zones[f"lesion:{k}"] = lesion.mask(n)
                zones[f"effect:{k}"] = self.effect(k, without)
        for k, distractor in enumerate(self.distractors):
            if f"distractor:{k}" not in without:
                zones[f"distractor:{k}"] = distractor.mask(n)
                zones["distractors"] |= zones[f"distractor:{k}"]
        for k, tile in enumerate(self.contents.tiles):
            if f"background:{k}" not in without:
                zones[f"background:{k}"] = tile.mask(n)
        if self.setting.knobs.suppressor:
            zones["suppressor"] = np.zeros((n, n), bool)
            zones["suppressor"][gauge_box(n)] = True
        return zones

    def latent(self, without: Collection[str] = ()) -> dict[str, Any]:
        """What was drawn, ready for JSON."""
        found = {
            f"{noun}s": [{"number": k, **p.latent()} for k, p in enumerate(parts) if f"{noun}:{k}" not in without]
            for noun, parts in (("lesion", self.lesions), ("distractor", self.distractors))
        }
        if self.setting.knobs.suppressor:
            found["log_brightness"] = self.contents.brightness  # type: ignore[assignment]
        return found


def developed(
    picture: Float32[Array, "channels n n"], setting: Setting, shown: Shown, response: Array | None = None
) -> Float32[Array, "channels n n"]:
    """The light that the lens let through as this camera and this site turn it into grey values; noise comes after it.

    response: gains per channel of a camera that is off (see `Knobs.camera`).
    """
    elsewhere, knobs = shown.marker, setting.knobs
    if response is not None and knobs.camera:
        picture = picture * (1 + np.float32(knobs.camera) * response)[:, None, None]
    gamma = knobs.gamma * (SITE_GAMMA if elsewhere and setting.marker == "gamma" else 1.0)
    if gamma != 1:
        picture = np.power(np.clip(picture, 0, 1), np.float32(gamma))
    return picture


SITE_LENS = lens(SITE_BLUR, SITE_REACH)
