"""Methods at the input, slowly and literally: one input, one copy, one output at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.nets import CONV

NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Residual(nn.Module):
    """BatchNorm, a shortcut with its own convolution, in-place addition and functional in-place ReLUs.

    rectified: a ReLU also before the sum, so that no output of a convolution is negative.
    """

    def __init__(self, rank: int, seed: int = 0, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        conv, norm = CONV[rank], NORM[rank]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.c1, self.n1 = conv(2, 3, 3, padding=1, bias=False), norm(3)
            self.c2, self.n2 = conv(3, 4, 3, padding=1), norm(4)
            self.c3, self.n3 = conv(2, 4, 1), norm(4)
            self.fc = nn.Linear(4, 3)
            for n in (self.n1, self.n2, self.n3):
                n.weight.data.uniform_(-1, 1.5)  # a negative factor turns the sign of a folded weight
                n.bias.data.normal_()
                n.running_mean.normal_()
                n.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.n1(self.c1(x)))
        y, shortcut = self.n2(self.c2(y)), self.n3(self.c3(x))
        if self.rectified:
            y, shortcut = F.relu_(y), shortcut.relu()
        y += shortcut
        return self.fc(F.relu(y, inplace=True).flatten(2).mean(2))


class Swapped(nn.Module):
    """GapNet with its ReLUs replaced by another function."""

    def __init__(self, net: Any, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        own = copy.deepcopy(net)
        self.first, self.second, self.fc, self.relu = own.features[0], own.features[2], own.fc, relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.second(self.relu(self.first(x))))
        return self.fc(y.flatten(2).mean(2))


class GuidedReLU(torch.autograd.Function):
    """Springenberg et al. 2015, section 3.4."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *r: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return torch.where((z > 0) & (r[0] > 0), r[0], torch.zeros_like(r[0]))


