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
    several: several targets come from the same passes; else each has its own.
    paper, equation: where it comes from, and where in there.
    """

    paper: str = ""
    equation: str = ""
    needs: frozenset[str] = frozenset()
    ranks: tuple[int, ...] = (1, 2, 3)
    space: str = "cells"
    complete: bool = False
    control: bool = False
    several: bool = False


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

    property: what it measures (localisation, faithfulness, robustness, randomisation, complexity, completeness,
    consistency). higher_is_better: None where neither direction is a virtue by itself. aliases: its other names.
    """

    paper: str = ""
    property: str = ""
    higher_is_better: bool | None = None
    parts: tuple[str, ...] = ("",)
    aliases: tuple[str, ...] = ()


class Metrics(dict[str, MetricRow]):
    """Rows by name, written out; a row is found by its other names too, without being listed under them."""

    def __init__(self, rows: Mapping[str, MetricRow]) -> None:
        super().__init__(rows)
        self.aliases = {alias: name for name, row in rows.items() for alias in row.aliases}

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.aliases

    def __missing__(self, name: str) -> MetricRow:
        return self[self.aliases[name]]

    def own_name(self, name: str) -> str:
        """The name that a metric is listed and recorded under; a name that is no alias stays."""
        return self.aliases.get(name, name)


@dataclass(frozen=True)
class SummaryLeaf(Leaf):
    """A score of a whole table: `(table, **options) -> list of Finding`.

    property: what it says something about, as for metrics ("stability": about the table itself).
    higher_is_better: None where neither direction is a virtue by itself.
    """

    paper: str = ""
    property: str = ""
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class ViewRow(Leaf):
    """A view of the network itself: `(model, ..., **options) -> numbers that can be drawn`.

    needs: "input" (what the network is given, or for `activation_maximisation` something of its shape), "target" (what
    the output is asked for), "layer" (some kind of layer, by default one that the view finds).
    """

    paper: str = ""
    needs: frozenset[str] = frozenset()
    ranks: tuple[int, ...] = (1, 2, 3)


@dataclass(frozen=True)
class ReaderRow(Leaf):
    """A reader of data: `(source, **options) -> Dataset`.

    settings: dataclasses whose fields are options too, beside the reader's own keywords. parts: those of a published
    split, which the reader's option `split` chooses among, or "all".
    """

    sources: str = ""
    settings: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class PenaltyRow(Leaf):
    """A penalty on evidence: `(maps) -> scalar`, mean-normalised so that its strength carries over between resolutions."""

    formula: str = ""
    paper: str = ""


Row = TypeVar("Row", bound=Leaf)


def look_up(registry: Mapping[str, Row], name: str, kind: str) -> Row:
    """The row called `name`, or an `OptionError` that suggests the nearest one."""
    if name not in registry:
        known = [*registry, *getattr(registry, "aliases", ())]
        raise OptionError(f"There is no {kind} called '{name}'.", hint=nearest(name, known))
    return registry[name]


__all__ = [
    "AdapterRow", "Leaf", "MethodRow", "Methods", "MetricRow", "Metrics", "PenaltyRow", "ReaderRow", "SummaryLeaf", "ViewRow", "look_up",
]  # fmt: skip
