"""Relevance mass accuracy (Arras et al. 2022), also called activation precision and energy-based pointing."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import spatial


def relevance_mass(
    pixels: Float[Tensor, "batch *size"], mask: Bool[Tensor, "batch *size"]
) -> dict[str, Float[Tensor, "batch"]]:
    """The share of the positive part of the map that lies in the mask, 0 to 1.

    The value of a map that knows nothing is the mask's share of the area; "over_area" divides by it, so 1 is chance.
    A map without a positive value has no mass in the mask and scores 0. An empty mask gives nan.
    """
    spatial.check_same_size(pixels, mask, "mask")
    positive, inside = pixels.double().clamp_min(0).flatten(1), mask.flatten(1)
    total = positive.sum(1)
    mass = torch.where(total > 0, (positive * inside).sum(1) / total, total)
    area = inside.double().mean(1)
    empty = ~inside.any(1)
    return {"": mass.masked_fill(empty, torch.nan), "over_area": (mass / area).masked_fill(empty, torch.nan)}
