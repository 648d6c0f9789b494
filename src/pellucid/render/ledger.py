"""A ledger in print: rounded rows whose printed numbers add up to the printed sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any

PLACES = 4


@dataclass(frozen=True)
class PrintedRow:
    """One row as text."""

    what: str
    value: str
    where: str


@dataclass(frozen=True)
class PrintedLedger:
    """`total` is the sum of the rows as printed; `score` is the network's own, rounded once.

    The two may differ in the last digits, by half a unit per row, since every row is rounded by itself.
    """

    target: str
    rows: tuple[PrintedRow, ...]
    total: str
    score: str


def printed(ledger: Mapping[str, Any]) -> PrintedLedger:
    """What `Ledger.as_dict()` gives, ready for print."""
    rows = tuple(
        PrintedRow(r["what"], signed(r["value"]), _where(r["value"], r.get("where", ""))) for r in ledger["rows"]
    )
    total = (
        "not defined"
        if any(r.value == "not defined" for r in rows)
        else _plus(sum((Decimal(r.value) for r in rows), Decimal(0)))
    )
    return PrintedLedger(ledger["target"], rows, total, signed(ledger["score"]))


def signed(value: float | None) -> str:
    """A number with its sign and four decimals; zero has no sign of its own."""
    if value is None or not isfinite(value):
        return "not defined"
    return _plus(Decimal(f"{value:.{PLACES}f}"))


def _plus(number: Decimal) -> str:
    return f"{number + 0:+.{PLACES}f}".replace("-0.0000", "+0.0000")


def _where(value: float | None, where: str) -> str:
    """A value that rounds to nothing is told in full beside its row."""
    if value and isfinite(value) and abs(value) < 0.5 * 10**-PLACES:
        return f"{where} ({value:+.1e})".strip()
    return where
