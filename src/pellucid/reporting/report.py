"""What a report says, as plain data. Whoever fills it in has done all calculation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pellucid.record import Comparison, Interval, PerformanceComparison, SummaryRow

LIMITS: tuple[str, ...] = (
    "A map shows what this network used, right or wrong. It does not show what causes the condition.",
    "Overlap with a mask is agreement with the annotator. A network may look elsewhere for a good reason, and may look at the right place for a wrong one.",
    "Evidence that adds up to the score says nothing about how much of the picture each cell looks at: a cell can see far beyond its own place.",
    "Intervals tell how the figures would vary with other patients of the same kind. They do not cover other training runs, other devices or other hospitals.",
    "Deleting or inserting parts of a picture makes pictures that the network has never seen; those scores compare methods and are no measure of truth.",
)


@dataclass(frozen=True)
class PerformanceRow:
    """One figure of prediction performance. note: what it rests on, such as "20 held-out patients"."""

    model: str
    metric: str
    interval: Interval
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """PNG, JPEG, WebP or SVG bytes with a label under them. alt: what a reader who cannot see it should know."""

    label: str
    data: bytes
    alt: str = ""


@dataclass(frozen=True)
class Case:
    """One input to look at.

    why: what it was chosen for ("worst", "typical", ...). pictures: the input and one overlay per method, all made at
    one colour scale per unit. ledger: `Ledger.as_dict()`. text: the decision in words. places: what a ledger's places
    count.
    """

    name: str
    why: str
    truth: str | None = None
    prediction: str | None = None
    probability: float | None = None
    model: str = ""
    pictures: tuple[Picture, ...] = ()
    ledger: Mapping[str, Any] | None = None
    text: str = ""
    places: str = "pixels"


@dataclass(frozen=True)
class ShortcutRow:
    """What a marker did to one network.

    rho: how strongly the marker went with the label in training. effect: change of the score when the marker is
    shown. zone_with, zone_without: signed evidence in the marker's zone. effects: single images, for the figure.
    """

    model: str
    rho: float
    effect: Interval
    zone_with: Interval | None = None
    zone_without: Interval | None = None
    contrast: Interval | float | None = None
    effects: tuple[float, ...] = ()


@dataclass(frozen=True)
class Shortcut:
    """A shortcut test with its verdict in plain words, given by whoever did it."""

    verdict: str
    rows: tuple[ShortcutRow, ...]
    about: str = ""
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class TreeBlock:
    """A decision tree over descriptors of evidence. picture: of the tree; text: the same in lines. rows: how it stands beside
    its network. usual: the share of the most frequent class. about: what was fitted to what.
    """

    picture: bytes
    text: str
    rows: tuple[tuple[str, Interval], ...]
    usual: float
    about: str


@dataclass(frozen=True)
class Report:
    """Everything on the page, in its order.

    controls: names of methods that know nothing of the decision. directions: metric -> True where higher is better,
    False where lower is, None where neither is. about: one line on a metric, method or model by its name.
    changes: paired differences of prediction performance between networks. curves: title -> series of one training run (name -> value per epoch). settings and hashes may be nested; what is
    blank prints as "not provided".
    """

    title: str
    subtitle: str = ""
    summary: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    performance: tuple[PerformanceRow, ...] = ()
    changes: tuple[PerformanceComparison, ...] = ()
    curves: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    scores: tuple[SummaryRow, ...] = ()
    controls: frozenset[str] = frozenset()
    directions: Mapping[str, bool | None] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    shortcut: Shortcut | None = None
    tree: TreeBlock | None = None
    cases: tuple[Case, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = LIMITS
    commands: tuple[str, ...] = ()
