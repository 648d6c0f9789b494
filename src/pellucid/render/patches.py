"""Pieces of pictures side by side, each under its own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pellucid.render.grid import grid

_SIDE = 150


def cut(image: Any, patch: Sequence[tuple[int, int]], size: Sequence[int]) -> Image.Image:
    """The part of a picture that a patch of the network's input covers. patch: per axis, in samples of an input of `size`."""
    whole = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    (top, bottom), (left, right) = patch
    down, across = whole.height / size[0], whole.width / size[1]
    box = (left * across, top * down, right * across, bottom * down)
    height = max(round(_SIDE * (bottom - top) * down / ((right - left) * across)), 1)
    return whole.convert("RGB").resize((_SIDE, height), Image.Resampling.BICUBIC, box=box)


def side_by_side(pieces: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """The pieces in a row, each under its title."""
    return grid([pieces], titles, size=13)
