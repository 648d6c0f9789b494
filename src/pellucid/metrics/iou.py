"""Intersection over union of a map cut at a threshold and the truth."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.errors import OptionError
from pellucid.metrics.grids import on_both
from pellucid.spatial import Geometry


def iou(
    pixels: Float[Tensor, "batch *size"],
    mask: Bool[Tensor, "batch *size"],
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
    *,
    thresholds: Sequence[float] = (0.25, 0.5, 0.75),
) -> dict[str, Float[Tensor, "batch"]]:
    """|R and M| / |R or M| of the mask M and the region R of values of at least a share t of the map's largest. Higher is
    better, 0 to 1.

    thresholds: the shares t, each a part "at_t" (and "cells_at_t" on the cell grid). The right one depends on the
    method's values, so the best of several on the same images flatters: fix one beforehand, or let the summary
    `validated_iou` choose it on other patients. A map without a positive value has an empty region and scores 0. An
    empty mask gives nan.

    Rewards a region of the mask's size above all: a grid much coarser than the mask cannot score high.
    """
    if not thresholds or not all(0 < t <= 1 for t in thresholds):
        raise OptionError(
            f"The thresholds are {list(thresholds)}.",
            why="Each is a share of the map's largest value.",
            hint="Give numbers above 0 and at most 1.",
        )

    def score(values: Tensor, inside: Tensor) -> dict[str, Tensor]:
        return {f"at_{t:g}": _overlap(values, inside, t) for t in thresholds}

    return on_both(score, pixels, mask, map, geometry)


def _overlap(values: Tensor, inside: Tensor, threshold: float) -> Tensor:
    region = ((values >= threshold * values.amax(1, keepdim=True)) & (values > 0)).to(inside)
    both = (region * inside).sum(1)
    return both / (region.sum(1) + inside.sum(1) - both)
