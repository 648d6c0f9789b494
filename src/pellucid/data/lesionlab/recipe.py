"""One picture, written down; and the same picture with one thing changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab import composition
from pellucid.data.lesionlab.marker import VARIANTS
from pellucid.data.lesionlab.scene import Scene, Setting, Shown
from pellucid.sample import Sample


@dataclass(frozen=True)
class Recipe:
    """One picture, written down: calling it renders the sample. Every decision is explicit, so a changed recipe
    renders the same scene with that one thing changed. It pickles in less than two thousand bytes.

    patient, image: roots of chance. ill: whether the scene is made for a label other than the first. marker: whether the
    marker is shown, None where the set has none; swapped: in its other form. without: parts left out (see `Scene`).
    wrong: how far the label given is from the right one, for label noise. mean, std: one or three channels.
    """

    setting: Setting
    patient: int
    image: int
    ill: bool
    marker: bool | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    group: str
    wrong: int = 0
    swapped: bool = False
    without: frozenset[str] = frozenset()

    @property
    def shown(self) -> Shown:
        return Shown(self.without, bool(self.marker), self.swapped)

    def scene(self) -> Scene:
        module = import_module(f"pellucid.data.lesionlab.{self.setting.kind}")
        drawn: Scene = module.scene(self.setting, self.patient, self.image, self.ill, self.without)
        return drawn

    def picture(self) -> Float32[Array, "channels n n"]:
        """The picture, 0 to 1, before normalisation: three channels in colour, one in grey."""
        return self.scene().render(self.shown)

    def opacities(self) -> dict[str, Float32[Array, "n n"]]:
        """How much of each pixel every lesion that is shown takes, by "lesion:k"; its mask is where its shape exceeds one half."""
        scene = self.scene()
        return {f"lesion:{k}": scene.lesions[k].soft(scene.n) for k in scene.left(self.without)}

    def two_by_two(self) -> dict[str, Recipe]:
        """The same scene with lesions and marker, with one of them, and with neither."""
        return {
            name: replace(self, ill=ill, marker=marker)
            for name, ill, marker in (
                ("both", True, True),
                ("lesions", True, False),
                ("marker", False, True),
                ("none", False, False),
            )
        }

    def __call__(self) -> Sample:
        scene, picture = self.scene(), self.picture()
        setting, left = self.setting, scene.left(self.without)
        zones = {k: torch.from_numpy(v) for k, v in scene.zones(self.without).items()}
        mask = torch.zeros(setting.size, setting.size, dtype=torch.bool)
        for k in left:
            mask |= zones[f"lesion:{k}"]
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        right = composition.label(setting.kind, setting.knobs, setting.labels, [scene.lesions[k] for k in left])
        classes = len(composition.classes_of(setting.kind, setting.labels))
        return Sample(
            input=torch.from_numpy((picture - mean) / std),
            label=(right + self.wrong) % classes,
            mask=mask,
            zones=zones,
            name=self.name,
            group=self.group,
            image=_displayed(picture),
            meta={
                **scene.latent(self.without), "marker": bool(self.marker), "patient": self.patient, "image": self.image, "true_label": right,
            },
            alternatives=self._alternatives(scene, left),
        )  # fmt: skip

    def _alternatives(self, scene: Scene, left: Sequence[int]) -> dict[str, Callable[[], Sample]]:
        lesions = frozenset(f"lesion:{k}" for k in left)
        changed: dict[str, Callable[[], Sample]] = {
            f"without {part}": replace(self, without=self.without | {part})
            for part in scene.parts()
            if part not in self.without
        }
        if lesions:
            changed["without lesions"] = replace(self, without=self.without | lesions)
        if len(lesions) > 1:
            for one in lesions:
                changed[f"only {one}"] = replace(self, without=self.without | (lesions - {one}))
        if self.marker is not None:
            changed["without marker"] = replace(self, marker=False)
            changed["with marker"] = replace(self, marker=True)
            if self.setting.marker in VARIANTS:
                changed["with the other marker"] = replace(self, marker=True, swapped=not self.swapped)
        return changed


def _displayed(picture: Float32[Array, "channels n n"]) -> Array:
    """The picture in 8 bits: `(n, n, 3)` in colour, `(n, n)` in grey."""
    whole = (picture * np.float32(255) + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(whole if whole.shape[2] == 3 else whole[..., 0])
