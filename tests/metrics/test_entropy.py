from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pellucid.metrics.entropy import entropy
from reference.quantus import SCENE, quantus_score


def test_equals_quantus() -> None:
    assert entropy(SCENE[0][:, 0]).tolist() == pytest.approx(quantus_score("Complexity"), abs=1e-9)
    assert entropy(SCENE[0][:, 0]).tolist() == pytest.approx([2.60712639], abs=1e-8)


def test_equals_scipy(rank: int) -> None:
    maps = torch.randn(3, *(4,) * rank, generator=torch.Generator().manual_seed(0)).double()
    expected = [stats.entropy(m.abs().flatten().numpy()) for m in maps]
    assert entropy(maps).tolist() == pytest.approx(expected, abs=1e-12)
    assert entropy(-3 * maps).tolist() == pytest.approx(expected, abs=1e-12)


def test_extremes() -> None:
    one, flat = torch.zeros(1, 9), torch.full((1, 9), -2.0)
    one[0, 3] = -1e-30
    assert entropy(one).tolist() == [0]
    assert entropy(flat).tolist() == pytest.approx([math.log(9)])
    assert math.isnan(float(entropy(torch.zeros(1, 9))))
    assert math.isnan(float(entropy(torch.tensor([[1.0, math.nan]]))))