class DeconvReLU(torch.autograd.Function):
    """Zeiler and Fergus 2014, section 2.1."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *r: Tensor) -> Tensor:
        return torch.where(r[0] > 0, r[0], torch.zeros_like(r[0]))


def gradient(net: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    found = []
    for i, c in enumerate(classes):
        leaf = x[i : i + 1].clone().requires_grad_()
        found.append(torch.autograd.grad(net(leaf.clone())[0, c], leaf)[0])
    return torch.cat(found)


def integrated_gradients(
    net: nn.Module, x: Tensor, start: Tensor, classes: Sequence[int], places: Sequence[float], weights: Sequence[float]
) -> Tensor:
    total = torch.zeros_like(x)
    for a, w in zip(places, weights, strict=True):
        total += w * gradient(net, start + a * (x - start), classes)
    return (x - start) * total


def smooth_grad(net: nn.Module, x: Tensor, classes: Sequence[int], noise: float, draws: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(x)
    for draw in draws:
        for i, c in enumerate(classes):
            sigma = noise * float(x[i].max() - x[i].min())
            total[i] += gradient(net, (x[i] + sigma * draw)[None], [c])[0]
    return total / len(draws)


def occlusion(
    net: nn.Module, x: Tensor, filled: Tensor, classes: Sequence[int], window: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """Every window in turn; each sample keeps a list of the drops it was covered at."""
    found = torch.zeros(len(x), *x.shape[2:], dtype=x.dtype)
    for i, c in enumerate(classes):
        drops: dict[tuple[int, ...], list[float]] = {}
        whole = float(net(x[i : i + 1]).detach()[0, c])
        starts = []
        for n, w, s in zip(x.shape[2:], window, stride, strict=True):
            own = [0]
            while own[-1] + w < n:
                own.append(own[-1] + s)
            starts.append(own)
        for corner in product(*starts):
            here = [range(a, min(a + w, n)) for a, w, n in zip(corner, window, x.shape[2:], strict=True)]
            covered = x[i].clone()
            for place in product(*here):
                covered[(slice(None), *place)] = filled[(i, slice(None), *place)]
            drop = whole - float(net(covered[None]).detach()[0, c])
            for place in product(*here):
                drops.setdefault(place, []).append(drop)
        for place, values in drops.items():
            found[(i, *place)] = sum(values) / len(values)
    return found


def rise(
    net: nn.Module, x: Tensor, classes: Sequence[int], grids: Tensor, shifts: Tensor, keep: float, centred: bool
) -> Tensor:
    """The paper's sum, mask by mask; the grid is stretched by torch's own interpolation and cut out."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2]
    cells = grids.shape[1]
    steps = [-(-n // cells) for n in x.shape[2:]]
    masks, scores = [], []
    for grid, shift in zip(grids, shifts, strict=True):
        large = F.interpolate(
            grid[None, None].to(x), size=[(cells + 1) * s for s in steps], mode=mode, align_corners=False
        )[0, 0]
        mask = large[tuple(slice(int(a), int(a) + n) for a, n in zip(shift, x.shape[2:], strict=True))]
        masks.append(mask)
        scores.append([float(net((x[i] * mask)[None]).detach()[0, c]) for i, c in enumerate(classes)])
    found = []
    for i in range(len(x)):
        middle = sum(s[i] for s in scores) / len(scores) if centred else 0.0
        found.append(sum((s[i] - middle) * m for s, m in zip(scores, masks, strict=True)) / (keep * len(masks)))
    return torch.stack(found)  # type: ignore[arg-type]


class Dense:
    """A linear layer written out as one matrix, by what it makes of every unit vector."""

    def __init__(self, layer: Callable[[Tensor], Tensor], shape: torch.Size) -> None:
        n = shape.numel()
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
        self.shape, self.made = shape, zero.shape[1:]
        self.b = zero.detach().flatten()
        units = torch.eye(n, dtype=torch.float64).view(n, *shape)
        self.w = (layer(units) - zero).detach().flatten(1).T  # (outputs, inputs)

    def epsilon(self, x: Tensor, relevance: Tensor, eps: float = 1e-6) -> Tensor:
        """Bach et al. 2015, equation 58."""
        z = self.w * x.flatten()
        total = z.sum(1) + self.b
        share = relevance.flatten() / (total + eps * torch.where(total < 0, -1.0, 1.0))
        return (z * share[:, None]).sum(0).view(self.shape)

    def plus(self, x: Tensor, relevance: Tensor, eps: float = 1e-6) -> Tensor:
        """Equation 60 with alpha = 1, beta = 0."""
        z = (self.w * x.flatten()).clamp_min(0)
        share = relevance.flatten() / (z.sum(1) + self.b.clamp_min(0) + eps)
        return (z * share[:, None]).sum(0).view(self.shape)


def lrp_gap_net(net: Any, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Layer by layer through GapNet: linear (epsilon), mean (epsilon), convolutions (plus)."""
    found = []
    for one, c in zip(x, classes, strict=True):
        a1 = net.features[0](one[None]).relu().detach()[0]
        a2 = net.features[2](a1[None]).relu().detach()[0]
        pooled = a2.flatten(1).mean(1)
        logits = net.fc(pooled).detach()
        relevance = torch.zeros_like(logits)
        relevance[c] = logits[c]
        relevance = Dense(net.fc, pooled.shape).epsilon(pooled, relevance)
        relevance = Dense(lambda v: v.flatten(2).mean(2), a2.shape).epsilon(a2, relevance)
        relevance = Dense(net.features[2], a1.shape).plus(a1, relevance)
        found.append(Dense(net.features[0], one.shape).plus(one, relevance))
    return torch.stack(found)


def lrp_residual(net: Any, x: Tensor, classes: Sequence[int]) -> Tensor:
    """The same through `Residual`: each convolution with its BatchNorm is one linear layer, the sum divides by size."""
    found = []
    for one, c in zip(x, classes, strict=True):
        first, second, short = (
            lambda v: net.n1(net.c1(v)), lambda v: net.n2(net.c2(v)), lambda v: net.n3(net.c3(v)),
        )  # fmt: skip
        a1 = first(one[None]).relu().detach()[0]
        branch, shortcut = second(a1[None]).detach()[0], short(one[None]).detach()[0]
        a2 = (branch + shortcut).relu()
        pooled = a2.flatten(1).mean(1)
        logits = net.fc(pooled).detach()
        relevance = torch.zeros_like(logits)
        relevance[c] = logits[c]
        relevance = Dense(net.fc, pooled.shape).epsilon(pooled, relevance)
        relevance = Dense(lambda v: v.flatten(2).mean(2), a2.shape).epsilon(a2, relevance)
        total = branch + shortcut
        share = relevance / (total + 1e-6 * torch.where(total < 0, -1.0, 1.0))
        inner = Dense(second, a1.shape).plus(a1, branch * share)
        found.append(Dense(first, one.shape).plus(one, inner) + Dense(short, one.shape).plus(one, shortcut * share))
    return torch.stack(found)
