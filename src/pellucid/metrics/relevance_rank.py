"""Relevance rank accuracy (Arras et al. 2022)."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.metrics.grids import on_both
from pellucid.metrics.ranking import ascending
from pellucid.spatial import Geometry


def relevance_rank(
    pixels: Float[Tensor, "batch *size"],
    mask: Bool[Tensor, "batch *size"],
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
) -> dict[str, Float[Tensor, "batch"]]:
    """Of the K highest places of the map, K being the number in the mask, the share that lies in it. Higher is better.

    0 to 1. Chance is the mask's share of the area. Only the order counts, negative values included, so neither blur nor
    scale matter as such. Where the K-th value is shared by several places, the score is what choosing among them at
    random gives on average: a flat map scores its chance level (in Quantus the order of the array decides among equal ones).
    "cells": a cell counts with the share of its own samples that lies in the mask, and K is the sum of these shares; a
    mask that fills cells in part cannot reach 1. An empty mask gives nan.
    """
    return on_both(_highest, pixels, mask, map, geometry)


def _highest(values: Float[Tensor, "batch places"], inside: Float[Tensor, "batch places"]) -> Float[Tensor, "batch"]:
    size = inside.sum(1)
    last = (values.shape[1] - size.ceil().long()).clamp_max(values.shape[1] - 1)
    least = ascending(values).gather(1, last[:, None])
    above, equal = values > least, values == least
    room = (size - above.sum(1)) / equal.sum(1)
    return ((inside * above).sum(1) + room * (inside * equal).sum(1)) / size
