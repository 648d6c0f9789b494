"""What is shown of errors and drawings is what the samples hold."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from audit.kit import SIDE, MeanNet, noise, sample, score
from pellucid.audit.observe import Drawing, Part, Question, observe
from pellucid.audit.pictures import of_drawings, of_errors
from pellucid.audit.zones import fixed
from pellucid.sample import Sample
from reference.samples import Held


def shown(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def with_image(index: int, level: int) -> Sample:
    """An image of twice the input's resolution, with a bright square where rows 2 and 3, columns 4 and 5 of the input are."""
    image = np.full((2 * SIDE, 2 * SIDE), level, np.uint8)
    image[4:8, 8:12] = 255 if index == 0 else level
    return sample(index, noise(index), image=image)


def test_a_drawing_is_magnified_where_it_is_beside_a_sample_without_it() -> None:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[2:4, 4:6] = True
    drawing = Drawing(fixed("drawing 1", mask), torch.zeros(1, SIDE, SIDE), frozenset({"s0"}), "box")
    ((there, absent),) = of_drawings([Part("p", MeanNet(), Held([with_image(0, 50), with_image(1, 90)]))], [drawing])
    assert "drawing 1, shown (s0)" in there.label
    assert "not shown (s1)" in absent.label
    first, second = shown(there.data), shown(absent.data)
    assert first.shape == (150, 150)
    # One pixel of the input around the two, at twice the resolution: 8 pixels of the picture, the middle 4 bright.
    bright = np.full((8, 8), 50)
    bright[2:6, 2:6] = 255
    middles = (np.arange(8) * 150 / 8 + 9).astype(int)
    assert (first[np.ix_(middles, middles)] == bright).all()
    assert (second == 90).all()


def test_the_most_confident_errors_come_first_and_right_answers_not_at_all() -> None:
    inputs = [noise(k) + k / 2 for k in range(6)]
    samples = [
        sample(k, x, label=int(score(x) > 0) if k == 4 else int(score(x) <= 0), image=np.zeros((SIDE, SIDE), np.uint8))
        for k, x in enumerate(inputs)
    ]
    part = Part("p", MeanNet(), Held(samples))
    strips = list(of_errors([part], observe(part, Question(1))))
    names = [strip[0].label.split(":")[0] for strip in strips]
    wanted = sorted((k for k in range(6) if k != 4), key=lambda k: -abs(score(inputs[k])))[:4]
    assert names == [f"s{k}" for k in wanted]
    assert all(len(strip) == 2 for strip in strips)
