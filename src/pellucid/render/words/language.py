"""One language: its sentences, and how it writes numbers, counts, places and names of targets."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from pellucid import targets
from pellucid.targets import Target

Language = Literal["en", "de"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


class _Numbers(string.Formatter):
    """`str.format` with the decimal mark and the percent sign of a language."""

    def __init__(self, decimal: str, percent: str) -> None:
        self.marks = str.maketrans({".": decimal, "%": percent})

    def format_field(self, value: Any, format_spec: str) -> Any:
        written = format(value, format_spec)
        return written.translate(self.marks) if isinstance(value, float) else written


@dataclass(frozen=True)
class Words:
    """The sentences of a language, by their dotted names."""

    entries: Mapping[str, Any]

    def say(self, key: str, count: int | None = None, /, **values: Any) -> str:
        """A sentence with its values, by its key. count: chooses between `one` and `many` where it has both."""
        found: Any = self.entries
        for part in key.split("."):
            found = found[part]
        if count is not None:
            found = found["one" if count == 1 else "many"]
        return _Numbers(**self.entries["numbers"]).vformat(found, (), values)

    def count(self, n: int) -> str:
        """A count, in a word where there is one."""
        return str(self.entries["counts"].get(n, n))

    def place(self, name: str) -> str:
        """Where a region lies (`spatial.place_name`)."""
        known: Mapping[str, str] = self.entries["places"]
        return ", ".join(known.get(part, part) for part in name.split(", ")) if known else name

    def has_sides(self, place: str) -> bool:
        """Whether a place's name speaks of left or right, which are the picture's and not a patient's."""
        return any(self.place(side) in place for side in ("left", "right"))

    def inside(self, rank: int) -> str:
        """In what the places are: a recording, a picture, a volume."""
        return str(self.entries["inside"][rank])

    def probability(self, p: float, form: str) -> str:
        """A probability to the digits of a format; what would round to 0 or 1 without being it is told by a limit."""
        written = format(p, form)
        digits = len(written.rstrip("%").partition(".")[2]) + 2 * written.endswith("%")
        step = 10.0**-digits
        if 1 - step / 2 <= p < 1:
            return self.say("more_than", limit=self._written(1 - step, form))
        if 0 < p <= step / 2:
            return self.say("less_than", limit=self._written(step, form))
        return self._written(p, form)

    def _written(self, value: float, form: str) -> str:
        return str(_Numbers(**self.entries["numbers"]).format_field(value, form))

    # --- targets ------------------------------------------------------------------------------------------------------

    def target(self, target: Target, classes: Sequence[str] | None) -> str:
        """What `target.describe` says of the first input, in this language."""
        if isinstance(target, targets.ContrastTarget):
            return self.against(self.class_name(target.a, classes), self.class_name(target.b, classes))
        if isinstance(target, targets.OneVsRestTarget):
            return self.against(self.class_name(target.classes, classes), self.say("names.rest"))
        if isinstance(target, targets.RegionTarget | targets.BoxTarget):
            where = "region" if isinstance(target, targets.RegionTarget) else "box"
            return self.say(f"names.{where}", name=self.class_name(target.index, classes))
        if isinstance(target, targets.SimilarityTarget):
            return self.say("names.similarity", measure=target.measure)
        return self.subject(target, classes)

    def subject(self, target: Target, classes: Sequence[str] | None) -> str:
        """The class or output that a target speaks for, without what it is held against."""
        if isinstance(target, targets.ContrastTarget):
            return self.class_name(target.a, classes)
        if isinstance(target, targets.ClassTarget | targets.OneVsRestTarget):
            return self.class_name(target.classes, classes)
        if isinstance(target, targets.SingleLogitTarget):
            return self._answer(target, classes)
        if isinstance(target, targets.RegressionTarget):
            return classes[target.index] if classes else self.say("names.output", number=target.index)
        return self.target(target, classes) if isinstance(target, _PLACES) else target.describe(classes)

    def against(self, a: str, b: str) -> str:
        """One thing held against another."""
        return self.say("names.against", a=a, b=b)

    def class_name(self, index: int | Tensor | None, classes: Sequence[str] | None) -> str:
        """What a class is called, of the first input."""
        if index is None:
            return self.say("names.predicted")
        number = int(index.reshape(-1)[0]) if isinstance(index, Tensor) else int(index)
        known = classes is not None and number < len(classes)
        return classes[number] if classes is not None and known else self.say("names.class", number=number)

    def _answer(self, target: targets.SingleLogitTarget, classes: Sequence[str] | None) -> str:
        if target.positive is None:
            return self.say("names.answer")
        positive = bool(target.positive.reshape(-1)[0] if isinstance(target.positive, Tensor) else target.positive)
        if classes is not None and len(classes) == 2:
            return classes[int(positive)]
        name = classes[0] if classes else self.say("names.positive")
        return name if positive else self.say("names.negation", name=name)


_PLACES = (targets.RegionTarget, targets.BoxTarget, targets.SimilarityTarget)


@cache
def words(language: str) -> Words:
    """The words of a language."""
    import yaml

    return Words(yaml.safe_load((Path(__file__).parent / f"{language}.yaml").read_text(encoding="utf-8")))
