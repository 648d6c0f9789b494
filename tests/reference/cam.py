"""Grad-CAM and its relatives, slowly and literally."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
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


def hires_cam(model: nn.Module, layer: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Gradient times activation, one channel at a time."""
    activation, gradient = activation_and_gradient(model, layer, x, classes)
    return torch.stack([sum(g[k] * a[k] for k in range(len(a))) for a, g in zip(activation, gradient, strict=True)])  # type: ignore[arg-type]


def x_grad_cam(model: nn.Module, layer: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Each channel's weight added up place by place; a channel without activation has none."""
    maps = []
    for a, g in zip(*activation_and_gradient(model, layer, x, classes), strict=True):
        total = torch.zeros_like(a[0])
        for k in range(len(a)):
            if float(a[k].sum()) != 0:
                places = zip(a[k].flatten().tolist(), g[k].flatten().tolist(), strict=True)
                total += sum(av / float(a[k].sum()) * gv for av, gv in places) * a[k]
        maps.append(total)
    return torch.stack(maps)


def layer_cam(model: nn.Module, layer: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Positive gradient times activation, one channel at a time."""
    maps = []
    for a, g in zip(*activation_and_gradient(model, layer, x, classes), strict=True):
        maps.append(sum(g[k].clamp_min(0) * a[k] for k in range(len(a))))
    return torch.stack(maps)  # type: ignore[arg-type]


def grad_cam_plus_plus(model: nn.Module, layer: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """The paper's general alpha (equation 10) of Y = exp(score), by differentiating three times; with exp(score)."""
    maps = []
    for i, c in enumerate(classes):
        kept: list[Tensor] = []

        def hook(module: nn.Module, args: object, output: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(output.detach().requires_grad_())
            return kept[0].clone()

        handle = layer.register_forward_hook(hook)
        y = model(x[i : i + 1])[0, c].exp()
        handle.remove()
        a = kept[0]
        (first,) = torch.autograd.grad(y, a, create_graph=True)
        flat, weights = first.flatten(2)[0], torch.zeros(a.shape[1], dtype=a.dtype)
        for k in range(a.shape[1]):
            for j in range(flat.shape[1]):
                (row,) = torch.autograd.grad(flat[k, j], a, create_graph=True)
                second = row.flatten(2)[0, k, j]
                (row,) = torch.autograd.grad(second, a, retain_graph=True)
                third = row.flatten(2)[0, k, j]
                below = float((2 * second + a[0, k].sum() * third).detach())
                weights[k] += 0 if below == 0 else float(second.detach()) / below * max(float(flat[k, j].detach()), 0)
        maps.append(sum(weights[k] * a[0, k].detach() for k in range(len(weights))))
    return torch.stack(maps)  # type: ignore[arg-type]


def smooth_grad_cam_plus_plus(
    model: nn.Module, layer: nn.Module, x: Tensor, classes: Sequence[int], noisy: Sequence[Tensor], numerator: int = 2
) -> Tensor:
    """The clean feature maps with the weights of given noisy copies of the batch."""
    activation, _ = activation_and_gradient(model, layer, x, classes)
    weights = smooth_weights(model, layer, x, classes, noisy, numerator)
    return torch.stack(
        [sum(w * k for w, k in zip(ws, a, strict=True)) for ws, a in zip(weights, activation, strict=True)]
    )  # type: ignore[arg-type]


def smooth_weights(
    model: nn.Module, layer: nn.Module, x: Tensor, classes: Sequence[int], noisy: Sequence[Tensor], numerator: int = 2
) -> Tensor:
    """(batch, channels), from means over the copies; `numerator` 1 as printed, 2 as in Grad-CAM++."""
    activation, _ = activation_and_gradient(model, layer, x, classes)
    slopes = [activation_and_gradient(model, layer, copy, classes)[1] for copy in noisy]
    d1, d2, d3 = (sum(g**p for g in slopes) / len(slopes) for p in (1, 2, 3))
    weights = torch.zeros(activation.shape[:2], dtype=activation.dtype)
    for i, a in enumerate(activation):
        for k in range(len(a)):
            below = 2 * d2[i, k] + a[k].sum() * d3[i, k]  # type: ignore[index]
            alpha = torch.where(below == 0, 0, (d1 if numerator == 1 else d2)[i, k] / below)  # type: ignore[index]
            weights[i, k] = (alpha * d1[i, k].clamp_min(0)).sum()  # type: ignore[index]
    return weights


def eigen_cam(activation: Tensor, centre: bool) -> Tensor:
    """Full singular value decompositions with NumPy, one input at a time; either sign."""
    maps = []
    for a in activation.double().numpy():
        cells = a.reshape(len(a), -1).T
        cells = cells - cells.mean(0) if centre else cells
        _, _, right = np.linalg.svd(cells, full_matrices=True)
        maps.append((cells @ right[0]).reshape(a.shape[1:]))
    return torch.from_numpy(np.stack(maps))


@torch.no_grad()
def ablation_cam(model: nn.Module, layer: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """A whole pass for every channel of every input."""
    maps = []
    for i, c in enumerate(classes):
        kept: list[Tensor] = []
        handle = layer.register_forward_hook(lambda m, args, output, kept=kept: kept.append(output.clone()))
        y = float(model(x[i : i + 1])[0, c])
        handle.remove()
        total = torch.zeros_like(kept[0][0, 0])
        for k in range(kept[0].shape[1]):

            def without(module: nn.Module, args: object, output: Tensor, k: int = k) -> Tensor:
                output = output.clone()
                output[:, k] = 0
                return output

            handle = layer.register_forward_hook(without)
            total += (y - float(model(x[i : i + 1])[0, c])) / y * kept[0][0, k]
            handle.remove()
        maps.append(total)
    return torch.stack(maps)


@torch.no_grad()
def score_cam(model: nn.Module, layer: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Algorithm 1 of the paper: one masked input at a time, the gain over a black input, softmax, weighted sum."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2]
    maps = []
    for i, c in enumerate(classes):
        kept: list[Tensor] = []
        handle = layer.register_forward_hook(lambda m, args, output, kept=kept: kept.append(output.clone()))
        model(x[i : i + 1])
        handle.remove()
        black, gains = float(model(torch.zeros_like(x[:1]))[0, c]), []
        for k in range(kept[0].shape[1]):
            mask = torch.nn.functional.interpolate(kept[0][:, k : k + 1], x.shape[2:], mode=mode, align_corners=False)
            low, high = mask.min(), mask.max()
            mask = (mask - low) / (high - low) if high > low else torch.zeros_like(mask)
            gains.append(float(model(x[i : i + 1] * mask)[0, c]) - black)
        share = np.exp(gains) / np.exp(gains).sum()
        maps.append(sum(float(s) * kept[0][0, k] for k, s in enumerate(share)))
    return torch.stack(maps)  # type: ignore[arg-type]
