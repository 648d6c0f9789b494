"""LesionLab as a data set: patients with one to four images each, rendered when asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array

from pellucid.data.lesionlab import fundus
from pellucid.data.lesionlab.knobs import Knobs, demand, knobs_from
from pellucid.data.lesionlab.streams import derive, stream
from pellucid.errors import BadInput, OptionError, nearest
from pellucid.sample import Facts, Sample

KINDS = ("fundus",)
MARKERS = ("none", "letter")
SPLITS = ("train", "val", "test")
CLASSES = ("healthy", "lesion")


@dataclass(frozen=True)
class Recipe:
    """One picture, written down: calling it renders the sample. Every decision is explicit, so a changed recipe
    renders the same scene with that one thing changed. It pickles in a few hundred bytes.

    patient, image: roots of chance. ill: whether the scene has lesions; drop: those left out. marker: whether
    the letter is shown; None where the set has no marker.
    """

    patient: int
    image: int
    size: int
    knobs: Knobs
    ill: bool
    marker: bool | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    group: str
    drop: frozenset[int] = frozenset()

    def scene(self) -> fundus.Scene:
        return fundus.scene(self.patient, self.image, self.size, self.knobs, self.ill)

    def picture(self) -> Array:
        """The picture `(3, size, size)`, 0 to 1, before normalisation."""
        return fundus.render(self.scene(), self.drop, bool(self.marker))

    def __call__(self) -> Sample:
        scene, picture = self.scene(), self.picture()
        zones = {k: torch.from_numpy(v) for k, v in scene.zones(self.drop).items()}
        left = [k for k in range(len(scene.lesions)) if k not in self.drop]
        mask = torch.zeros(self.size, self.size, dtype=torch.bool)
        for k in left:
            mask |= zones[f"lesion:{k}"]
        if self.marker is None:
            del zones["marker"]
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        return Sample(
            input=torch.from_numpy((picture - mean) / std),
            label=int(bool(left)),
            mask=mask,
            zones=zones,
            name=self.name,
            group=self.group,
            image=np.ascontiguousarray(
                (picture * np.float32(255) + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)
            ),
            meta={**scene.latent(self.drop), "marker": bool(self.marker), "patient": self.patient, "image": self.image},
            alternatives=self._alternatives(left),
        )

    def _alternatives(self, left: Sequence[int]) -> dict[str, Callable[[], Sample]]:
        changed: dict[str, Callable[[], Sample]] = {
            f"without lesion:{k}": replace(self, drop=self.drop | {k}) for k in left
        }
        if left:
            changed["without lesions"] = replace(self, drop=self.drop | set(left))
        if self.marker is not None:
            changed["without marker"] = replace(self, marker=False)
            changed["with marker"] = replace(self, marker=True)
        return changed


@dataclass(frozen=True)
class LesionLab:
    """Synthetic fundus images with exact lesion masks and exact counterfactuals. Not realistic medicine.

    n_images: how many; a larger set starts with the smaller one. size: side in pixels, a multiple of 32 from 64 to
    1024. preset: "easy" or "hard"; knobs: what to change of it (see `Knobs`). marker "letter" plants a laterality letter with
    P(letter | lesion) = .5 + rho / 2 and P(letter | healthy) = .5 - rho / 2. split: "train", "val" or "test", with
    no patient in common. normalise: (mean, std) per channel; None: the constants of the kind.

    Samples carry the union of the lesions as mask (all False where healthy); zones "field", "distractors", "marker" (its place,
    shown or not), "lesion:k" and "effect:k" (all pixels that lesion k can change); alternatives "without lesion:k",
    "without lesions", "without marker", "with marker". Raises `OptionError` for impossible options.
    """

    kind: str = "fundus"
    n_images: int = 1000
    size: int = 128
    seed: int = 0
    preset: str = "easy"
    rho: float = 0.0
    marker: str = "none"
    split: str = "train"
    knobs: Knobs | Mapping[str, Any] | None = None
    normalise: tuple[Sequence[float], Sequence[float]] | None = None

    classes = CLASSES

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, KINDS),
            ("marker", self.marker, MARKERS),
            ("split", self.split, SPLITS),
        ):
            if value not in known:
                raise OptionError(f"LesionLab has no {name} '{value}'.", hint=nearest(value, known))
        demand(self.n_images >= 1, "n_images", self.n_images, "at least 1")
        demand(64 <= self.size <= 1024 and self.size % 32 == 0, "size", self.size, "a multiple of 32 from 64 to 1024")
        demand(self.seed >= 0, "seed", self.seed, "0 or more")
        demand(-1 <= self.rho <= 1, "rho", self.rho, "between -1 and 1")
        demand(self.rho == 0 or self.marker != "none", "rho", self.rho, "0 without a marker (or set marker=letter)")
        object.__setattr__(self, "knobs", knobs_from(self.preset, self.knobs))
        mean, std = self.normalise or (fundus.MEAN, fundus.STD)
        demand(len(mean) == len(std) == 3, "normalise", self.normalise, "two triples, mean and std")
        object.__setattr__(self, "normalise", (tuple(map(float, mean)), tuple(map(float, std))))

    @property
    def mean(self) -> tuple[float, ...]:
        return tuple(self.normalise[0])  # type: ignore[index]

    @property
    def std(self) -> tuple[float, ...]:
        return tuple(self.normalise[1])  # type: ignore[index]

    @cached_property
    def _patients(self) -> Array:
        """The patient of every image and its number within the patient, `(n_images, 2)`."""
        sizes = stream(derive(self.seed, self.kind, self.split), "patients").integers(1, 5, self.n_images)
        patient = np.repeat(np.arange(len(sizes)), sizes)[: self.n_images]
        first = np.concatenate([[0], np.cumsum(sizes)])[patient]
        return np.stack([patient, np.arange(self.n_images) - first], 1)

    def __len__(self) -> int:
        return self.n_images

    def recipe(self, index: int) -> Recipe:
        """How image `index` is rendered, without rendering it."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no image {index} among {len(self)}.")
        assert isinstance(self.knobs, Knobs)
        patient, number = (int(v) for v in self._patients[index])
        image = derive(self.seed, self.kind, self.split, patient, number)
        ill = bool(stream(image, "label").random() < self.knobs.prevalence)
        chance = 0.5 + (self.rho / 2 if ill else -self.rho / 2)
        group = f"{self.split}{self.seed}-p{patient:05d}"
        return Recipe(
            patient=derive(self.seed, self.kind, self.split, patient),
            image=image,
            size=self.size,
            knobs=self.knobs,
            ill=ill,
            marker=None if self.marker == "none" else bool(stream(image, "marker").random() < chance),
            mean=self.mean,
            std=self.std,
            name=f"{self.kind}-{group}-{number}",
            group=group,
        )

    def __getitem__(self, index: int) -> Sample:
        return self.recipe(index)()

    def facts(self, index: int) -> Facts:
        recipe = self.recipe(index)
        return Facts(recipe.name, int(recipe.ill), recipe.group)

    @cached_property
    def fingerprint(self) -> str:
        described = json.dumps({"generator": fundus.VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()


def lesionlab(source: str = "lesionlab:fundus", **options: Any) -> LesionLab:
    """LesionLab from a source such as "lesionlab:fundus" and the options of `LesionLab`.

    Knobs may be given beside them: `diameter=2`. Raises `BadInput` for an unknown kind, `OptionError` for an
    unknown option.
    """
    kind = source.partition(":")[2] or "fundus"
    if kind not in KINDS:
        raise BadInput(
            f"LesionLab cannot draw '{kind}'.", why=f"It draws {', '.join(KINDS)}.", hint=nearest(kind, KINDS)
        )
    known = [f for f in LesionLab.__dataclass_fields__ if f != "kind"]
    turned = list(Knobs.__dataclass_fields__)
    for name in options:
        if name not in known and name not in turned:
            raise OptionError(f"LesionLab has no option '{name}'.", hint=nearest(name, [*known, *turned]))
    knobs = {**(options.pop("knobs", None) or {}), **{k: options.pop(k) for k in turned if k in options}}
    return LesionLab(kind, knobs=knobs or None, **options)
