"""LesionLab as a data set: patients with one to four images each, rendered when asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy import ndarray as Array

from pellucid.data.lesionlab import composition
from pellucid.data.lesionlab.knobs import KINDS, Knobs, demand, is_number, knobs_from, one_of
from pellucid.data.lesionlab.marker import MARKERS
from pellucid.data.lesionlab.recipe import Recipe
from pellucid.data.lesionlab.scene import Setting
from pellucid.data.lesionlab.streams import derive, stream
from pellucid.errors import BadInput, OptionError, nearest
from pellucid.sample import Facts, Sample

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LesionLab:
    """Synthetic fundus, OCT or X-ray images with exact lesion masks and exact counterfactuals. Not realistic medicine.

    n_images: how many; a larger set starts with the smaller one. size: side in pixels, a multiple of 32 from 64 to
    1024. preset: "easy", "medium" or "hard"; knobs: what to change of it (see `Knobs`). split: "train", "val" or "test",
    with no patient in common. labels: "binary", or "graded" for the classes of the kind.
    marker: a planted shortcut, "letter", "tag", "ruler", "gamma", "blur" or "device", with
    P(marker | label 1) = .5 + rho / 2 and P(marker | label 0) = .5 - rho / 2.
    grey: one channel instead of three alike. normalise: (mean, std) per channel; None: the constants of the kind.

    Samples carry the union of the lesions as mask (all False where there are none); zones "field", "distractors", "marker"
    (its place, shown or not; none for gamma and blur), "lesion:k", "distractor:k", "background:j", "suppressor", and
    "effect:k" (all pixels that lesion k can change); alternatives "without ZONE" for each of these parts (a background
    is drawn anew), "without lesions", "only lesion:k", "with marker", "with the other marker". Raises `OptionError` for impossible options.
    """

    kind: str = "fundus"
    n_images: int = 1000
    size: int = 128
    seed: int = 0
    preset: str = "easy"
    rho: float = 0.0
    marker: str = "none"
    split: str = "train"
    labels: str = "binary"
    grey: bool = False
    knobs: Knobs | Mapping[str, Any] | None = None
    normalise: tuple[Sequence[float], Sequence[float]] | None = None

    def __post_init__(self) -> None:
        one_of("kind", self.kind, KINDS)
        one_of("marker", self.marker, ("none", *MARKERS))
        one_of("split", self.split, SPLITS)
        one_of("labels", self.labels, composition.LABELS)
        demand(is_number(self.n_images, 1, whole=True), "n_images", self.n_images, "a whole number from 1 on")
        square = is_number(self.size, 64, 1024, whole=True) and self.size % 32 == 0
        demand(square, "size", self.size, "a multiple of 32 from 64 to 1024")
        demand(is_number(self.seed, 0, whole=True), "seed", self.seed, "a whole number from 0 on")
        demand(is_number(self.rho, -1, 1), "rho", self.rho, "a number from -1 to 1")
        demand(self.rho == 0 or self.marker != "none", "rho", self.rho, "0 without a marker (or set marker=letter)")
        demand(
            not self.grey or self.kind != "fundus",
            "grey",
            self.grey,
            "false for fundus, whose lesions are told by colour",
        )
        knobs = knobs_from(self.preset, self.knobs)
        knobs.check(self.kind)
        plain = knobs.rule == "or" and knobs.cue == "natural" and knobs.types is None
        demand(plain or self.labels == "binary", "labels", self.labels, "binary with a rule, a cue or types of its own")
        object.__setattr__(self, "knobs", knobs)
        object.__setattr__(self, "normalise", self._constants())

    def _constants(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation per channel."""
        channels, generator = 1 if self.grey else 3, self._generator
        usual = ((values * channels)[:channels] for values in (generator.MEAN, generator.STD))
        try:
            mean, std = (tuple(map(float, values)) for values in (self.normalise or usual))
        except (TypeError, ValueError):
            mean = std = ()
        fits = len(mean) == len(std) == channels and np.isfinite([mean, std]).all() and min(std) > 0
        demand(bool(fits), "normalise", self.normalise, f"mean and std, {channels} of each, std above 0")
        return mean, std

    @property
    def _generator(self) -> Any:
        return import_module(f"pellucid.data.lesionlab.{self.kind}")

    @property
    def classes(self) -> tuple[str, ...]:
        return composition.classes_of(self.kind, self.labels)

    @property
    def mean(self) -> tuple[float, ...]:
        return tuple(self.normalise[0])  # type: ignore[index]

    @property
    def std(self) -> tuple[float, ...]:
        return tuple(self.normalise[1])  # type: ignore[index]

    @cached_property
    def _setting(self) -> Setting:
        assert isinstance(self.knobs, Knobs)
        return Setting(self.kind, self.size, self.knobs, self.marker, self.labels)

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
        knobs = self._setting.knobs
        patient, number = (int(v) for v in self._patients[index])
        image = derive(self.seed, self.kind, self.split, patient, number)
        ill = bool(stream(image, "label").random() < knobs.prevalence)
        chance = 0.5 + (self.rho / 2 if ill else -self.rho / 2)
        group = f"{self.split}{self.seed}-p{patient:05d}"
        return Recipe(
            setting=self._setting,
            patient=derive(self.seed, self.kind, self.split, patient),
            image=image,
            ill=ill,
            marker=None if self.marker == "none" else bool(stream(image, "marker").random() < chance),
            mean=self.mean,
            std=self.std,
            name=f"{self.kind}-{group}-{number}",
            group=group,
            wrong=composition.mislabelled(image, knobs, self.labels, self.kind) if knobs.label_noise else 0,
        )

    def __getitem__(self, index: int) -> Sample:
        return self.recipe(index)()

    def facts(self, index: int) -> Facts:
        recipe = self.recipe(index)
        graded = self.labels == "graded" and recipe.ill
        right = composition.grade(recipe.image, self.kind) if graded else int(recipe.ill)
        return Facts(recipe.name, (right + recipe.wrong) % len(self.classes), recipe.group)

    @cached_property
    def fingerprint(self) -> str:
        described = json.dumps({"generator": self._generator.VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()


def lesionlab(source: str = "lesionlab:fundus", **options: Any) -> LesionLab:
    """LesionLab from a source such as "lesionlab:xray" and the options of `LesionLab`.

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
    knobs = knobs_from(options.get("preset", "easy"), options.pop("knobs", None))
    return LesionLab(kind, knobs=replace(knobs, **{k: options.pop(k) for k in turned if k in options}), **options)
