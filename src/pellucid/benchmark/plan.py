"""How much of everything the benchmark does, and on which data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from typing import Any

from pellucid.data.lesionlab import KINDS, LesionLab
from pellucid.errors import OptionError, nearest
from pellucid.sample import Dataset, Facts, Sample, Subset

METHODS = ("evidence", "grad_cam", "saliency", "input_x_gradient", "integrated_gradients", "guided_backprop", "occlusion")  # fmt: skip
MORE_METHODS = (*METHODS, "layer_cam", "grad_cam_plus_plus", "eigen_cam", "smooth_grad", "deconvnet", "guided_grad_cam", "lrp", "rise", "score_cam")  # fmt: skip

# What may stand in the headline: a metric and its part. Which of them do is found out.
LOCALISATION = (
    ("pointing_game", ""), ("pointing_game", "cells"), ("relevance_mass", ""), ("relevance_mass", "cells"),
    ("relevance_rank", ""), ("relevance_rank", "cells"), ("auprc", ""), ("auprc", "cells"),
    ("top_k_precision", ""), ("iou", "at_0.5"), ("iou", "cells_at_0.5"), ("activation_sensitivity", ""), ("activation_sensitivity", "cells"),
)  # fmt: skip
FAITHFULNESS = (
    ("deletion", "log_odds"), ("deletion", "probability"), ("insertion", "log_odds"), ("insertion", "probability"),
    ("exact_comprehensiveness", "log_odds"), ("comprehensiveness", "log_odds"), ("sufficiency", "log_odds"), ("road", "log_odds"), ("pixel_flipping", "log_odds"),
    ("infidelity", "rescaled"), ("faithfulness_correlation", "log_odds"), ("average_drop", ""), ("increase_in_confidence", ""),
)  # fmt: skip
CANDIDATES = (*LOCALISATION, *FAITHFULNESS)
# What is scored on the cells that every map has by itself, too.
OWN = (("pointing_game", ""), ("auprc", ""), ("relevance_mass", ""), ("effect_agreement", ""))
# What remedies are judged by.
REMEDIED = (("pointing_game", ""), ("auprc", ""), ("relevance_mass", ""))

RHOS = (0.0, 0.5, 0.8, 0.95, 1.0)
STRIDE = 16  # of the coarse network, pixels
DIAMETERS = (1.0, 0.5, 0.25, 0.15)  # of the lesions shown to it, in strides
GRADED = "oct"  # the kind whose classes have lesions of their own


@dataclass(frozen=True)
class Plan:
    """All that decides the results.

    kinds: of LesionLab's pictures. trainings: how often a network is trained, each time from another start and on other
    patients; ladders: in how many of these also the networks of the remedies, with large cells, with several classes and with a
    planted letter. size: side of the pictures. images, epochs: of each network; tuning_epochs: with the penalty, afterwards;
    letter_images, letter_epochs: of each network that sees a planted letter. tested_images: held out, for predictions;
    scored_images: held out, one of each patient and all with lesions, for explanations. methods: whose maps are scored.
    rhos: strengths of the letter, from none up. passes: how many changed copies of an input the costlier metrics look at.
    """

    kinds: tuple[str, ...] = ("fundus",)
    trainings: int = 5
    ladders: int = 3
    size: int = 128
    images: int = 800
    epochs: int = 8
    tuning_epochs: int = 2
    letter_images: int = 400
    letter_epochs: int = 6
    tested_images: int = 200
    scored_images: int = 10
    methods: tuple[str, ...] = METHODS
    rhos: tuple[float, ...] = RHOS
    passes: int = 12
    seed: int = 0

    @property
    def networks(self) -> int:
        """How many are trained: for every kind a black box, its sparse successor, and in a ladder a coarse one and one per
        strength of the letter; and one with several classes.
        """
        return 2 * self.trainings * len(self.kinds) + self.ladders * (len(self.kinds) * (1 + len(self.rhos)) + 1)

    def data(self, kind: str, split: str, n_images: int, training: int = 0, **more: Any) -> LesionLab:
        """Pictures; other patients for every training, always the same ones to test on."""
        seed = self.seed + (training if split == "train" else 0)
        return LesionLab(kind, n_images=n_images, size=self.size, seed=seed, split=split, **more)

    def ill(self, kind: str, knobs: Mapping[str, Any] | None = None, **more: Any) -> Dataset:
        """The held-out pictures that explanations are scored on: all with lesions, so that there is a truth; one of each
        patient, so that they are independent.
        """
        most = 4 * self.scored_images  # a patient has up to four
        data = self.data(kind, "test", most, knobs={"prevalence": 1.0, **(knobs or {})}, **more)
        first = {data.facts(i).group: i for i in reversed(range(most))}
        return Remembered(Subset(data, tuple(sorted(first.values())[: self.scored_images])))

    def lettered(self, kind: str, training: int, rho: float) -> LesionLab:
        """Pictures with a letter that gives the label away as far as rho says."""
        return self.data(kind, "train", self.letter_images, training, marker="letter", rho=rho)

    def small_lesions(self, kind: str, training: int) -> Dataset:
        """Lesions of every diameter, in equal numbers."""
        parts = tuple(
            LesionLab(
                kind,
                n_images=self.images // len(DIAMETERS),
                size=self.size,
                seed=1000 * (k + 1) + self.seed + training,
                knobs=of_diameter(diameter),
            )
            for k, diameter in enumerate(DIAMETERS)
        )
        return Together(parts)

    def options(self) -> dict[str, dict[str, Any]]:
        """Of methods and metrics. The pointing game's usual 15 pixels at 512, and removal by blur: grey squares are
        themselves a sight to the network."""
        return {
            "pointing_game": {"tolerance": 15 * self.size / 512},
            "deletion": {"baseline": "blur"},
            "comprehensiveness": {"baseline": "blur"},
            "pixel_flipping": {"baseline": "blur", "patch": self.size // 16, "at_once": 256 // self.passes},
            "road": {"shares": (0.1,)},
            "infidelity": {"samples": self.passes},
            "faithfulness_correlation": {"subsets": self.passes},
            "integrated_gradients": {"steps": self.passes},
        }


def of_diameter(diameter: float) -> dict[str, Any]:
    """The knobs that make all lesions of one diameter, in strides of the coarse network."""
    return {"diameter_over_stride": diameter, "stride": STRIDE}


PRESETS: Mapping[str, Plan] = {
    "small": Plan(),
    "full": Plan(
        kinds=KINDS, ladders=5, size=256, images=2000, epochs=16, tuning_epochs=4, letter_images=2000, letter_epochs=8, tested_images=1000,
        scored_images=200, methods=MORE_METHODS, passes=64,
    ),
}  # fmt: skip


def planned(preset: str, modality: str | None = None, trainings: int | None = None, seed: int = 0) -> Plan:
    """A preset with some of it changed. modality: a kind of pictures, or "all"."""
    if preset not in PRESETS:
        raise OptionError(f"There is no preset '{preset}'.", hint=nearest(preset, PRESETS))
    plan = replace(PRESETS[preset], seed=seed)
    if modality is not None:
        if modality not in (*KINDS, "all"):
            raise OptionError(f"LesionLab draws no '{modality}'.", hint=nearest(modality, (*KINDS, "all")))
        plan = replace(plan, kinds=KINDS if modality == "all" else (modality,))
    if trainings is not None:
        plan = replace(plan, trainings=trainings, ladders=min(plan.ladders, trainings))
    return plan


@dataclass(frozen=True)
class Together:
    """Several data sets of the same classes as one."""

    parts: tuple[LesionLab, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.parts[0].classes

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def _at(self, index: int) -> tuple[LesionLab, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)

    def __getitem__(self, index: int) -> Sample:
        part, place = self._at(index)
        return part[place]

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def facts(self, index: int) -> Facts:
        part, place = self._at(index)
        return part.facts(place)

    @property
    def fingerprint(self) -> str:
        return sha256(":".join(part.fingerprint for part in self.parts).encode()).hexdigest()


@dataclass(frozen=True)
class Remembered:
    """The same data, where what a sample is rendered without is rendered once for all maps of that sample."""

    data: Dataset

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.classes

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        return sample.changed(alternatives={name: cache(recipe) for name, recipe in sample.alternatives.items()})

    def facts(self, index: int) -> Facts:
        return self.data.facts(index)
