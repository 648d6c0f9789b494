from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pellucid.call import Call
from pellucid.errors import BadInput
from pellucid.metrics.comprehensiveness import comprehensiveness
from pellucid.metrics.exact_comprehensiveness import exact_comprehensiveness
from pellucid.sample import Sample
from pellucid.targets import SingleLogitTarget
from reference.nets import Kept

YES = SingleLogitTarget(True)
LESIONS = [0, 2]


def sample(lesions: list[int] = LESIONS) -> Sample:
    """Ten places of .1 each; a lesion is what they hold. Kept answers .1 + .8 of the sum."""
    x = torch.full((1, 10), 0.1, dtype=torch.float64)
    healthy = x.clone()
    healthy[0, lesions] = 0
    return Sample(x, name="signal", alternatives={"without lesions": lambda: Sample(healthy)} if lesions else {})


def found(samples: list[Sample], map: Tensor, **options: float) -> dict[str, Tensor]:
    x = torch.stack([s.input for s in samples])
    return exact_comprehensiveness(Call(Kept(), batch=len(x)), x, YES, samples, map, "binary", shares=(0.1, 0.3))


def test_by_hand() -> None:
    """The highest place is a lesion; of the highest three two are."""
    right = torch.tensor([[9.0, 1, 8, 0, 0, 7, 0, 0, 0, 0]])
    falls = found([sample()], right)
    assert falls["probability"].tolist() == pytest.approx([(0.08 + 0.16) / 2])
    odds = [math.log(p / (1 - p)) for p in (0.9, 0.82, 0.74)]
    assert falls["log_odds"].tolist() == pytest.approx([odds[0] - (odds[1] + odds[2]) / 2])


def test_places_without_lesions_change_nothing() -> None:
    wrong = torch.tensor([[-9.0, 1, -8, 2, 3, 7, 0, 0, 0, 0]])
    assert found([sample()], wrong)["probability"].tolist() == pytest.approx([0])


def test_where_everything_is_a_lesion_it_is_comprehensiveness() -> None:
    samples = [sample(list(range(10)))] * 2
    map = torch.rand(2, 10, generator=torch.Generator().manual_seed(0))
    x = torch.stack([s.input for s in samples])
    usual = comprehensiveness(Call(Kept(), batch=2), x, YES, map, "binary", shares=(0.1, 0.3), baseline=0.0)
    assert found(samples, map)["log_odds"].tolist() == pytest.approx(usual["log_odds"].tolist())


def test_needs_the_rendering_without() -> None:
    map = torch.rand(2, 10)
    values = found([sample(), sample([])], map)["probability"].tolist()
    assert [math.isnan(v) for v in values] == [False, True]
    with pytest.raises(BadInput, match="cannot be rendered without lesions"):
        found([replace(sample(), alternatives={})], map[:1])
