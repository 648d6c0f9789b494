"""What can be turned: how many lesions, how large, how plain, among how many distractors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pellucid.errors import OptionError, nearest

LESION_TYPES = ("microaneurysm", "haemorrhage", "hard_exudate", "cotton_wool")


def demand(holds: bool, name: str, value: Any, wanted: str) -> None:
    """Refuse an option whose value cannot be."""
    if not holds:
        raise OptionError(
            f"LesionLab's {name} is {value!r}.", why=f"It must be {wanted}.", hint=f"Give {name}=... accordingly."
        )


@dataclass(frozen=True)
class Knobs:
    """How difficult the pictures are.

    prevalence: probability of any lesion. lesions: fewest and most lesions of an image that has some.
    diameter: scale of the lesions' size, 1 being that of the specification. contrast: the share of the
    lesion's colour at its core, 0 to 1. types: which lesions occur, equally often. distractors: mean number of things that
    are no lesions; they do not depend on the label.
    """

    prevalence: float = 0.5
    lesions: tuple[int, int] = (2, 6)
    diameter: float = 1.0
    contrast: float = 1.0
    types: tuple[str, ...] = LESION_TYPES
    distractors: float = 3.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lesions", tuple(self.lesions))
        object.__setattr__(self, "types", tuple(self.types))
        few, many = self.lesions
        demand(0 <= self.prevalence <= 1, "prevalence", self.prevalence, "between 0 and 1")
        demand(1 <= few <= many <= 20, "lesions", self.lesions, "a range within 1 to 20")
        demand(0.1 <= self.diameter <= 4, "diameter", self.diameter, "between 0.1 and 4")
        demand(0 < self.contrast <= 1, "contrast", self.contrast, "above 0 and at most 1")
        demand(0 <= self.distractors <= 30, "distractors", self.distractors, "between 0 and 30")
        demand(len(self.types) > 0, "types", self.types, "at least one lesion type")
        for kind in self.types:
            if kind not in LESION_TYPES:
                raise OptionError(f"There is no lesion type '{kind}'.", hint=nearest(kind, LESION_TYPES))


PRESETS: Mapping[str, Knobs] = {
    "easy": Knobs(),
    "hard": Knobs(lesions=(1, 3), diameter=0.55, contrast=0.85, distractors=6.0),
}


def knobs_from(preset: str, changes: Knobs | Mapping[str, Any] | None) -> Knobs:
    """A preset with some knobs turned; unknown names are refused with the nearest known one."""
    if isinstance(changes, Knobs):
        return changes
    if preset not in PRESETS:
        raise OptionError(f"There is no preset '{preset}'.", hint=nearest(preset, PRESETS))
    known = [f.name for f in fields(Knobs)]
    for name in changes or {}:
        if name not in known:
            raise OptionError(f"LesionLab has no knob '{name}'.", hint=nearest(name, known))
    return replace(PRESETS[preset], **(changes or {}))
