"""The diagram of Demsar 2006, read back from its pixels."""

from __future__ import annotations

import io
from itertools import groupby

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pellucid.render.critical_difference import critical_difference
from pellucid.render.figure import INK, SERIES
from pellucid.statistics import Ranking

NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
DEMSAR = Ranking((3.143, 2.0, 2.893, 1.964), 0.02, 1.12, 14)  # table 6 and the level of figure 1


def marked(data: bytes, colour: str) -> np.ndarray:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)
    return np.asarray(np.abs(image - rgb).max(2) < 12)


def runs(line: np.ndarray) -> list[tuple[int, int]]:
    """Start and length of every run of marked pixels."""
    found, place = [], 0
    for value, group in groupby(line.tolist()):
        length = len(list(group))
        found += [(place, length)] if value else []
        place += length
    return found


def bars(data: bytes) -> list[tuple[int, int]]:
    """First and last column of every bar, top to bottom: what is thicker than a line and longer than a letter."""
    thick = ndimage.binary_erosion(marked(data, INK), np.ones((5, 1)))
    found: list[tuple[int, int]] = []
    for row in thick:
        for start, length in runs(row):
            if length > 20 and (start, start + length - 1) not in found:
                found.append((start, start + length - 1))
    return found


def test_bars_join_what_cannot_be_told_apart() -> None:
    """Figure 1a of the paper: the three variants are joined, and C4.5 with C4.5+cf alone."""
    data = critical_difference(NAMES, DEMSAR, format="png")
    (a, b), (c, d) = bars(data)
    left, width = max((r for row in marked(data, SERIES[0]) for r in runs(row)), key=lambda r: r[1])
    one = width / 1.12  # the ruler is as long as the critical difference and starts at rank 1
    at = [1 + (x - left) / one for x in (a, b, c, d)]
    assert at == pytest.approx([1.964, 2.893, 2.893, 3.143], abs=0.06)


def test_far_apart_has_no_bars_and_long_names_fit() -> None:
    apart = critical_difference(
        [*NAMES[:2], "smooth_grad_cam_plus_plus"], Ranking((1.0, 2.0, 3.0), 0.0, 0.4, 40), format="png"
    )
    assert bars(apart) == []
    whole = marked(apart, INK)
    assert not whole[:, [0, 1, -2, -1]].any()


def test_equal_numbers_give_equal_bytes() -> None:
    assert critical_difference(NAMES, DEMSAR) == critical_difference(NAMES, DEMSAR)
