from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pellucid.record import Interval
from pellucid.render.figure import FAINT, SERIES
from pellucid.render.lines import curve_plot, ladder_plot
from pellucid.render.scatter import scatter

NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0, 0)


def around(mean: float, half: float = 0.1) -> Interval:
    return Interval(mean, mean - half, mean + half, 9, 9)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)


def places(data: bytes, colour: str) -> np.ndarray:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere(np.abs(pixels(data) - rgb).max(2) < 12)


def axis(data: bytes) -> np.ndarray:
    """What lies in the axes: the legend is at the right."""
    found = places(data, SERIES[0])
    return found[found[:, 1] < pixels(data).shape[1] * 0.88]


def test_lines_go_through_their_points() -> None:
    """A straight line rises evenly from one corner of its points to the other, and stops at a gap."""
    whole = [(x, around(x, 0.0)) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    line = axis(curve_plot({"a": whole}, format="png"))
    slope, offset = np.polyfit(line[:, 1], line[:, 0], 1)
    assert slope < 0
    assert np.abs(line[:, 0] - slope * line[:, 1] - offset).max() < 4
    gap = {"b": whole, "a": [*whole[:3], (0.75, NOTHING), (1.0, NOTHING)]}
    half = axis(curve_plot(gap, muted=frozenset({"b"}), format="png"))
    span, full = np.ptp(half[:, 1]), np.ptp(line[:, 1])
    assert span / full == pytest.approx(0.5, abs=0.08)


def test_bands_are_as_wide_as_intervals() -> None:
    """The lighter band of a flat line, against the axis that another one spans."""
    ends = [(0.0, around(0.0, 0.0)), (1.0, around(1.0, 0.0))]
    heights = []
    for half in (0.1, 0.2):
        flat = [(x, around(0.5, half)) for x in (0.0, 0.5, 1.0)]
        image = pixels(curve_plot({"span": ends, "flat": flat}, muted=frozenset({"span"}), format="png"))
        blue = np.argwhere((image[..., 2] - image[..., 0] > 20) & (image[..., 0] > 150))
        blue = blue[blue[:, 1] < image.shape[1] * 0.75]
        heights.append(np.ptp(blue[:, 0]))
    assert heights[1] / heights[0] == pytest.approx(2, abs=0.1)


def test_steps_of_a_knob_are_evenly_spaced() -> None:
    steps = [(x, around(0.5)) for x in (0.0, 0.5, 0.95, 1.0)]
    line = axis(ladder_plot({"a": steps}, format="png"))
    tall = [c for c in np.unique(line[:, 1]) if np.ptp(line[line[:, 1] == c][:, 0]) > 50]
    centres = [np.mean(g) for g in np.split(tall, np.flatnonzero(np.diff(tall) > 3) + 1)]
    assert len(centres) == 4
    assert np.ptp(np.diff(centres)) < 4


def test_dots_lie_where_both_scores_say() -> None:
    data = scatter(
        {"ll": (around(0.0), around(0.0)), "ur": (around(1.0), around(1.0)), "x": (around(1.0), NOTHING)}, format="png"
    )
    grey = scatter(
        {"ll": (around(0.0), around(0.0)), "ur": (around(1.0), around(1.0))}, muted=frozenset({"ur"}), format="png"
    )
    both, one = places(data, SERIES[0]), places(grey, SERIES[0])
    assert one[:, 0].min() > np.median(both[:, 0])
    assert one[:, 1].max() < np.median(both[:, 1]) + 2
    assert len(places(grey, FAINT)) > 0


def test_equal_numbers_give_equal_bytes() -> None:
    points = [(0.0, around(1.0)), (1.0, NOTHING)]
    for draw in (curve_plot, ladder_plot):
        assert draw({"$a$": points}, muted=frozenset({"b"})) == draw({"$a$": points}, muted=frozenset({"b"}))
        assert draw({}).startswith(b"<?xml")
    assert scatter({"a": (around(1), around(2))}) == scatter({"a": (around(1), around(2))})
    assert scatter({}).startswith(b"<?xml")
