"""What the tests of the audit share: a network whose answers can be computed by hand, samples, and readings made up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.audit.observe import Reading, ZoneReading
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from reference.nets import Told

WEIGHT, BIAS = torch.tensor([0.5, 2.0]), torch.tensor([0.1, -0.2])  # of the two classes
SLOPE, OFFSET = float(WEIGHT[1] - WEIGHT[0]), float(BIAS[1] - BIAS[0])  # log-odds = slope * mean(x) + offset
SIDE = 8


class MeanNet(nn.Module):
    """logit_c = weight_c * mean(x) + bias_c, on a grid of cells of 2 x 2 pixels."""

    task = "multiclass"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.mean((1, 2, 3))[:, None] * WEIGHT + BIAS

    def evidence(self, x: Tensor) -> Told:
        cells = nn.functional.avg_pool2d(x, 2)
        maps = cells * WEIGHT.view(1, 2, 1, 1)
        grid, size = tuple(cells.shape[2:]), tuple(x.shape[2:])
        logits = self(x)
        geometry = Geometry(grid, size, (0.5, 0.5), (2.0, 2.0), registered=True)
        return Told(logits, logits, maps, BIAS, cells[0, 0].numel(), geometry)


class Plain(nn.Module):
    """The same answers without evidence."""

    task = "multiclass"

    def __init__(self) -> None:
        super().__init__()
        self.net = MeanNet()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


def noise(seed: int, *, side: int = SIDE) -> Tensor:
    return torch.randn(1, side, side, generator=torch.Generator().manual_seed(seed))


def sample(index: int, input: Tensor | None = None, label: int | None = None, **more: Any) -> Sample:
    x = noise(index) if input is None else input
    return Sample(x, label=index % 2 if label is None else label, name=f"s{index}", **{"group": f"p{index}", **more})


def score(x: Tensor) -> float:
    """The log-odds by hand."""
    return SLOPE * float(x.double().mean()) + OFFSET


def reading(
    index: int, *, positive: bool, score: float, group: str = "", zones: Mapping[str, ZoneReading] | None = None, **more: Any
) -> Reading:  # fmt: skip
    """A reading made up: of two classes, with the probabilities that belong to the score."""
    yes = float(torch.tensor(score).double().sigmoid())
    values = {
        "size": 1.0,
        "outside": float("nan"),
        "outside_area": float("nan"),
        "unmasked": float("nan"),
        "meta": {},
        "decision": {},
        **more,
    }
    return Reading(
        index, f"s{index}", group, "part", int(positive), positive, (1 - yes, yes), score, values["size"], values["outside"], values["outside_area"],
        values["unmasked"], "0" * 64, values["meta"], zones or {}, values["decision"],
    )  # fmt: skip
