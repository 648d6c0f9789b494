from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from pellucid.metrics.auprc import auprc
from pellucid.spatial import Geometry, cells_in, upsample
from reference.localisation import on_samples


@pytest.mark.parametrize("ties", [True, False])
def test_equals_scikit_learn(ties: bool, rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(4, *(7,) * rank, generator=generator)
    pixels = pixels.round() if ties else pixels
    mask = torch.rand(pixels.shape, generator=generator) < 0.3
    found = on_samples(auprc, pixels, mask)
    for i in range(4):
        truth = mask[i].flatten().numpy()
        expected = average_precision_score(truth, pixels[i].flatten().numpy())
        assert float(found[""][i]) == pytest.approx(expected, abs=1e-12)
        assert float(found["over_area"][i]) == pytest.approx(expected / truth.mean(), abs=1e-12)


def test_cells_equal_scikit_learn_with_shares_as_weights() -> None:
    """Every cell stands twice: in the mask with its share, outside with the rest."""
    geometry = Geometry((5, 5), (20, 20), (0.0, 0.0), (4.0, 4.0), registered=True)
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(3, 5, 5, generator=generator).mul(2).round()
    mask = torch.zeros(3, 20, 20, dtype=torch.bool)
    mask[0, 3:9, 4:6], mask[1, 10:, 2:17], mask[2, 7, 7] = True, True, True
    found = auprc(upsample(cells, geometry), mask, cells, geometry)["cells"]
    for i in range(3):
        share = cells_in(mask[i], geometry).flatten().numpy()
        truth = np.repeat([1, 0], 25)
        scores = np.tile(cells[i].flatten().numpy(), 2)
        expected = average_precision_score(truth, scores, sample_weight=np.concatenate([share, 1 - share]))
        assert float(found[i]) == pytest.approx(expected, abs=1e-12)


def test_best_is_one() -> None:
    mask = torch.tensor([[True, False, True, False]])
    assert on_samples(auprc, torch.tensor([[3.0, -1, 2, 0]]), mask)[""].tolist() == [1]


def test_the_roc_area_hides_false_places() -> None:
    """The example of the docstring: one percent of the area, ranked behind another one percent."""
    pixels = torch.arange(10_000.0, 0, -1)[None]
    mask = torch.zeros(1, 10_000, dtype=torch.bool)
    mask[0, 100:200] = True
    assert roc_auc_score(mask[0].numpy(), pixels[0].numpy()) == pytest.approx(0.99, abs=0.001)
    assert on_samples(auprc, pixels, mask)[""].tolist() == pytest.approx([0.31], abs=0.001)
