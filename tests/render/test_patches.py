"""A patch in samples of the network's input is cut out of a picture of any size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pellucid.render.patches import cut, side_by_side


def test_the_patch_is_that_of_the_picture() -> None:
    image = np.zeros((80, 40), np.uint8)
    image[40:60, 10:20] = 200  # of an input of 8 x 4 the samples 4 to 6 down, 1 to 2 across
    piece = np.asarray(cut(image, ((4, 6), (1, 2)), (8, 4)))
    assert piece.shape == (300, 150, 3)
    assert (piece[40:-40, 40:-40] == 200).all()  # resampling draws on what lies around the patch
    assert (np.asarray(cut(Image.fromarray(image), ((0, 3), (0, 4)), (8, 4))) == 0).all()


def test_pieces_stand_in_a_row() -> None:
    row = side_by_side([Image.new("RGB", (20, 20), c) for c in ("red", "blue")], ["a", "b"])
    pixels = np.asarray(row).reshape(-1, 3).tolist()
    assert [255, 0, 0] in pixels
    assert [0, 0, 255] in pixels
