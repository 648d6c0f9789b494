"""Area under the precision-recall curve of a map (average precision)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.metrics.grids import on_both, over_area
from pellucid.metrics.ranking import last_equal
from pellucid.spatial import Geometry


def auprc(
    pixels: Float[Tensor, "batch *size"],
    mask: Bool[Tensor, "batch *size"],
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
) -> dict[str, Float[Tensor, "batch"]]:
    """sum_n (R_n - R_{n-1}) P_n over the values of the map from the highest down: how well they rank the places in the
    mask first. Higher is better, at most 1.

    Equal values are one step of the curve, so a flat map scores its chance level, the mask's share of the area;
    "over_area" divides by it, so 1 is chance. Only the order counts, negative values included. Scores depend on the base
    rate: compare methods on the same masks. "cells": a cell counts as positive with the share of its own samples that
    lies in the mask and as negative with the rest. An empty mask gives nan.

    The trapezoid rule over the same points is too optimistic (Davis and Goadrich 2006, doi:10.1145/1143844.1143874) and
    the area under the ROC curve hides false places among many true negatives: a mask of 1 % of the area that ranks
    behind another 1 % has ROC area 0.99 and AUPRC 0.31.
    """
    return on_both(_average_precision, pixels, mask, map, geometry)


def _average_precision(
    values: Float[Tensor, "batch places"], inside: Float[Tensor, "batch places"]
) -> dict[str, Tensor]:
    ordered, order = values.sort(1, descending=True)
    hits = inside.gather(1, order)
    seen = torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=hits.dtype)
    precision = (hits.cumsum(1) / seen).gather(1, last_equal(ordered))
    return over_area((hits * precision).sum(1) / hits.sum(1), inside)
