"""What can be turned: how many lesions, how large, how plain, among how many distractors, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf
from numbers import Integral, Real
from typing import Any

from pellucid.errors import OptionError, nearest

KINDS = ("fundus", "oct", "xray")
LESION_TYPES: Mapping[str, tuple[str, ...]] = {
    "fundus": ("microaneurysm", "haemorrhage", "hard_exudate", "cotton_wool", "flame_haemorrhage"),
    "oct": ("druse", "cyst", "subretinal_fluid", "pigment_epithelium_detachment"),
    "xray": ("consolidation", "nodule", "effusion", "pneumothorax"),
}
DISTRACTOR_TYPES: Mapping[str, tuple[str, ...]] = {
    "fundus": ("pale_dot", "reflection", "dust", "vessel_crossing"),
    "oct": ("vessel_shadow", "motion_tear"),
    "xray": ("electrode", "nipple", "hilum"),
}
_ON_REQUEST = ("flame_haemorrhage", "vessel_crossing")  # so that the usual pictures stay what they were
RULES = ("or", "count", "conjunction", "xor")
PRIORS = ("uniform", "anatomical", "fixed")
CUES = ("natural", "texture", "shape")


def demand(holds: bool, name: str, value: Any, wanted: str) -> None:
    """Refuse an option whose value cannot be."""
    if not holds:
        raise OptionError(
            f"LesionLab's {name} is {value!r}.", why=f"It must be {wanted}.", hint=f"Give {name}=... accordingly."
        )


def one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a word that is not among the known ones."""
    if value not in known:
        raise OptionError(f"LesionLab has no {name} '{value}'.", hint=nearest(str(value), known))


def _knob(default: Any, about: str, tests: str) -> Any:
    return field(default=default, metadata={"about": about, "tests": tests})


