from __future__ import annotations

from typing import Any

import pytest
import torch

from pellucid.call import Call
from pellucid.contracts import Case
from pellucid.explanation import Explanation
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget
from reference.nets import GapNet, inputs


def case(masks: list[Any], **options: Any) -> Case:
    x = inputs(2, batch=len(masks), side=4)
    cells = torch.arange(4.0 * len(masks)).view(-1, 2, 2)
    explanation = Explanation(
        cells, Geometry.unregistered((2, 2), (4, 4)), ClassTarget(0), torch.zeros(len(masks)), None, "cam"
    )
    samples = [Sample(v, mask=m) for v, m in zip(x, masks, strict=True)]
    return Case(explanation, samples, x, Call(GapNet(2)), ClassTarget(1), torch.Generator(), options=options)


FULL = torch.ones(4, 4, dtype=torch.bool)


def test_a_metric_gets_what_it_names() -> None:
    def metric(pixels: Any, mask: Any, call: Any, target: Any, *, tolerance: float = 15, steps: int = 3) -> None: ...

    given = case([FULL, ~FULL], tolerance=2)
    found = given.arguments(metric)  # type: ignore[arg-type]
    assert set(found) == {
        "pixels",
        "mask",
        "call",
        "target",
        "tolerance",
    }  # what has a default and no option is left to it
    assert found["tolerance"] == 2
    assert found["call"] is given.call
    assert found["target"] == ClassTarget(1)  # what is scored, not what was explained
    assert torch.equal(found["mask"], torch.stack([FULL, ~FULL]))
    assert torch.equal(found["pixels"], given.explanation.at_input_size())


def test_unknown_truth_is_an_empty_mask() -> None:
    assert case([FULL, None]).mask.flatten(1).sum(1).tolist() == [16, 0]


def test_an_unknown_argument_is_an_error() -> None:
    def metric(nonsense: Any) -> None: ...

    with pytest.raises(AttributeError, match="nonsense"):
        case([FULL]).arguments(metric)  # type: ignore[arg-type]
