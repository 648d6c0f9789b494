from __future__ import annotations

from itertools import permutations

import pytest
import torch

from pellucid.metrics.relevance_rank import relevance_rank
from reference.localisation import on_samples
from reference.quantus import SCENE, quantus_score


def test_equals_quantus() -> None:
    attribution, mask = SCENE
    found = on_samples(relevance_rank, attribution[:, 0], mask[:, 0])
    assert found[""].tolist() == quantus_score("RelevanceRankAccuracy") == [0.5]  # 15 and 16 of the four highest


def test_quantus_breaks_ties_by_the_order_of_the_array() -> None:
    tied, turned = torch.full((1, 1, 4, 4), 2.0, dtype=torch.float64), SCENE[1].flip(2, 3)
    tied[0, 0, 0, 3] = 1  # outside both masks, so neither is favoured
    assert quantus_score("RelevanceRankAccuracy", (tied, SCENE[1])) != quantus_score(
        "RelevanceRankAccuracy", (tied, turned)
    )
    for mask in (SCENE[1], turned):
        assert on_samples(relevance_rank, tied[:, 0], mask[:, 0])[""].tolist() == pytest.approx([4 / 15])


def test_ties_are_what_all_orders_give_on_average() -> None:
    pixels = torch.tensor([[4.0, 2, 2, 2, 1, 0]])
    mask = torch.tensor([[True, True, False, False, True, False]])
    hits = []
    for order in permutations(range(6)):
        best = sorted(order, key=lambda i: -float(pixels[0, i]))[:3]  # a stable sort keeps the order of equal ones
        hits.append(sum(bool(mask[0, i]) for i in best) / 3)
    assert on_samples(relevance_rank, pixels, mask)[""].tolist() == pytest.approx([sum(hits) / len(hits)])


def test_best_and_worst(rank: int) -> None:
    truth = torch.zeros(2, *(5,) * rank, dtype=torch.bool)
    truth[0, :2], truth[1, 1] = True, True
    assert on_samples(relevance_rank, truth.float(), truth)[""].tolist() == [1, 1]
    assert on_samples(relevance_rank, -truth.float(), truth)[""].tolist() == [0, 0]


def test_a_mask_within_a_cell_cannot_be_ranked_finer() -> None:
    """Two cells of four samples; half of one is truth, so its cell holds half of what is asked for per place."""
    from pellucid.spatial import Geometry

    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, :2] = True
    cells = torch.tensor([[2.0, 1.0]])
    found = relevance_rank(cells.repeat_interleave(4, 1), mask, cells, Geometry.unregistered((2,), (8,)))
    assert found["cells"].tolist() == [0.5]
