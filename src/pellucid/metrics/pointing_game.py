"""The pointing game (Zhang et al. 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import spatial
from pellucid.metrics.grids import on_both
from pellucid.spatial import Geometry


def pointing_game(
    pixels: Float[Tensor, "batch *size"],
    mask: Bool[Tensor, "batch *size"],
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
    *,
    tolerance: float = 15,
) -> dict[str, Float[Tensor, "batch"]]:
    """1 where the highest value of the map lies in the mask or at most `tolerance` samples from it, else 0.

    Where several samples share the highest value, the score is the fraction of them that hit: what breaking the tie at
    random would give on average, so a flat map scores the share of the area that counts as a hit. "cells": the same of
    the highest cell, whose score is the share of its own samples that count as a hit.
    tolerance: Euclidean, in samples of the input. The paper's 15 is meant for photographs of about 500 pixels; scale
    it with the side for other sizes (15 * side / 500), or use 0 for exact hits. An empty mask gives nan.

    A large mask or tolerance is hit by chance; one place is judged and the rest of the map is not. Quantus counts a tie
    as a hit if any of its members hits, and an empty mask as a hit.
    """
    spatial.check_same_size(pixels, mask, "mask")
    return on_both(_hits, pixels, spatial.within(mask, tolerance) if tolerance else mask, map, geometry)


def _hits(values: Float[Tensor, "batch places"], inside: Float[Tensor, "batch places"]) -> Float[Tensor, "batch"]:
    highest = values == values.amax(1, keepdim=True)
    return torch.where(highest, inside, 0).sum(1) / highest.sum(1)
