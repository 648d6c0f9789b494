"""The demo runs, a second run gives the same bytes, and its verdict follows from its intervals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pellucid import demo
from pellucid.audit.effects import EffectSummary
from pellucid.demo import Plan, Shortcut
from pellucid.errors import OptionError
from pellucid.record import Interval, Table


def test_tiny_demo_repeats_to_the_byte(tmp_path: Path) -> None:
    said: list[str] = []
    first = demo.run(tmp_path / "demo", Plan.tiny(), say=said.append, processes=1)
    scores = tmp_path / "demo" / "evaluate" / "scores.json"
    before = scores.read_bytes()
    assert Table.from_json(scores) == first.table
    assert {r.method for r in first.table.records} == {*demo.METHODS, *demo.CONTROLS}
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert str(first.table.performance()[0].interval.n) in page
    shutil.rmtree(tmp_path / "demo" / "evaluate")
    demo.run(tmp_path / "demo", Plan.tiny(), say=said.append, processes=1)
    assert scores.read_bytes() == before
    with pytest.raises(OptionError, match="another demo"):
        demo.run(tmp_path / "demo", Plan.tiny(seed=1), say=said.append)


def shortcut(rho: float, low: float, high: float) -> Shortcut:
    change = Interval((low + high) / 2, low, high, 3, 3)
    return Shortcut(rho, EffectSummary(change, change, change, change), (low, high))


def test_verdict_rests_on_the_interval_of_the_measured_effect() -> None:
    block = demo._shortcut_block((shortcut(0.0, -0.1, 0.2), shortcut(0.9, 3.0, 5.0)))
    assert "rho = 0, networks are not shown to rely on it" in block.verdict
    assert "rho = 0.9, networks rely on it" in block.verdict


def test_a_ratio_is_given_only_where_both_intervals_exclude_zero() -> None:
    verdict = demo._shortcut_block((shortcut(0.0, 0.04, 0.06), shortcut(0.9, 3.0, 5.0))).verdict
    assert "80 times as large" in verdict  # 4.0 over 0.05
    for clean, planted in (((-0.1, 0.2), (3.0, 5.0)), ((0.04, 0.06), (-1.0, 5.0))):
        verdict = demo._shortcut_block((shortcut(0.0, *clean), shortcut(0.9, *planted))).verdict
        assert "times as large" not in verdict
        assert "cannot be told: an interval of it contains zero" in verdict
