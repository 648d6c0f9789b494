"""Pixel flipping (Bach et al. 2015; in patches Samek et al. 2017, region perturbation)."""

from __future__ import annotations

from math import ceil

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid import backends, inputs, spatial
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.metrics.removal import Baseline, curve, ranks, where_defined
from pellucid.spatial import Geometry
from pellucid.targets import Target


def pixel_flipping(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str = "multiclass",
    *,
    patch: int = 1,
    at_once: int | None = None,
    baseline: Baseline = 0.0,
    batch_size: int | None = None,
    backend: backends.Backend | None = None,
    precision: backends.Precision | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """Mean of the answer over the flips, f(x_1), ..., f(x_L): places are set to the baseline one after the other, highest first.

    The curve begins after the first flip and ends where nothing is left, as in the paper and in Quantus, whose area is
    that of the trapezoids between these points at distance 1: L times this mean without half of the first and last.
    (`deletion` begins at the whole input.) A flip takes all channels of a place; Quantus flips single values, which
    for colour images is another curve of three times the passes. Lower is better.

    patch: side of the pieces of the input that are flipped as one, ranked by their mean in the map; 1 is a sample.
    at_once: pieces per flip; by default a 32nd of them. 1 is the paper's and takes a pass for each piece.
    "probability", "log_odds", baseline, batch_size, backend, precision, generator: see `deletion`.

    Raises `OptionError` for pieces that do not fit. nan where the map is not finite.
    """
    spatial.check_same_size(pixels, x[:, 0], "input")
    _check_patch(patch, x.shape[2:])
    order = _in_pieces(pixels, patch, generator)
    pieces = int(order.max()) + 1
    at_once = ceil(pieces / 32) if at_once is None else at_once
    inputs.check_counts(at_once=at_once)
    counts = torch.tensor([*range(0, pieces, at_once), pieces])
    found = curve(
        call, x, target, task, order, counts,
        reveal=False, baseline=baseline, batch_size=batch_size, backend=backend, precision=precision,
    ).answer  # fmt: skip
    return where_defined({name: found.of(name)[:, 1:].mean(1) for name in ("probability", "log_odds")}, pixels)


def _check_patch(patch: int, size: torch.Size) -> None:
    inputs.check_counts(patch=patch)
    if patch > max(size):
        raise OptionError(
            f"patch={patch} is larger than the input.", why=f"Its sides are {tuple(size)}.", hint="Give a smaller one."
        )


def _in_pieces(
    pixels: Float[Tensor, "batch *size"], patch: int, generator: torch.Generator | None
) -> Int[Tensor, "batch *size"]:
    """For each sample the rank of its piece; pieces at the far edges may be smaller."""
    size = pixels.shape[1:]
    grid = tuple(ceil(n / patch) for n in size)
    tiles = Geometry(grid, tuple(size), ((patch - 1) / 2,) * len(size), (float(patch),) * len(size), registered=True)
    values = pixels.detach().double()
    order = ranks(spatial.cell_sums(values, tiles) / spatial.cell_sums(torch.ones_like(values), tiles), generator)
    for axis, owner in enumerate(tiles.nearest_cell(), start=1):
        order = order.index_select(axis, owner.to(order.device))
    return order
