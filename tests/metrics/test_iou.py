from __future__ import annotations

import pytest
import torch
from sklearn.metrics import jaccard_score

from pellucid.errors import OptionError
from pellucid.metrics.iou import iou
from pellucid.spatial import Geometry
from reference.localisation import on_samples


def test_by_hand() -> None:
    pixels = torch.tensor([[4.0, 3, 2, 1, -9]])
    mask = torch.tensor([[True, False, True, False, False]])
    found = on_samples(iou, pixels, mask)
    # 1 and more: four places, both in; 2 and more: three, both in; 3 and more: two, one in
    assert {k: v.tolist() for k, v in found.items() if "cells" not in k} == {
        "at_0.25": [2 / 4], "at_0.5": [2 / 3], "at_0.75": [1 / 3],
    }  # fmt: skip


def test_equals_scikit_learn(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, *(6,) * rank, generator=generator)
    mask = torch.rand(pixels.shape, generator=generator) < 0.4
    found = on_samples(iou, pixels, mask, thresholds=(0.1, 0.9))
    for i in range(3):
        for t in (0.1, 0.9):
            region = (pixels[i] >= t * pixels[i].max()).flatten().numpy()
            expected = jaccard_score(mask[i].flatten().numpy(), region)
            assert float(found[f"at_{t:g}"][i]) == pytest.approx(expected, abs=1e-12)


def test_best_nothing_and_everything() -> None:
    mask = torch.tensor([[True, False, False, False]] * 3)
    pixels = torch.stack([mask[0].float(), torch.full((4,), -1.0), torch.ones(4)])
    assert on_samples(iou, pixels, mask)["at_0.5"].tolist() == [1, 0, 0.25]
    assert on_samples(iou, torch.zeros(3, 4), mask)["at_0.5"].tolist() == [0, 0, 0]


def test_cells_share_their_samples() -> None:
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, 2:4] = True
    cells = torch.tensor([[1.0, 0.0]])
    found = iou(cells.repeat_interleave(4, 1), mask, cells, Geometry.unregistered((2,), (8,)))
    assert found["cells_at_0.5"].tolist() == [0.5]


@pytest.mark.parametrize("thresholds", [(), (0.0,), (0.5, 1.5)])
def test_impossible_thresholds_are_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="share of the map's largest"):
        on_samples(iou, torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool), thresholds=thresholds)
