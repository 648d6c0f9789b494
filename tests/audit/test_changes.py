"""What an audit says of an earlier one: the digests and figures that moved, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pellucid.audit.changes import changes, read_earlier
from pellucid.errors import BadInput
from pellucid.record import Interval
from pellucid.reporting.audit import Figure


def stored(mean: float, low: float | None, high: float | None) -> dict[str, object]:
    return {"mean": mean, "low": low, "high": high, "n": 10, "groups": 5}


def now(mean: float, low: float, high: float) -> Figure:
    return Figure("k", Interval(mean, low, high, 10, 5))


BEFORE = {
    "hashes": {"weights": "a" * 64, "data": "b" * 64, "old": "c" * 64},
    "figures": {"same": stored(0.5, 0.4, 0.6), "near": stored(0.5, 0.4, 0.6), "far": stored(0.5, 0.4, 0.6), "gone": stored(1, 1, 1), "open": stored(0.5, None, None)},
}  # fmt: skip
NOW = {
    "same": now(0.5000001, 0.4, 0.6),
    "near": now(0.55, 0.45, 0.65),
    "far": now(0.8, 0.7, 0.9),
    "new": now(0.1, 0.0, 0.2),
    "open": now(0.5, float("nan"), float("nan")),
}


def test_what_moved_and_how() -> None:
    found = list(changes(BEFORE, {"weights": "d" * 64, "data": "b" * 64, "code": "e" * 64}, NOW))
    assert found == [
        ("weights", "a" * 16, "d" * 16, "changed"),
        ("near", "0.500 [0.400, 0.600]", "0.550 [0.450, 0.650]", "within the intervals"),
        ("far", "0.500 [0.400, 0.600]", "0.800 [0.700, 0.900]", "intervals do not touch"),
        ("gone", "1.000 [1.000, 1.000]", "", "gone"),
        ("new", "", "0.100 [0.000, 0.200]", "new"),
    ]


def test_an_earlier_audit_is_read_and_nothing_else(tmp_path: Path) -> None:
    whole = {"format": 1, "made": "2026-01-01", **BEFORE}
    (tmp_path / "audit.json").write_text(json.dumps(whole))
    assert read_earlier(tmp_path / "audit.json") == whole
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(BadInput, match="is no audit"):
        read_earlier(tmp_path / "scores.json")
    with pytest.raises(BadInput):
        read_earlier(tmp_path / "none.json")
