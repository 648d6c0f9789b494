from __future__ import annotations

import math

import pytest
import torch

from pellucid.errors import OptionError
from pellucid.metrics.effective_cells import effective_cells
from reference.quantus import SCENE, quantus_score


def test_equals_quantus() -> None:
    """Theirs is an absolute threshold; the scene's largest value is 16."""
    found = effective_cells(SCENE[0][:, 0], threshold=4.5 / 16)
    assert found[""].tolist() == quantus_score("EffectiveComplexity", eps=4.5) == [12]
    assert found["share"].tolist() == [12 / 16]


def test_quantus_counts_nearly_every_cell_by_default() -> None:
    """A single cell of 1 among thousandths of it."""
    spike = torch.full((1, 1, 4, 4), 1e-3, dtype=torch.float64)
    spike[0, 0, 1, 1] = 1
    assert quantus_score("EffectiveComplexity", (spike, SCENE[1]), normalise=True) == [16]
    assert effective_cells(spike[:, 0])[""].tolist() == [1]


def test_sizes_count_whatever_their_sign_and_scale(rank: int) -> None:
    maps = torch.zeros(1, *(4,) * rank)
    maps[(0, *(0,) * rank)], maps[(0, *(1,) * rank)], maps[(0, *(2,) * rank)] = -1e-20, 6e-22, 4e-22
    assert effective_cells(maps)[""].tolist() == [2]
    assert effective_cells(maps)["share"].tolist() == [2 / 4**rank]


def test_zero_flat_and_undefined_maps() -> None:
    maps = torch.tensor([[0.0, 0, 0], [-2, 2, 2], [1, math.nan, 0]])
    assert effective_cells(maps)[""].tolist()[:2] == [0, 3]
    assert math.isnan(effective_cells(maps)[""].tolist()[2])


def test_a_threshold_is_a_share() -> None:
    with pytest.raises(OptionError, match="a share of the map's largest"):
        effective_cells(torch.ones(1, 3), threshold=1)
