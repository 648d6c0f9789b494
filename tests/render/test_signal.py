"""Signals along their time axis: where things are drawn, and what is written beside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pellucid.explanation import Explanation
from pellucid.render.card import card
from pellucid.render.overlay import overlay, plain, usual_width
from pellucid.render.signal import Axes, Strip, curves, framed, ticks
from pellucid.spatial import Geometry

Make = Callable[..., Explanation]


def colourfulness(picture: object) -> np.ndarray:
    """Positive towards orange, negative towards blue, 0 for grey."""
    pixels = np.asarray(picture, dtype=int)
    return np.asarray(pixels[..., 0] - pixels[..., 2])


@pytest.mark.parametrize(
    ("low", "high", "most", "wanted"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (-0.13, 0.31, 5, [-0.1, 0, 0.1, 0.2, 0.3]),
        (0, 0.139, 4, [0, 0.05, 0.1]),
        (3, 3, 4, [3]),
        (1e6, 3e6, 2, [1e6, 2e6, 3e6]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low: float, high: float, most: int, wanted: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(wanted)


def test_every_channel_has_a_lane_and_uses_all_of_it() -> None:
    ramp, peak = np.linspace(0, 5, 40), np.where(np.arange(40) == 10, 1e-3, 0.0)
    ink = curves(np.stack([ramp, peak]), 80, 50)
    assert ink.shape == (100, 80)
    rows = [np.argwhere(lane.max(1) > 100).ravel() for lane in (ink[:50], ink[50:])]
    assert all(abs(r.min() - 4) <= 1 and abs(r.max() - 46) <= 1 for r in rows)
    assert abs(ink[:50].argmax(0)[[5, 40, 75]] - np.array([43, 25, 7])).max() <= 1
    assert abs(ink[54].argmax() - 21) <= 1  # sample 10 is centred in columns 20 and 21


def strip(picture: np.ndarray, width: int, lane: int) -> np.ndarray:
    """The strip of cells, cut out by its place: right of the margin, below the lanes."""
    shift = colourfulness(picture)
    right = picture.shape[1] - width
    below = next(y for y in range(lane + 10, len(shift)) if (np.abs(shift[y, : right // 2 + 20]) > 60).any())
    return shift[below:]


def test_cells_are_steps_of_their_height_where_they_lie(make: Make) -> None:
    """Four cells over 100 samples: +1, 0, -0.5, 0. Half of the steps' height is the distance from zero to the edge."""
    explanation = make(torch.tensor([[1.0, 0.0, -0.5, 0.0]]), (100,), input=torch.zeros(1, 1, 100))
    width, lane = 200, 80
    picture = np.asarray(overlay(explanation, width=width, title=""), dtype=int)
    left = next(x for x in range(picture.shape[1]) if (colourfulness(picture)[:lane, x] > 60).sum() > lane // 2)
    shift = colourfulness(picture)[lane + 15 :, left:]
    orange, blue = (shift[:, :width] > 20).sum(0), (shift[:, :width] < -20).sum(0)
    assert (orange[2:48] > 0).all()
    assert not orange[52:].any()
    assert (blue[102:148] > 0).all()
    assert not blue[:98].any()
    assert not blue[152:].any()
    assert abs(orange[25] - 2 * blue[125]) <= 3


def test_a_cell_lies_where_the_geometry_says(make: Make) -> None:
    """Two cells whose centres are samples 10 and 30 of 100 part at sample 20."""
    explanation = make(torch.tensor([[1.0, -1.0]]), (100,), input=torch.zeros(1, 1, 100))
    geometry = Geometry((2,), (100,), (10.0,), (20.0,), registered=True)
    shifted = Explanation(**{**vars(explanation), "geometry": geometry})
    shift = colourfulness(overlay(shifted, width=100, title="", bar=False))[2]
    assert (shift[:20] > 0).all()
    assert (shift[20:] < 0).all()


def time_words(make: Make, monkeypatch: pytest.MonkeyPatch, **known: object) -> list[str]:
    """Every word that is written around the picture of a signal of 140 samples."""
    from PIL import ImageDraw

    words: list[str] = []
    write = ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda pen, at, text, **o: (words.append(text), write(pen, at, text, **o)))  # fmt: skip
    overlay(make(torch.ones(1, 7), (140,), input=torch.zeros(1, 1, 140), provenance={"preprocessing": known}))
    monkeypatch.undo()
    return words


def test_time_has_its_unit(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    words = time_words(make, monkeypatch, rate=250, unit="s")
    assert {"time (s)", "0.4", "logit", "+1", "-1", "diseased: +7.25"} <= set(words)  # 139 samples take 0.556 s
    assert "0.6" not in words
    assert {"time (samples)", "100"} <= set(time_words(make, monkeypatch))
    assert "time (h)" in time_words(make, monkeypatch, rate=2, unit="h")


def test_a_tick_stands_at_its_sample() -> None:
    from PIL import Image

    axes = Axes(((0.0, 1.0),), 100, 10.0, "s", np.zeros(400))
    picture = np.asarray(
        framed(Image.new("RGB", (400, 60), (255, 255, 255)), (), axes, Strip(0.0, "logit", False)).convert("L")
    )
    base = max(y for y in range(len(picture)) if (picture[y] < 160).sum() > 390)  # the time axis
    marks = np.argwhere(picture[base + 2] < 160).ravel()
    left = np.argwhere(picture[base] < 160).ravel().min()
    # Seconds 0, 2, 4, ... are samples 0, 20, 40, ..., centred half a sample (2 columns) further.
    assert [m - left for m in marks] == pytest.approx([2, 82, 162, 242, 322], abs=1)


def test_a_map_of_nothing_has_axes_and_no_colour(make: Make) -> None:
    explanation = make(torch.zeros(1, 10), input=torch.sin(torch.arange(10.0))[None, None])
    assert np.abs(colourfulness(overlay(explanation, width=200).crop((90, 0, 270, 229)))).max() < 20  # ink is bluish


def test_the_plain_signal_lines_up_with_its_overlay(make: Make) -> None:
    signal = torch.sin(torch.linspace(0, 9, 60))[None, None]
    explanation = make(torch.rand(1, 6), (60,), input=signal)
    alone, drawn = plain(explanation, width=300), overlay(explanation, width=300, title="")
    assert alone.width == drawn.width
    assert np.abs(colourfulness(alone)).max() < 20  # ink is bluish
    ink = [np.asarray(p.convert("L"))[:100] < 80 for p in (alone, drawn)]
    assert (ink[0] & ink[1]).sum() > 0.8 * ink[0].sum()


def test_more_channels_than_lanes_are_counted(make: Make) -> None:
    explanation = make(torch.ones(1, 5), (20,), input=torch.randn(1, 15, 20))
    assert overlay(explanation, width=200).height > overlay(make(torch.ones(1, 5), (20,), input=torch.randn(1, 2, 20)), width=200).height  # fmt: skip


def test_a_signal_without_its_input_still_shows_its_cells(make: Make) -> None:
    assert (colourfulness(overlay(make(torch.ones(1, 5), (20,)), width=200)) > 60).sum() > 1000


def test_signals_are_drawn_wider_than_pictures(make: Make) -> None:
    signal, image = make(torch.ones(1, 5), (20,)), make(torch.ones(1, 5, 5), (20, 20))
    assert usual_width(signal) > usual_width(image) == 360
    assert "data:image/png" in card(signal)
