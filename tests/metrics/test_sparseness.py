from __future__ import annotations

import math

import pytest
import torch

from pellucid.metrics.sparseness import sparseness
from reference.quantus import SCENE, quantus_score


def test_equals_quantus() -> None:
    """Quantus adds 1e-7 to every value."""
    assert sparseness(SCENE[0][:, 0]).tolist() == pytest.approx([0.3125], abs=1e-12)
    assert sparseness(SCENE[0][:, 0] + 1e-7).tolist() == pytest.approx(quantus_score("Sparseness"), abs=1e-12)


def test_small_maps_are_not_flattened_as_in_quantus() -> None:
    """1e-7 on top of every value hides a map of 1e-9, such as a random deep network's."""
    tiny = SCENE[0] * 1e-10
    assert quantus_score("Sparseness", (tiny, SCENE[1]))[0] < 0.01
    assert sparseness(tiny[:, 0]).tolist() == pytest.approx([0.3125])


def test_equals_the_mean_difference_of_all_pairs(rank: int) -> None:
    """Gini's own definition: half the relative mean absolute difference."""
    maps = torch.randn(3, *(3,) * rank, generator=torch.Generator().manual_seed(0))
    for value, one in zip(sparseness(maps).tolist(), maps.double().abs().flatten(1), strict=True):
        pairs = (one[:, None] - one[None]).abs().mean() / (2 * one.mean())
        assert value == pytest.approx(float(pairs), abs=1e-12)


def test_extremes(rank: int) -> None:
    flat = torch.full((1, *(4,) * rank), -2.0)
    assert sparseness(flat).tolist() == pytest.approx([0], abs=1e-12)
    spike = torch.zeros_like(flat)
    spike[(0, *(1,) * rank)] = -1e-9
    assert sparseness(spike).tolist() == pytest.approx([1 - 1 / 4**rank], abs=1e-12)
    assert math.isnan(float(sparseness(torch.zeros_like(flat))))


def test_the_callers_map_is_not_changed() -> None:
    given = torch.tensor([[3.0, -1.0, 2.0]])
    sparseness(given)
    assert given.tolist() == [[3, -1, 2]]