@dataclass(frozen=True)
class Knobs:
    """How difficult the pictures are. What each knob does, and what it tests, is in its field's metadata."""

    prevalence: float = _knob(0.5, "probability of the label 1 (of any other than the first, if graded)", "robustness")
    lesions: tuple[int, int] = _knob(
        (2, 6), "fewest and most lesions of an image that has some, within 1 to 20", "dilution by the mean"
    )
    diameter: float = _knob(1.0, "scale of the lesions' size, 0.1 to 4", "resolution")
    contrast: float = _knob(
        1.0, "opacity of the lesions, 0.01 to 1; in xray the share of their thickness", "sensitivity"
    )
    types: tuple[str, ...] | None = _knob(
        None, "which lesions occur, equally often; None: the usual ones of the kind", "all"
    )
    distractors: float = _knob(
        3.0, "mean number of things that are no lesions, whatever the label, 0 to 30", "specificity"
    )
    diameter_over_stride: float | None = _knob(
        None, "diameter of every lesion in strides instead of the usual sizes, 0.05 to 8", "resolution, registration"
    )
    stride: int = _knob(8, "pixels between the cells of the network under test, for diameter_over_stride", "resolution")
    contrast_to_noise: float | None = _knob(
        None,
        "the lesions' difference from what is under them over the deviation there, as far as an opacity of 1 allows, 0.05 to 20; takes the place of contrast",
        "sensitivity",
    )
    prior: str = _knob(
        "uniform",
        "where lesions lie: uniform in the tissue, anatomical, or fixed (all around one place)",
        "cheating by place",
    )
    distractor_types: tuple[str, ...] | None = _knob(
        None, "which distractors occur, equally often; None: the usual ones of the kind", "specificity"
    )
    rule: str = _knob(
        "or",
        "what makes the label 1: any lesion (or), at least `threshold` lesions (count), both of two types (conjunction), one of two types alone (xor)",
        "interactions",
    )
    threshold: int = _knob(3, "lesions from which on the rule count says 1, 1 to 20", "interactions")
    cue: str = _knob(
        "natural",
        "how lesions differ from decoys: natural (no decoys), by texture alone, or by shape alone; decoys are as frequent as lesions, whatever the label",
        "bias",
    )
    suppressor: float = _knob(
        0.0,
        "deviation of the log-brightness, 0 to 1, which a gauge in a corner tells and the label does not",
        "suppressors",
    )
    label_noise: float = _knob(0.0, "probability that the label given is a wrong one, 0 to 0.5", "robustness")
    camera: float = _knob(0.0, "how far the camera's colours or contrast are off, -1 to 1", "domain shift")
    gamma: float = _knob(1.0, "exponent on the brightness, 0.3 to 3", "domain shift")
    noise: float = _knob(1.0, "factor on the noise, 0 to 4", "domain shift")
    heart_width: tuple[float, float] = _knob(
        (0.40, 0.55), "range of the heart's share of the chest's width, 0.3 to 0.7 (xray)", "robustness"
    )

    def __post_init__(self) -> None:
        for name, (least, most) in _NUMBERS.items():
            object.__setattr__(self, name, _number(name, getattr(self, name), getattr(Knobs, name), least, most))
        for name in ("types", "distractor_types"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        for name, known in (("rule", RULES), ("prior", PRIORS), ("cue", CUES)):
            one_of(name, getattr(self, name), known)
        self._demand_what_fits()

    def _demand_what_fits(self) -> None:
        rule, cue, most = self.rule, self.cue, self.lesions[1]
        two = rule in ("conjunction", "xor")
        least = {"count": self.threshold, "conjunction": 2, "xor": 2}.get(rule, 1)
        demand(not two or len(self.types or ()) == 2, "types", self.types, f"exactly two with the rule {rule}")
        demand(most >= least, "lesions", self.lesions, f"up to {least} or more with the rule {rule}")
        demand(cue == "natural" or self.types is None, "types", self.types, f"left out with the cue {cue}")

    def lesion_types(self, kind: str) -> tuple[str, ...]:
        """The lesions that occur in pictures of this kind."""
        return self.types or tuple(t for t in LESION_TYPES[kind] if t not in _ON_REQUEST)

    def distractor_kinds(self, kind: str) -> tuple[str, ...]:
        """The distractors that occur in pictures of this kind."""
        return self.distractor_types or tuple(t for t in DISTRACTOR_TYPES[kind] if t not in _ON_REQUEST)

    def check(self, kind: str) -> None:
        """Refuse lesions and distractors that this kind of picture does not have."""
        for noun, asked, known in (
            ("lesion", self.types, LESION_TYPES[kind]),
            ("distractor", self.distractor_types, DISTRACTOR_TYPES[kind]),
        ):
            for name in asked or ():
                if name not in known:
                    raise OptionError(f"There is no {noun} type '{name}' in {kind}.", hint=nearest(name, known))


# The least and the largest value of each number.
_NUMBERS: Mapping[str, tuple[float, float]] = {
    "prevalence": (0, 1), "lesions": (1, 20), "diameter": (0.1, 4), "contrast": (0.01, 1), "distractors": (0, 30),
    "diameter_over_stride": (0.05, 8), "stride": (1, 64), "contrast_to_noise": (0.05, 20), "threshold": (1, 20),
    "suppressor": (0, 1), "label_noise": (0, 0.5), "camera": (-1, 1), "gamma": (0.3, 3), "noise": (0, 4),
    "heart_width": (0.3, 0.7),
}  # fmt: skip


def is_number(value: Any, least: float, most: float = inf, whole: bool = False) -> bool:
    """Whether a value is a number of this range, and an integer where only those will do."""
    wanted = Integral if whole else Real
    return isinstance(value, wanted) and value is not True and value is not False and least <= float(value) <= most


def _number(name: str, value: Any, usual: Any, least: float, most: float) -> Any:
    """A number, or two where the usual value is a range, as plain numbers; one number stands for both ends."""
    if usual is None and value is None:
        return None
    paired = isinstance(usual, tuple)
    given = tuple(value) if paired and isinstance(value, list | tuple) else (value,) * (1 + paired)
    kind = type(usual[0] if paired else 0.0 if usual is None else usual)
    fits = len(given) == 1 + paired and all(is_number(v, least, most, kind is int) for v in given)
    noun = {int: "a whole number", float: "a number"}[kind]
    demand(
        fits and given[0] <= given[-1], name, value, f"{noun} from {least:g} to {most:g}" + paired * ", or two in order"
    )
    plain = tuple(kind(v) for v in given)
    return plain if paired else plain[0]


def _names(name: str, value: Any) -> tuple[str, ...] | None:
    """Names as a tuple; a single one may stand alone."""
    if value is None:
        return None
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    demand(len(given) > 0 and all(isinstance(v, str) for v in given), name, value, "a list of names")
    return given


PRESETS: Mapping[str, Knobs] = {
    "easy": Knobs(),
    "medium": Knobs(lesions=(1, 4), diameter=0.75, contrast=0.92, distractors=4.5),
    "hard": Knobs(lesions=(1, 3), diameter=0.55, contrast=0.85, distractors=6.0),
}


def knobs_from(preset: str, changes: Knobs | Mapping[str, Any] | None) -> Knobs:
    """A preset with some knobs turned; unknown names are refused with the nearest known one."""
    if isinstance(changes, Knobs):
        return changes
    if preset not in PRESETS:
        raise OptionError(f"There is no preset '{preset}'.", hint=nearest(str(preset), PRESETS))
    demand(isinstance(changes, Mapping | None), "knobs", changes, "names with values")
    known = [f.name for f in fields(Knobs)]
    for name in changes or {}:
        if name not in known:
            raise OptionError(f"LesionLab has no knob '{name}'.", hint=nearest(name, known))
    return replace(PRESETS[preset], **(changes or {}))
