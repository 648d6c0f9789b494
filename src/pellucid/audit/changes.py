"""What is new since an earlier audit: what was audited, and which figures moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import nan
from pathlib import Path
from typing import Any

from pellucid import files
from pellucid.errors import BadInput
from pellucid.record import Interval
from pellucid.reporting.audit import Figure

Change = tuple[str, str, str, str]  # what, then, now, how they differ


def read_earlier(path: Path) -> Mapping[str, Any]:
    """An earlier audit.json. Raises `BadInput` for anything else."""
    found = files.read_json(path)
    if not isinstance(found, dict) or not {"format", "made", "hashes", "figures"} <= found.keys():
        raise BadInput(
            f"{path} is no audit.", why="An audit.json is needed.", hint="Name the file that an earlier audit wrote.", path=path
        )  # fmt: skip
    return found


def changes(before: Mapping[str, Any], hashes: Mapping[str, str], figures: Mapping[str, Figure]) -> Iterator[Change]:
    """The digests that differ, then the figures that differ in the digits shown."""
    for name, digest in hashes.items():
        old = before["hashes"].get(name)
        if old is not None and old != digest:
            yield name, old[:16], digest[:16], "changed"
    for key in dict.fromkeys((*before["figures"], *figures)):
        then, now = _interval(before["figures"].get(key)), figures[key].interval if key in figures else None
        if str(then) != str(now):
            yield key, str(then or ""), str(now or ""), _difference(then, now)


def _difference(then: Interval | None, now: Interval | None) -> str:
    if then is None or now is None:
        return "gone" if now is None else "new"
    return "intervals do not touch" if then.low > now.high or then.high < now.low else "within the intervals"


def _interval(stored: Mapping[str, Any] | None) -> Interval | None:
    if stored is None:
        return None
    mean, low, high = (nan if stored[k] is None else float(stored[k]) for k in ("mean", "low", "high"))
    return Interval(mean, low, high, int(stored["n"]), int(stored["groups"]))
