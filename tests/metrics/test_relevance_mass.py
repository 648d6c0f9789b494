from __future__ import annotations

import math

import pytest
import torch

from pellucid.errors import BadInput
from pellucid.metrics.relevance_mass import relevance_mass
from reference.localisation import on_samples
from reference.quantus import SCENE, quantus_score


def test_equals_quantus() -> None:
    attribution, mask = SCENE
    found = on_samples(relevance_mass, attribution[:, 0], mask[:, 0])
    assert found[""].tolist() == pytest.approx(quantus_score("RelevanceMassAccuracy"), abs=1e-12)
    assert found[""].tolist() == pytest.approx([54 / 136])  # 11 + 12 + 15 + 16 of 1 + ... + 16
    assert found["over_area"].tolist() == pytest.approx([54 / 136 * 4])


def test_negative_values_do_not_count(rank: int) -> None:
    pixels = torch.full((1, *(4,) * rank), -7.0)
    pixels[(0, *(0,) * rank)], pixels[(0, *(1,) * rank)] = 3.0, 1.0
    mask = torch.zeros(pixels.shape, dtype=torch.bool)
    mask[(0, *(0,) * rank)] = mask[(0, *(2,) * rank)] = True
    found = on_samples(relevance_mass, pixels, mask)
    assert found[""].tolist() == [0.75]
    assert found["over_area"].tolist() == pytest.approx([0.75 * 4**rank / 2])


def test_a_flat_map_is_chance(rank: int) -> None:
    mask = torch.zeros(1, *(6,) * rank, dtype=torch.bool)
    mask[(0, slice(1, 3))] = True
    found = on_samples(relevance_mass, torch.full(mask.shape, 0.2), mask)
    assert found[""].tolist() == pytest.approx([2 / 6])
    assert found["over_area"].tolist() == pytest.approx([1])


def test_scale_changes_nothing_down_to_tiny_maps() -> None:
    attribution, mask = SCENE
    tiny = (attribution[:, 0] * 1e-12).float()
    assert on_samples(relevance_mass, tiny, mask[:, 0])[""].tolist() == pytest.approx([54 / 136])


def test_nothing_positive_is_zero_and_no_truth_is_undefined() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    found = on_samples(relevance_mass, torch.tensor([[-1.0, 0.0], [1.0, 1.0]]), mask)
    assert found[""].tolist()[0] == 0
    assert found["over_area"].tolist()[0] == 0
    assert math.isnan(found[""].tolist()[1])
    assert math.isnan(found["over_area"].tolist()[1])


def test_a_map_with_channels_is_refused() -> None:
    with pytest.raises(BadInput, match="Reduce the channels"):
        on_samples(relevance_mass, torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))
