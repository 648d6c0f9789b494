"""Figures are read back: the dots must lie where the numbers say."""

from __future__ import annotations

import io
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from pellucid.record import Interval
from pellucid.render.curves import Mark, effect_strip, interval_plot, reliability, training_curves
from pellucid.render.figure import SERIES

NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0, 0)
MARKS = [
    Mark("evidence", Interval(0.8, 0.7, 0.9, 40, 20)),
    Mark("random_map", Interval(0.2, 0.1, 0.3, 40, 20), muted=True),
    Mark("$x$", NOTHING),
]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)


def columns_of(data: bytes, colour: str) -> np.ndarray:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.unique(np.argwhere(np.abs(pixels(data) - rgb).max(2) < 12)[:, 1])


def test_whiskers_have_the_length_of_the_interval() -> None:
    """Two figures on the same axis (the muted mark spans it): doubling an interval doubles its line."""
    span = Mark("span", Interval(0.5, 0.0, 1.0, 9, 9), muted=True)
    short, long = (
        columns_of(
            interval_plot({"": [span, Mark("m", Interval(0.5, 0.5 - w, 0.5 + w, 9, 9))]}, format="png"), SERIES[0]
        )
        for w in (0.2, 0.4)
    )
    assert (long.max() - long.min()) / (short.max() - short.min()) == pytest.approx(2.0, abs=0.03)


def test_order_of_values_is_order_on_the_axis() -> None:
    figure = interval_plot(
        {"": [Mark("low", Interval(0.1, 0.05, 0.15, 9, 9), muted=True), Mark("high", Interval(0.9, 0.85, 0.95, 9, 9))]},
        format="png",
    )
    assert columns_of(figure, SERIES[0]).min() > pixels(figure).shape[1] / 2


def test_zero_line_separates_the_signs() -> None:
    strip = effect_strip(
        {"a": ([-2.0, -1.0], Interval(-1.5, -1.8, -1.2, 2, 2)), "b": ([1.0], Interval(1.5, 1.2, 1.8, 1, 1))},
        format="png",
    )
    image = pixels(strip)
    middle = image.shape[0] // 2
    found = np.argwhere(np.abs(image - [0x0B, 0x5C, 0xAD]).max(2) < 12)
    upper, lower = found[found[:, 0] < middle * 0.8], found[found[:, 0] > middle * 0.8]
    assert upper[:, 1].max() < lower[:, 1].min()


@pytest.mark.parametrize(
    "draw",
    [
        lambda **k: interval_plot({"black box": MARKS, "SoftCAM": MARKS}, label="higher is better", zero=True, **k),
        lambda **k: interval_plot({"": [Mark("nothing", NOTHING)]}, **k),
        lambda **k: effect_strip(
            {"ρ = 0.95": ([1.0, 2.0], Interval(1.5, 1.0, 2.0, 2, 2)), "ρ = 0": ([], NOTHING)}, **k
        ),
        lambda **k: training_curves({"loss": [3.0, 2.0, 1.5], "validation": [3.1, 2.5, 2.4]}, **k),
        lambda **k: reliability([0.1, 0.9], [0.2, 0.8], [5, 9], **k),
    ],
    ids=["intervals", "undefined", "effects", "training", "reliability"],
)
def test_figures_are_whole_repeatable_and_leave_matplotlib_alone(draw: Callable[..., bytes]) -> None:
    before = dict(matplotlib.rcParams)
    svg = draw()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == draw()
    assert pixels(draw(format="png")).min() < 128
    assert dict(matplotlib.rcParams) == before
