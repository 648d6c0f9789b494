"""A small data set, and networks as users leave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.errors import BadInput
from pellucid.sample import Facts, Sample
from reference.nets import GapNet, SelfExplaining, inputs


@dataclass(frozen=True)
class Samples:
    """Noise with a mask; some of them cannot be read, some have no mask."""

    n: int = 7
    bad: tuple[int, ...] = ()
    blind: tuple[int, ...] = ()
    labels: tuple[Any, ...] = (0, 1)
    fingerprint: str = "noise"
    classes: tuple[str, ...] = ("no", "yes")

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise BadInput(f"File {index} is damaged.")
        mask = torch.zeros(16, 16, dtype=torch.bool)
        mask[4:9, 6:12] = True
        return Sample(
            inputs(2, 1, seed=index)[0], label=self.labels[index % len(self.labels)], mask=None if index in self.blind else mask, name=f"s{index}", group=f"p{index // 2}",
        )  # fmt: skip

    def facts(self, index: int) -> Facts:
        return Facts(f"s{index}", index % 2, f"p{index // 2}")


@dataclass(frozen=True)
class Held:
    """Given samples as a data set."""

    samples: Sequence[Sample]
    classes: tuple[str, ...] = ("absent", "present")
    fingerprint: str = "held"

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def facts(self, index: int) -> Facts:
        s = self.samples[index]
        return Facts(s.name, s.label if isinstance(s.label, int) else None, s.group)


def two(**options: Any) -> nn.Module:
    return SelfExplaining(GapNet(2, classes=2, **options)).eval()


class Breaks(nn.Module):
    """A network that fails at its second pass of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.net = GapNet(2, classes=2)
        self.drop = nn.Dropout()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes % 2 == 0:
            raise RuntimeError("half way")
        return self.drop(self.net(x))  # type: ignore[no-any-return]


def used(net: nn.Module) -> nn.Module:
    """In training mode, with gradients, a frozen parameter and a hook: all of it the user's."""
    net.train()
    next(iter(net.children())).eval()
    for k, parameter in enumerate(net.parameters()):
        parameter.grad = torch.full_like(parameter, 0.5) if k else None
    list(net.parameters())[-1].requires_grad_(False)
    net.register_forward_hook(lambda module, args, output: None)
    return net
