"""What is on no one's bad side, and that the figure says which points were chosen."""

from __future__ import annotations

import re

import pytest

from pellucid.record import Interval
from pellucid.render.trade_off import pareto, trade_off

POINTS = {"none": (0.4, 0.9), "a": (0.5, 0.95), "b": (0.7, 0.9), "c": (0.6, 0.85), "d": (0.7, 0.9)}


def test_those_that_none_is_better_than() -> None:
    """c is behind b on both axes, none behind a; b and d are equal, and neither is behind the other."""
    assert pareto(POINTS) == {"a", "b", "d"}
    assert pareto({"one": (0.0, 0.0)}) == {"one"}


@pytest.mark.parametrize("marked", [{}, {"first": "a"}, {"first": "a", "second": "a"}])
def test_every_point_and_mark_is_drawn_once(marked: dict[str, str]) -> None:
    around = {
        n: (Interval(x, x - 0.02, x + 0.02, 9, 9), Interval(y, y - 0.03, y + 0.02, 9, 9))
        for n, (x, y) in POINTS.items()
    }
    given = {"lines": [["none", "a", "b"], ["none", "c", "d"]], "level": 0.9, "level_name": "least", "xlabel": "x", "ylabel": "y"}  # fmt: skip
    drawn = trade_off(around, marked=marked, **given)
    assert drawn == trade_off(around, marked=marked, **given)
    text = drawn.decode()
    written = re.findall(r"<!-- (.*?) -->", text)
    assert [written.count(name) for name in POINTS] == [1] * len(POINTS)
    assert [written.count(name) for name in ("least", *marked)] == [1] * (1 + len(marked))
    assert "filled: no other is better on both axes" in " ".join(written)
