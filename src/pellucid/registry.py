"""Rows of the registries: facts about a leaf, and the leaf itself on first use.

A registry is a plain dict from name to row, written out in the package's `__init__`. Nothing here imports torch, so
`--help`, menus and generated tables can read the facts without loading what they describe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from pellucid.errors import OptionError, nearest


@dataclass(frozen=True)
class Leaf:
    """One row: where the leaf lives ("package.module:name") and one line about it. Calling the row calls the leaf."""

    path: str
    summary: str

    def load(self) -> Any:
        module, _, name = self.path.partition(":")
        return getattr(import_module(module), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.load()(*args, **kwargs)


@dataclass(frozen=True)
class MethodRow(Leaf):
    """An attribution method: `(call, x, target, **options) -> Attribution`.

    needs: facts about the network ("evidence": a SoftCAM; "layer": a spatial layer; "gradient").
    space: "cells" of a feature map or "pixels" of the input. control: True for maps that know nothing.
    """

    paper: str = ""
    needs: frozenset[str] = frozenset()
    ranks: tuple[int, ...] = (1, 2, 3)
    space: str = "cells"
    complete: bool = False
    control: bool = False


@dataclass(frozen=True)
class MetricRow(Leaf):
    """A metric: a pure function of named arguments out of a `Case`, one value (or named parts) per input.

    property: what it measures (localisation, faithfulness, complexity, completeness).
    higher_is_better: None where neither direction is a virtue by itself.
    """

    paper: str = ""
    property: str = ""
    higher_is_better: bool | None = None
    parts: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class ReaderRow(Leaf):
    """A reader of data: `(source, **options) -> Dataset`.

    settings: dataclasses whose fields are options too, beside the reader's own keywords.
    """

    sources: str = ""
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PenaltyRow(Leaf):
    """A penalty on evidence: `(maps) -> scalar`, mean-normalised so that its strength carries over between resolutions."""

    formula: str = ""
    paper: str = ""


Row = TypeVar("Row", bound=Leaf)


def look_up(registry: Mapping[str, Row], name: str, kind: str) -> Row:
    """The row called `name`, or an `OptionError` that suggests the nearest one."""
    if name not in registry:
        raise OptionError(f"There is no {kind} called '{name}'.", hint=nearest(name, registry))
    return registry[name]


__all__ = ["Leaf", "MethodRow", "MetricRow", "PenaltyRow", "ReaderRow", "look_up"]
