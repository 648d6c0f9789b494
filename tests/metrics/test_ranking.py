from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pellucid.metrics.ranking import average_ranks, last_equal, spearman


def values(rank: int = 2, *, ties: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(ties))
    shape = (5, *(6,) * rank)
    return torch.randint(-2, 3, shape, generator=generator).float() if ties else torch.randn(shape, generator=generator)


def test_last_of_equal_ones() -> None:
    ordered = torch.tensor([[1.0, 1, 2, 3, 3, 3], [5, 4, 3, 2, 1, 0], [7, 7, 7, 7, 7, 7]])
    assert last_equal(ordered).tolist() == [[1, 1, 2, 5, 5, 5], [0, 1, 2, 3, 4, 5], [5] * 6]


@pytest.mark.parametrize("ties", [True, False])
def test_ranks_equal_scipy(ties: bool) -> None:
    given = values(ties=ties).flatten(1)
    assert average_ranks(given).tolist() == (stats.rankdata(given.numpy(), axis=1) - 1).tolist()


@pytest.mark.parametrize("ties", [True, False])
def test_correlation_equals_scipy(ties: bool, rank: int) -> None:
    a = values(rank, ties=ties)
    b = a.roll(1, 1) + values(rank, ties=True)
    expected = [stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    assert spearman(a, b).tolist() == pytest.approx(expected, abs=1e-12)
    assert spearman(a, a.exp()).tolist() == pytest.approx([1] * 5)
    assert spearman(a, -a).tolist() == pytest.approx([-1] * 5)


def test_flat_and_undefined_maps_have_none() -> None:
    a = torch.tensor([[1.0, 1, 1], [1, 2, 3], [math.nan, 1, 2]])
    assert [math.isnan(v) for v in spearman(a, torch.tensor([[1.0, 2, 3]] * 3)).tolist()] == [True, False, True]
