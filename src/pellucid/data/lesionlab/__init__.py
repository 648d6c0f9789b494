"""LesionLab: synthetic pictures whose lesions, markers and causal effects are known exactly."""

from pellucid.data.lesionlab.dataset import LesionLab, Recipe, lesionlab
from pellucid.data.lesionlab.knobs import LESION_TYPES, PRESETS, Knobs

__all__ = ["LESION_TYPES", "PRESETS", "Knobs", "LesionLab", "Recipe", "lesionlab"]
