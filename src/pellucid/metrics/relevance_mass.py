"""Relevance mass accuracy (Arras et al. 2022), also called activation precision and energy-based pointing."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.metrics.grids import on_both, over_area
from pellucid.spatial import Geometry


def relevance_mass(
    pixels: Float[Tensor, "batch *size"],
    mask: Bool[Tensor, "batch *size"],
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
) -> dict[str, Float[Tensor, "batch"]]:
    """The share of the positive part of the map that lies in the mask, 0 to 1, higher is better.

    The value of a map that knows nothing is the mask's share of the area; "over_area" divides by it, so 1 is chance.
    "cells": a cell's value is shared evenly among its own samples, as contributions are. A map without a positive value
    has no mass in the mask and scores 0. An empty mask gives nan.

    Interpolation smears a cell over its neighbours, which costs small masks; large masks score high by chance.
    """
    return on_both(_mass, pixels, mask, map, geometry)


def _mass(values: Float[Tensor, "batch places"], inside: Float[Tensor, "batch places"]) -> dict[str, Tensor]:
    positive = values.clamp_min(0)
    total = positive.sum(1)
    return over_area(torch.where(total > 0, (positive * inside).sum(1) / total, total), inside)
