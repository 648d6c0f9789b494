"""Does the map move with the input? Test-time augmentation of the explanation: mirrored and moved inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.contracts import Again
from pellucid.errors import OptionError
from pellucid.metrics.perturbed import needed
from pellucid.metrics.ranking import spearman
from pellucid.spatial import Geometry


def tta_consistency(
    x: Float[Tensor, "batch channels *size"],
    pixels: Float[Tensor, "batch *size"],
    geometry: Geometry,
    again: Again,
    *,
    flips: Sequence[int] = (-1,),
    shift: int | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """The rank correlation of the map with that of the changed input, brought back. -1 to 1, higher is better.

    "flip": mirrored along each axis of `flips` (spatial axes, -1 the last), averaged. "shift": moved by `shift` samples
    up and down each axis, averaged, with the edge continued; compared is what both inputs show. None: half a cell, where
    strides disagree most. The same target is explained. Maps are compared at the input's size, each cell where it looks.
    nan where a map is flat.

    It says whether the explanation follows the input, not whether it is right, and charges the network's own lack of
    symmetry to the method. Coarse maps score high because interpolation makes them smooth, and so does a map that
    ignores the network, such as edges.
    """
    again = needed(again)
    steps = [shift if shift is not None else max(1, round(j / 2)) for j in geometry.jump]
    sides = pixels.shape[1:]
    if not flips or not all(-len(sides) <= a < len(sides) for a in flips):
        raise OptionError(
            f"flips={list(flips)} are not axes of inputs of {tuple(sides)}.",
            hint="Count spatial axes from 0, or from -1.",
        )
    if not all(0 < s < n for s, n in zip(steps, sides, strict=True)):
        raise OptionError(f"A shift of {steps} leaves nothing of inputs of {tuple(sides)}.", hint="Give a smaller one.")
    mirrored = [_flipped(again, x, pixels, a % len(sides)) for a in flips]
    moved = [_shifted(again, x, pixels, a, way * s) for a, s in enumerate(steps) for way in (1, -1)]
    return {"flip": torch.stack(mirrored).mean(0), "shift": torch.stack(moved).mean(0)}


def _flipped(again: Again, x: Tensor, pixels: Tensor, axis: int) -> Float[Tensor, "batch"]:
    return spearman(again(x=x.flip(axis + 2)).at_input_size().flip(axis + 1), pixels)


def _shifted(again: Again, x: Tensor, pixels: Tensor, axis: int, by: int) -> Float[Tensor, "batch"]:
    n = x.shape[axis + 2]
    source = (torch.arange(n, device=x.device) - by).clamp(0, n - 1)
    there = again(x=x.index_select(axis + 2, source)).at_input_size()
    kept = n - abs(by)
    return spearman(there.narrow(axis + 1, max(by, 0), kept), pixels.narrow(axis + 1, max(-by, 0), kept))
