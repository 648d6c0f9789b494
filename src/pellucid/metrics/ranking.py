"""Order with ties: equal values share their place."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def ascending(values: Float[Tensor, "batch places"]) -> Float[Tensor, "batch places"]:
    """Each row sorted. On a CPU by NumPy, whose vectorised sort takes a tenth of torch's time."""
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return values.sort(1).values
    return torch.from_numpy(np.sort(values.detach().numpy(), axis=1))


def last_equal(ordered: Float[Tensor, "batch places"]) -> Int[Tensor, "batch places"]:
    """For each place of sorted rows, the last place that holds the same value."""
    n = ordered.shape[1]
    places = torch.arange(n, device=ordered.device).expand_as(ordered)
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    return torch.where(ends, places, n).flip(1).cummin(1).values.flip(1)


def average_ranks(values: Float[Tensor, "batch places"]) -> Float[Tensor, "batch places"]:
    """0 for the lowest value; equal values have the mean of their ranks."""
    ordered, order = values.sort(1)
    n = values.shape[1]
    last = last_equal(ordered)
    first = n - 1 - last_equal(ordered.flip(1)).flip(1)
    ranks = (first + last).double() / 2
    return torch.empty_like(ranks).scatter_(1, order, ranks)


def spearman(a: Float[Tensor, "batch *places"], b: Float[Tensor, "batch *places"]) -> Float[Tensor, "batch"]:
    """The rank correlation of each pair of maps, -1 to 1; nan where one of them is flat or not finite."""
    a, b = a.detach().flatten(1), b.detach().flatten(1)
    x, y = (r - r.mean(1, keepdim=True) for r in (average_ranks(a), average_ranks(b)))
    size = (x.square().sum(1) * y.square().sum(1)).sqrt()
    undefined = (size == 0) | ~(a.isfinite() & b.isfinite()).all(1)
    return ((x * y).sum(1) / size).clamp(-1, 1).masked_fill(undefined, torch.nan)
