"""Localisation on both grids: the same score of the input's samples, and of the map's own cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import spatial
from pellucid.spatial import Geometry

Score = Callable[
    [Float[Tensor, "batch places"], Float[Tensor, "batch places"]],
    Float[Tensor, "batch"] | Mapping[str, Float[Tensor, "batch"]],
]


def on_both(
    score: Score,
    pixels: Float[Tensor, "batch *size"],
    mask: Bool[Tensor, "batch *size"],
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
) -> dict[str, Float[Tensor, "batch"]]:
    """`score(values, inside)` of the samples under its own names, and of the cells under "cells".

    values (batch, places): the map, in float64. inside (batch, places): how much of a place lies in the mask: 0 or 1
    for a sample, for a cell the share of its own samples. Nothing is interpolated on the cell grid, so there are no ties
    by interpolation; a mask smaller than a cell fills it in part. nan where the mask is empty or the map not finite.
    """
    spatial.check_same_size(pixels, mask, "mask")
    found = _named(score, pixels, mask.double(), "")
    if map is pixels:  # one cell per sample
        return found | {_of_cells(name): values for name, values in found.items()}
    return found | _named(score, map, spatial.cells_in(mask, geometry), "cells")


def _named(score: Score, values: Tensor, inside: Tensor, grid: str) -> dict[str, Tensor]:
    undefined = ~inside.flatten(1).any(1) | ~values.flatten(1).isfinite().all(1)
    found = score(values.detach().double().flatten(1), inside.flatten(1))
    parts = found if isinstance(found, Mapping) else {"": found}
    return {
        _of_cells(name) if grid else name: values.masked_fill(undefined, torch.nan) for name, values in parts.items()
    }


def _of_cells(name: str) -> str:
    return f"cells_{name}" if name else "cells"


def over_area(
    value: Float[Tensor, "batch"], inside: Float[Tensor, "batch places"]
) -> dict[str, Float[Tensor, "batch"]]:
    """A score whose chance level is the mask's share of the area, and the same over it: 1 is chance."""
    return {"": value, "over_area": value / inside.mean(1)}
