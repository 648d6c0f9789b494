from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.metrics.increase_in_confidence import increase_in_confidence
from pellucid.targets import ClassTarget, RegressionTarget
from reference.nets import GapNet, inputs


class Half(nn.Module):
    """The right half of the input speaks for class 0, the left half against it."""

    def forward(self, x: Tensor) -> Tensor:
        middle = x.shape[-1] // 2
        logit = x[..., middle:].flatten(1).sum(1) - x[..., :middle].flatten(1).sum(1)
        return torch.stack([logit, torch.zeros_like(logit)], 1)


def test_hiding_what_speaks_against_the_answer_raises_it() -> None:
    x = torch.ones(4, 1, 8)
    pixels = torch.tensor([[0.0] * 4 + [1] * 4, [1.0] * 4 + [0] * 4, [2.0] * 8, [0.0] * 8])
    found = increase_in_confidence(Call(Half()), x, ClassTarget(0), pixels)
    assert found.tolist() == [1, 0, 0, 0]  # equal is no increase
    assert increase_in_confidence(Call(Half()), x, ClassTarget(1), pixels).tolist() == [0, 1, 0, 0]


def test_undefined_cases(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    pixels = x[:, 0].clone()
    pixels[(2, *(0,) * rank)] = torch.nan
    assert increase_in_confidence(Call(net), x, ClassTarget(0), pixels).isnan().tolist() == [False, False, True]
    assert bool(increase_in_confidence(Call(net), x, RegressionTarget(0), x[:, 0]).isnan().all())
