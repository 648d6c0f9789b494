from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from pellucid.errors import BadInput
from pellucid.metrics.pointing_game import pointing_game
from reference.localisation import on_samples
from reference.quantus import SCENE, quantus_score


def point(*places: tuple[int, ...], side: int, value: float = 1.0) -> torch.Tensor:
    found = torch.zeros(1, *(side,) * len(places[0]))
    for place in places:
        found[(0, *place)] = value
    return found


def played(pixels: torch.Tensor, mask: torch.Tensor, tolerance: float = 15) -> torch.Tensor:
    return on_samples(pointing_game, pixels, mask, tolerance=tolerance)[""]


def test_equals_quantus() -> None:
    attribution, mask = SCENE
    assert quantus_score("PointingGame") == played(attribution[:, 0], mask[:, 0], tolerance=0).tolist() == [1.0]


def test_ties_and_empty_masks_are_no_hits_as_in_quantus() -> None:
    """15 of 16 places are the highest, four of them in the mask."""
    tied, none = torch.full((1, 1, 4, 4), 2.0, dtype=torch.float64), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    tied[0, 0, 0, 3] = 1
    assert quantus_score("PointingGame", (tied, SCENE[1])) == [1.0]
    assert played(tied[:, 0], SCENE[1][:, 0], tolerance=0).tolist() == pytest.approx([4 / 15])
    assert quantus_score("PointingGame", (SCENE[0], none)) == [1.0]  # nan, put among truth values
    assert math.isnan(float(played(SCENE[0][:, 0], none[:, 0], tolerance=0)))


@pytest.mark.parametrize("tolerance", [0, 1, 2.5, 5])
def test_tolerance_is_a_euclidean_distance(rank: int, tolerance: float) -> None:
    """Against the distance to every sample of the mask, written out."""
    side = 6
    mask = point((1,) * rank, (4, *(2,) * (rank - 1)), side=side) > 0
    inside = [tuple(p) for p in mask[0].nonzero().tolist()]
    for place in product(range(side), repeat=rank):
        hit = any(math.dist(place, p) <= tolerance for p in inside)
        assert played(point(place, side=side), mask, tolerance=tolerance).tolist() == [float(hit)]


def test_the_papers_tolerance_is_fifteen_samples() -> None:
    mask = point((0, 0), side=40) > 0
    maps = torch.cat([point(p, side=40) for p in ((0, 15), (0, 16), (9, 12), (10, 12))])
    assert played(maps, mask.expand(4, -1, -1)).tolist() == [1, 0, 1, 0]


def test_ties_count_by_their_share() -> None:
    mask = point((0, 0), (0, 1), side=4) > 0
    assert played(point((0, 0), (3, 3), side=4), mask, tolerance=0).tolist() == [0.5]
    assert played(torch.full((1, 4, 4), -3.0), mask, tolerance=0).tolist() == [2 / 16]


def test_the_highest_value_counts_also_where_all_are_negative() -> None:
    mask = point((2, 2), side=4) > 0
    assert played(point((2, 2), side=4) - 5, mask, tolerance=0).tolist() == [1]
    assert played(point((2, 2), side=4, value=-9), mask, tolerance=0).tolist() == [0]


def test_empty_masks_and_undefined_maps_have_no_value() -> None:
    pixels = torch.cat([point((0, 0), side=4)] * 2)
    mask = torch.stack([torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)])
    first, second = played(pixels, mask).tolist()
    assert math.isnan(first)
    assert second == 1
    assert math.isnan(float(played(torch.full((1, 4, 4), torch.nan), mask[1:])))


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(BadInput, match=r"\(1, 4, 4\) and the mask \(1, 5, 5\)"):
        played(torch.zeros(1, 4, 4), torch.ones(1, 5, 5, dtype=torch.bool))
