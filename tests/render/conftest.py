"""An explanation with a map of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.explanation import Explanation
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget

Make = Callable[..., Explanation]


@pytest.fixture
def make() -> Make:
    def explanation(maps: Tensor, size: tuple[int, ...] | None = None, **facts: Any) -> Explanation:
        """maps (batch, *grid); size: of the input (default: one cell per sample). The constant makes the ledger whole."""
        grid = tuple(maps.shape[1:])
        geometry = Geometry.of_samples(grid) if size is None else Geometry.unregistered(grid, size)
        score = maps.flatten(1).sum(1) + 0.25
        logits = torch.stack([torch.zeros_like(score), score], 1)
        target = ClassTarget(torch.ones(len(maps), dtype=torch.long))
        given = {
            "method": "evidence",
            "complete": True,
            "constant": torch.full((len(maps),), 0.25),
            "classes": ("healthy", "diseased"),
            **facts,
        }
        return Explanation(maps, geometry, target, score, logits, **given)

    return explanation
