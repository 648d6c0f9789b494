"""LesionLab: synthetic pictures whose lesions, markers and causal effects are known exactly."""

from pellucid.data.lesionlab.dataset import LesionLab, lesionlab
from pellucid.data.lesionlab.knobs import DISTRACTOR_TYPES, KINDS, LESION_TYPES, PRESETS, Knobs
from pellucid.data.lesionlab.marker import MARKERS
from pellucid.data.lesionlab.recipe import Recipe

__all__ = [
    "DISTRACTOR_TYPES",
    "KINDS",
    "LESION_TYPES",
    "MARKERS",
    "PRESETS",
    "Knobs",
    "LesionLab",
    "Recipe",
    "lesionlab",
]
