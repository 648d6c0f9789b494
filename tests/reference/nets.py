"""Small networks whose answers are known, for signals, images and volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.spatial import Geometry

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class GapNet(nn.Module):
    """Two convolutions with in-place ReLU, the mean over places, one linear layer. The grid is a quarter of the input."""

    def __init__(self, rank: int, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        conv = CONV[rank]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                conv(2, 4, 3, stride=2, padding=1),
                nn.ReLU(inplace=True),
                conv(4, 5, 3, stride=2, padding=1),
                nn.ReLU(inplace=True),
            )
            self.fc = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(2).mean(2))


class TwoLayers(nn.Module):
    """Two convolutions with in-place ReLU and two linear layers over all their places: linear in nothing."""

    def __init__(self, rank: int, side: int = 8, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        conv = CONV[rank]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.trunk = nn.Sequential(conv(2, 3, 3, stride=2, padding=1), nn.ReLU(inplace=True))
            self.block = nn.Sequential(conv(3, 4, 3, padding=1), nn.ReLU(inplace=True))
            self.hidden, self.relu = nn.Linear(4 * (side // 2) ** rank, 8), nn.ReLU(inplace=True)
            self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.hidden(self.block(self.trunk(x)).flatten(1))))


class Squeezed(nn.Module):
    """The same with one logit and output (batch,)."""

    def __init__(self, net: GapNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, 0]


@dataclass
class Told:
    """What a self-explaining network tells (the fields of `contracts.Evidence`)."""

    output: Any
    logits: Tensor
    maps: Tensor
    bias: Tensor
    positions: int
    geometry: Geometry
    complete: bool = True


class SelfExplaining(nn.Module):
    """A network with evidence, written out by hand: one product per class and cell."""

    def __init__(self, model: GapNet, task: str | None = None) -> None:
        super().__init__()
        self.model = model
        if task is not None:
            self.task = task

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def evidence(self, x: Tensor) -> Told:
        features = self.model.features(x)
        weight, bias = self.model.fc.weight, self.model.fc.bias
        maps = sum(
            weight[:, k].view(1, -1, *(1,) * (x.ndim - 2)) * features[:, k : k + 1] for k in range(features.shape[1])
        )
        assert isinstance(maps, Tensor)
        geometry = self.geometry(tuple(features.shape[2:]), tuple(x.shape[2:]))
        logits = self.model(x)
        return Told(logits, logits, maps, bias, features[0, 0].numel(), geometry)

    def geometry(self, grid: tuple[int, ...], size: tuple[int, ...]) -> Geometry:
        return Geometry(grid, size, (0.0,) * len(grid), (4.0,) * len(grid), registered=True)


class FourPixels(nn.Module):
    """Four known activations under a ReLU that may work in place: 11.25, 13.5, 20.25, 22.5 at `conv` for the ramp input.

    The numbers are those of Captum's one-convolution test network.
    """

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(8, 4)
        self.r1, self.r2 = nn.ReLU(inplace), nn.ReLU(inplace)
        self.conv.weight.data.fill_(1)
        self.conv.bias.data = torch.tensor([-50.0, -75.0])
        self.fc.weight.data = torch.tensor([1.0] * 5 + [-1.0] * 3).repeat(4, 1)
        self.fc.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.r2(self.fc(self.r1(self.conv(x)).flatten(1)))


class Kept(nn.Module):
    """Probability 0.1 + 0.8 * (share of the input's total that is left), as one logit."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(0.1 + 0.8 * x.flatten(1).sum(1, keepdim=True))


class Linear(nn.Module):
    """Logits linear in the input, with a weight for each of its values; keeps what it was shown in `seen`."""

    def __init__(self, shape: tuple[int, ...], classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, *shape, generator=generator, dtype=torch.float64))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return x.flatten(1) @ self.weight.flatten(1).T.to(x)


def inputs(rank: int, batch: int = 3, side: int = 16, seed: int = 1) -> Tensor:
    """Smooth-free noise `(batch, 2, side, ...)`."""
    return torch.randn(batch, 2, *(side,) * rank, generator=torch.Generator().manual_seed(seed))
