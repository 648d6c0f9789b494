"""Networks that look at single samples, and data sets held in memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.sample import Sample
from reference.samples import Held


class Pointwise(nn.Module):
    """Logits are the mean over places of a linear reading of each sample's channels."""

    def __init__(self, reading: Sequence[Sequence[float]], bias: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = torch.tensor(reading)
        self.features = nn.Conv2d(weights.shape[1], weights.shape[1], 1, bias=False)
        self.head = nn.Linear(weights.shape[1], len(weights))
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(weights.shape[1])[..., None, None])
            self.head.weight.copy_(weights)
            self.head.bias.copy_(torch.tensor(bias if bias is not None else [0.0] * len(weights)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(2).mean(2))


def held(inputs: Tensor, labels: Sequence[int], groups: Sequence[str] = (), classes: Sequence[str] = ("none", "spot")) -> Held:  # fmt: skip
    named = groups or [f"g{i}" for i in range(len(inputs))]
    rows = zip(inputs, labels, named, strict=True)
    return Held(tuple(Sample(x, label, name=f"s{i}", group=g) for i, (x, label, g) in enumerate(rows)), tuple(classes))


@pytest.fixture
def bright() -> nn.Module:
    """The log-odds of "spot" against "none" is the mean of the one channel, less a half."""
    return pl.convert(Pointwise([[0.0], [1.0]], [0.0, -0.5]).eval(), torch.randn(2, 1, 6, 6), classes=("none", "spot"))
