"""Small networks with one peculiarity each, and random weights that hide nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def roused(model: nn.Module, seed: int = 0) -> nn.Module:
    """Perturb normalisation statistics and scales, give biases values, redraw weights that are zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim < 2 and "weight" in name:
                p.copy_(0.8 + 0.4 * torch.rand(p.shape, generator=generator))
            elif p.ndim < 2 or not p.any():
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(0.1 * torch.randn(b.shape, generator=generator))
            elif name.endswith("running_var"):
                b.copy_(0.5 + torch.rand(b.shape, generator=generator))
    return model


def without_chance(model: nn.Module) -> nn.Module:
    """Switch off dropout and stochastic depth, so that two passes in training mode agree."""
    for module in model.modules():
        for name in ("p", "drop_prob", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def trunk(channels: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class Wired(nn.Module):
    """A trunk and layers, joined by a function: what the network does between them."""

    def __init__(self, wiring: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk()
        self.wiring = wiring
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Any:
        return self.wiring(self, x, *more, **named)
