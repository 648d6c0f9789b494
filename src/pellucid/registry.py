"""Rows of the registries: facts about a leaf, and the leaf itself on first use.

A registry is a plain dict from name to row, written out in the package's `__init__`. Nothing here imports torch, so
`--help`, menus and generated tables can read the facts without loading what they describe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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

    needs: facts about the network ("evidence": a SoftCAM; "layer": a spatial layer; "gradient"; "gates": functions that
    can be seen and given another way back).
    space: "cells" of a feature map or "pixels" of the input. control: True for maps that know nothing.
    """

    paper: str = ""
    needs: frozenset[str] = frozenset()
    ranks: tuple[int, ...] = (1, 2, 3)
    space: str = "cells"
    complete: bool = False
    control: bool = False


@dataclass(frozen=True)
class AdapterRow(MethodRow):
    """Methods of another library, each by its name there: "captum:DeepLift". The leaf makes the method of a name.

    member: the name; empty in the row that stands for all of them.
    """

    member: str = ""

    def load(self) -> Any:
        return super().load()(self.member)


class Methods(dict[str, MethodRow]):
    """Rows by name, written out; and by "library:NAME" what one of the adapters makes of it, without being listed."""

    def __init__(self, rows: Mapping[str, MethodRow], adapters: Mapping[str, AdapterRow]) -> None:
        super().__init__(rows)
        self.adapters = dict(adapters)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or self._adapted(name) is not None

    def __missing__(self, name: str) -> MethodRow:
        row = self._adapted(name)
        if row is None:
            raise KeyError(name)
        return row

    def _adapted(self, name: object) -> MethodRow | None:
        library, _, member = name.partition(":") if isinstance(name, str) else ("", "", "")
        row = self.adapters.get(library) if member else None
        return None if row is None else replace(row, member=member, summary=f"{member} of {library}")


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


__all__ = ["AdapterRow", "Leaf", "MethodRow", "Methods", "MetricRow", "PenaltyRow", "ReaderRow", "look_up"]
