from __future__ import annotations

import math

import pytest
import torch

from pellucid.explanation import Explanation
from pellucid.metrics.completeness_residual import completeness_residual
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget


def explanation(complete: bool) -> Explanation:
    return Explanation(
        map=torch.tensor([[1.0, 2.0], [0.25, 0.25], [3.0, -3.0]]),
        geometry=Geometry.unregistered((2,), (8,)),
        target=ClassTarget(0),
        score=torch.tensor([10.0, 0.5, -4.0]),
        logits=None,
        method="evidence",
        complete=complete,
        constant=torch.tensor([4.0, 0.0, -1.0]),
        common=torch.tensor([2.0, 0.25, -3.0]),
    )


def test_by_hand() -> None:
    """10 - 9 over 10; 0.5 - 0.75 over 1, since small scores are not blown up; -4 + 4 over 4."""
    assert completeness_residual(explanation(True)).tolist() == pytest.approx([0.1, 0.25, 0])


def test_methods_that_promise_nothing_are_not_judged() -> None:
    assert all(math.isnan(v) for v in completeness_residual(explanation(False)).tolist())
