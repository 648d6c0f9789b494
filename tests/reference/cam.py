"""Grad-CAM, slowly and literally."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def activation_and_gradient(
    model: nn.Module,
    layer: nn.Module,
    x: Tensor,
    classes: Sequence[int],
    score: Callable[[Tensor], Tensor] = lambda y: y,
) -> tuple[Tensor, Tensor]:
    """A layer's own output and the gradient there, one input at a time with a full graph."""
    found = []
    for i, c in enumerate(classes):
        kept: list[Tensor] = []

        def hook(module: nn.Module, args: object, output: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(output)
            return output.clone()  # what works in place afterwards meets the copy

        handle = layer.register_forward_hook(hook)
        y = score(model(x[i : i + 1].clone().requires_grad_()))
        handle.remove()
        (gradient,) = torch.autograd.grad(y[0, c], kept[0])
        found.append((kept[0].detach(), gradient))
    return torch.cat([a for a, _ in found]), torch.cat([g for _, g in found])


def grad_cam(
    model: nn.Module,
    layer: nn.Module,
    x: Tensor,
    classes: Sequence[int],
    score: Callable[[Tensor], Tensor] = lambda y: y,
) -> Tensor:
    """Signed map, one channel and one input at a time."""
    activation, gradient = activation_and_gradient(model, layer, x, classes, score)
    maps = []
    for a, g in zip(activation, gradient, strict=True):
        maps.append(sum(g[k].mean() * a[k] for k in range(len(a))))
    return torch.stack(maps)  # type: ignore[arg-type]


def error(a: object, b: object) -> float:
    """The largest difference over the largest value of b."""
    first, second = (torch.as_tensor(v).detach().double() for v in (a, b))
    assert first.shape == second.shape, (first.shape, second.shape)
    return float((first - second).abs().max() / second.abs().max().clamp_min(1e-30))
