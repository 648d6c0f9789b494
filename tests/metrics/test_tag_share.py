from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import BadInput
from pellucid.metrics.tag_share import tag_share
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget

TAG, LESIONS = [0, 1], [5, 6, 7]
WEIGHT = torch.tensor([2.0, -1, 0, 0, 0, 1, 1, 3, 0, 5], dtype=torch.float64)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHT)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0] * self.weight).sum(1, keepdim=True)


def emptied(sample: Sample, places: list[int]) -> Sample:
    changed = sample.input.clone()
    changed[:, places] = 0
    return replace(sample, input=changed)


def sample(empty: tuple[int, ...] = (), zones: tuple[str, ...] = ("marker",), tag: str = "marker") -> Sample:
    x = torch.ones(1, 10, dtype=torch.float64)
    x[:, list(empty)] = 0
    bare = Sample(x, name="signal")
    return replace(
        bare,
        zones={name: torch.zeros(10, dtype=torch.bool) for name in zones},
        alternatives={
            f"without {tag}": partial(emptied, bare, TAG),
            "without lesions": partial(emptied, bare, LESIONS),
        },
    )


def shares(*samples: Sample, map: Tensor | None = None, **options: str) -> dict[str, list[float]]:
    x = torch.stack([s.input for s in samples])
    map = x[:, 0] * WEIGHT if map is None else map
    call = Call(Linear(), batch=len(x))
    found = tag_share(call, x, ClassTarget(0), samples, map, Geometry.of_samples((10,)), **options)
    return {part: values.tolist() for part, values in found.items()}


def test_by_hand() -> None:
    """|2| + |-1| on the tag and 5 on the lesions; taking them out costs 2 - 1 and 5."""
    found = shares(sample())
    assert found == {"": [3 / 8], "tag": [3], "lesions": [5], "tag_effect": [1], "lesions_effect": [5]}


def test_cells_that_reach_over_the_border_count_by_their_share() -> None:
    """Five cells of two samples: lesions have half of the third cell and the whole fourth."""
    geometry = Geometry.unregistered((5,), (10,))
    s = sample()
    found = tag_share(
        Call(Linear(), batch=1), s.input[None], ClassTarget(0), [s], torch.tensor([[4.0, 9, 6, -1, 9]]), geometry
    )
    assert (found["tag"].item(), found["lesions"].item()) == (4, 3 + 1)


def test_both_must_be_shown_and_the_tag_must_have_a_place() -> None:
    found = shares(sample(), sample(empty=(0, 1)), sample(empty=(5, 6, 7)), sample(zones=()))
    assert [math.isnan(v) for v in found[""]] == [False, True, True, True]
    assert math.isnan(shares(sample(), map=torch.zeros(1, 10))[""][0])


def test_another_tag() -> None:
    named = sample(zones=("ruler",), tag="ruler")
    assert shares(named, tag="ruler")[""] == [3 / 8]
    with pytest.raises(BadInput, match="cannot be rendered without marker"):
        shares(named)
