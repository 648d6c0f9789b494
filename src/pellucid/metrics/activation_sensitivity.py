"""Activation sensitivity, as in the SoftCAM paper (Djoumessi and Berens 2025)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.metrics.grids import on_both
from pellucid.spatial import Geometry


def activation_sensitivity(
    pixels: Float[Tensor, "batch *size"],
    mask: Bool[Tensor, "batch *size"],
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
) -> dict[str, Float[Tensor, "batch"]]:
    """sum(S M) / sum(M): the mean in the mask M of S, the positive part of the map over its largest value. Higher is
    better, 0 to 1.

    Made to repeat the paper, not to rank methods: a map that is flat and positive scores 1 wherever the mask lies, and
    blurring raises the score. Divided by the mean of S it is `relevance_mass` over the area, which has no such virtue
    in flatness. The authors' scaling gives the most negative value the highest rank; here negative values count as 0.
    "cells": on the cell grid. A map without a positive value scores 0, an empty mask gives nan.
    """
    return on_both(_mean_inside, pixels, mask, map, geometry)


def _mean_inside(
    values: Float[Tensor, "batch places"], inside: Float[Tensor, "batch places"]
) -> Float[Tensor, "batch"]:
    positive = values.clamp_min(0)
    largest = positive.amax(1)
    mean = (positive * inside).sum(1) / inside.sum(1)
    return torch.where(largest > 0, mean / largest, largest)
