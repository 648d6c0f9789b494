from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from pellucid.explanation import Explanation
from pellucid.render.grid import GAP, grid, side_by_side
from pellucid.render.overlay import overlay


def test_pictures_stand_in_columns() -> None:
    red, green, blue = (
        Image.new("RGB", (20, 10), (255, 0, 0)),
        Image.new("RGB", (8, 30), (0, 255, 0)),
        Image.new("RGB", (40, 5), (0, 0, 255)),
    )
    sheet = np.asarray(grid([[red, green], [blue]]))
    assert sheet.shape == (30 + 5 + 3 * GAP, 40 + 8 + 3 * GAP, 3)
    assert tuple(sheet[GAP, GAP]) == (255, 0, 0)
    assert tuple(sheet[GAP, GAP + 40 + GAP]) == (0, 255, 0)
    assert tuple(sheet[GAP + 30 + GAP, GAP]) == (0, 0, 255)
    assert tuple(sheet[GAP + 11, GAP]) == (255, 255, 255)


def test_titles_stand_over_the_columns_and_keep_to_them() -> None:
    pictures = [Image.new("RGB", (60, 10)), Image.new("RGB", (60, 10))]
    bare, titled = (np.asarray(grid([pictures], t)) for t in ((), ("a very long name for a column", "b")))
    head = titled[: titled.shape[0] - bare.shape[0]]
    dark = np.flatnonzero((head.min(2) < 128).any(0))
    assert dark.min() >= GAP
    assert not ((dark >= GAP + 60) & (dark < 2 * GAP + 60)).any()


def test_side_by_side_uses_one_scale_per_unit(make: Callable[..., Explanation]) -> None:
    a, b, c = (
        make(torch.full((1, 8, 8), 1.0)),
        make(torch.full((1, 8, 8), 4.0)),
        make(torch.full((1, 8, 8), 9.0), method="saliency", complete=False),
    )
    options = {"title": "", "bar": False, "width": 8}
    expected = grid(
        [[overlay(a, limit=4.0, **options), overlay(b, limit=4.0, **options), overlay(c, limit=9.0, **options)]]
    )
    assert side_by_side([a, b, c], **options).tobytes() == expected.tobytes()
