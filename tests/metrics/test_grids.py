"""What all localisation metrics share: two grids, chance, and truth or maps that are not there."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.errors import BadInput
from pellucid.metrics import METRICS
from pellucid.spatial import Geometry, boxes_to_mask
from reference.localisation import on_samples

BOTH = [name for name, row in METRICS.items() if any(p.startswith("cells") for p in row.parts)]
OPTIONS: dict[str, dict[str, Any]] = {"pointing_game": {"tolerance": 0}}


def found(name: str, pixels: Tensor, mask: Tensor, cells: Tensor, geometry: Geometry) -> dict[str, Tensor]:
    return dict(METRICS[name](pixels, mask, cells, geometry, **OPTIONS.get(name, {})))


def scene(rank: int) -> tuple[Tensor, Tensor]:
    """Cells with ties and signs, and a mask that cuts through cells."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(-3, 4, (3, *(4,) * rank), generator=generator).float()
    cells[:, 0] = cells[:, 0].clamp_min(1)
    mask = torch.rand(3, *(12,) * rank, generator=generator) < 0.3
    return cells, mask


@pytest.mark.parametrize("name", BOTH)
def test_cells_are_the_map_without_interpolation(name: str, rank: int) -> None:
    """Where every cell has as many samples, a cell counts like its samples, each with the cell's value."""
    cells, mask = scene(rank)
    nearest = cells
    for axis in range(1, rank + 1):
        nearest = nearest.repeat_interleave(3, axis)
    geometry = Geometry.unregistered((4,) * rank, (12,) * rank)
    both = found(name, nearest, mask, cells, geometry)
    for part, values in both.items():
        if not part.startswith("cells"):
            assert both[f"cells_{part}" if part else "cells"].tolist() == pytest.approx(values.tolist(), abs=1e-12)


@pytest.mark.parametrize("name", BOTH)
def test_cells_count_where_they_look(name: str) -> None:
    """A registered cell owns the samples nearest to it: here 0 to 1, 2 to 5 and 6 to 8, not three each."""
    mask = torch.zeros(1, 9, dtype=torch.bool)
    mask[0, 2:6] = True
    cells = torch.tensor([[0.0, 5.0, 0.0]])
    geometry = Geometry((3,), (9,), (-0.5,), (4.0,), registered=True)
    both = found(name, cells.repeat_interleave(3, 1), mask, cells, geometry)
    part = METRICS[name].parts[0]
    assert both[f"cells_{part}" if part else "cells"].tolist() == [1]


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if row.property == "localisation"])
def test_no_truth_or_no_map_is_no_score_and_others_keep_theirs(name: str) -> None:
    metric: Any = METRICS[name].load()
    pixels = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(4, 8, 8, dtype=torch.bool)
    mask[:, :3, :3] = True
    whole = located(metric, pixels, mask)
    mask[1], pixels[2, 0, 0] = False, torch.nan
    for part, values in located(metric, pixels, mask).items():
        assert [math.isnan(v) for v in values.tolist()] == [False, True, True, False]
        assert torch.equal(values[[0, 3]], whole[part][[0, 3]])


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if row.property == "localisation"])
def test_a_mask_of_another_size_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="the mask"):
        located(METRICS[name].load(), torch.rand(1, 4, 4), torch.ones(1, 5, 5, dtype=torch.bool))


@pytest.mark.parametrize("name", ["relevance_mass", "relevance_rank", "auprc", "pointing_game"])
def test_a_flat_map_scores_the_share_of_the_area(name: str, rank: int) -> None:
    mask = torch.zeros(1, *(6,) * rank, dtype=torch.bool)
    mask[0, 1:3] = True
    pixels = torch.full(mask.shape, 0.2)
    for values in (located(METRICS[name].load(), pixels, mask, **OPTIONS.get(name, {}))[p] for p in ("", "cells")):
        assert values.tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if row.property == "localisation"])
def test_nothing_is_lost_in_tiny_maps(name: str) -> None:
    """Scale does not matter, down to 1e-30 in float32."""
    pixels = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = pixels.roll(1, 1) > 0.6
    metric: Any = METRICS[name].load()
    for part, values in located(metric, pixels, mask).items():
        assert located(metric, pixels * 2.0**-100, mask)[part].tolist() == pytest.approx(values.tolist())


def test_boxes_count_as_the_places_they_cover() -> None:
    """Two overlapping boxes are one mask; a place in both counts once."""
    mask = boxes_to_mask([(0, 0, 2, 2), (1, 0, 3, 2)], (4, 4))[None]
    pixels = torch.zeros(1, 4, 4)
    pixels[0, 0, 1], pixels[0, 3, 3] = 3, 1
    assert on_samples(METRICS["relevance_mass"], pixels, mask)[""].tolist() == [0.75]
    assert on_samples(METRICS["relevance_mass"], pixels, mask)["over_area"].tolist() == [0.75 * 16 / 6]


def located(metric: Any, pixels: Tensor, mask: Tensor, **options: Any) -> dict[str, Tensor]:
    """With a map that is its own cells, where the metric asks for cells."""
    if metric.__name__ == "top_k_precision":
        return dict(metric(pixels, mask, torch.Generator().manual_seed(0), **options))
    return dict(on_samples(metric, pixels, mask, **options))
