"""Toy data and tiny networks of any rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.errors import BadInput
from pellucid.sample import Facts, Sample


@dataclass(frozen=True)
class Toy:
    """Noise with a bright half for class 1; two samples per group."""

    n: int = 24
    size: tuple[int, ...] = (8, 8)
    classes: tuple[str, ...] = ("dark", "bright")
    bad: tuple[int, ...] = ()
    channels: int = 2
    scale: float = 1.0
    fingerprint: str = "toy"

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise BadInput(f"File {index} is damaged.")
        x = torch.randn(self.channels, *self.size, generator=torch.Generator().manual_seed(index))
        label = index // 2 % len(self.classes)
        x[:, : self.size[0] // 2] += 2.0 * label
        return Sample(input=x * self.scale, label=label, name=f"s{index}", group=f"p{index // 2}")

    def facts(self, index: int) -> Facts:
        return Facts(f"s{index}", index // 2 % len(self.classes), f"p{index // 2}")


class Net(nn.Module):
    """Convolution, BatchNorm, ReLU, dropout, evidence layer, mean; evidence from the same pass, as a SoftCAM gives it.

    `fails_at`: the training pass at which the network breaks, as a crash would.
    """

    def __init__(self, rank: int, classes: int = 2, channels: int = 2, dropout: float = 0.25) -> None:
        super().__init__()
        conv, norm = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[
            rank
        ]
        self.trunk = nn.Sequential(conv(channels, 6, 3, 2, 1), norm(6), nn.ReLU(), nn.Dropout(dropout))
        self.head = conv(6, classes, 1)
        self.passes = 0
        self.fails_at: int | None = None

    def evidence(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.trunk(x))
        return maps

    def forward(self, x: Tensor, return_evidence: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if self.training:
            self.passes += 1
            if self.passes == self.fails_at:
                raise InterruptedError("power cut")
        maps = self.evidence(x)
        logits = maps.flatten(2).mean(2)
        return (logits, maps) if return_evidence else logits
