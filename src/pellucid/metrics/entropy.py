"""Entropy of a map (Bhatt et al. 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def entropy(map: Float[Tensor, "batch *grid"]) -> Float[Tensor, "batch"]:
    """-sum p ln p in nats, with p the sizes of the cells as shares of their sum: 0 for a single cell, ln N for equal ones.

    Signs and scale do not matter. The number of cells enters, so compare maps of one grid. A map of zeros has no
    shares and gives nan. Low is simple, not right: one cell anywhere is as simple as can be.
    """
    sizes = map.detach().double().abs().flatten(1)
    shares = sizes / sizes.sum(1, keepdim=True)
    found: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return found
