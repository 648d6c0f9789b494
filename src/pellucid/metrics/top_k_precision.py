"""Precision of the strongest patches, as in the SoftCAM paper (Djoumessi and Berens 2025)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import spatial
from pellucid.errors import OptionError

# The paper's geometry, which is that of BagNet-33, in samples of its inputs of 512.
_SIDE, _PATCH, _STRIDE = 512, 33, 8


def top_k_precision(
    pixels: Float[Tensor, "batch *size"],
    mask: Bool[Tensor, "batch *size"],
    generator: torch.Generator,
    *,
    k: int = 29,
    patch: int | None = None,
    stride: int | None = None,
    apart: int | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """Of the 1, 2, ..., k strongest patches the share that touch the mask, averaged over these k. Higher is better.

    Patches are scored by the mean of the map's positive part and taken from the strongest down, leaving out those too
    near to one already taken and those without anything positive; where fewer than k are left, all of them count.
    Equal ones are taken in random order, the same for all inputs. "over_base" divides by the share of all patches that
    touch the mask, so 1 is chance: a large patch touches something nearly everywhere. A map without a positive value
    scores 0, an empty mask gives nan.
    patch, stride: the patches' side and distance, in samples; the last on each axis ends with the input. apart: the centres of two patches taken are at least so
    many samples apart on some axis. None: the paper's 33, 8 and half a patch for inputs of 512, scaled to the shorter side.

    What is mended beside the authors' code: one orientation for all data sets, neighbours found by place (theirs wrap
    round the edges), means over patches instead of single samples of the map, negative values never rank as high, no
    fixed grid of 60 patches, values not rounded.
    """
    spatial.check_same_size(pixels, mask, "mask")
    side = min(pixels.shape[1:])
    patch = max(1, round(_PATCH * side / _SIDE)) if patch is None else patch
    stride = max(1, round(_STRIDE * side / _SIDE)) if stride is None else stride
    apart = max(1, patch // 2) if apart is None else apart
    if min(k, patch, stride, apart) < 1 or patch > side:
        raise OptionError(
            f"k={k}, patch={patch}, stride={stride} and apart={apart} do not fit inputs of {tuple(pixels.shape[1:])}.",
            why="All are at least 1, and a patch fits into the input.",
            hint="Give a smaller patch, or leave these options to the input's size.",
        )
    starts = [torch.tensor([*range(0, n - patch, stride), n - patch]) for n in mask.shape[1:]]
    values = _patches(pixels.detach().double().clamp_min(0), starts, patch, lambda window: window.mean(-1))
    hits = _patches(mask, starts, patch, lambda window: window.any(-1)).double()
    places = torch.cartesian_prod(*starts).view(-1, len(starts))
    order = torch.randperm(len(places), generator=generator)
    found = _precision(values.flatten(1)[:, order], hits.flatten(1)[:, order], places[order].to(mask.device), k, apart)
    undefined = ~mask.flatten(1).any(1) | ~pixels.flatten(1).isfinite().all(1)
    parts = {"": found, "over_base": found / hits.flatten(1).mean(1)}
    return {name: value.masked_fill(undefined, torch.nan) for name, value in parts.items()}


def _patches(samples: Tensor, starts: Sequence[Tensor], patch: int, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    for axis, start in enumerate(starts, 1):
        samples = reduce(samples.unfold(axis, patch, 1).index_select(axis, start.to(samples.device)))
    return samples


def _precision(values: Tensor, hits: Tensor, places: Tensor, k: int, apart: int) -> Float[Tensor, "batch"]:
    """Greedy: the strongest patch that is left, k times; patches near to it are left no more."""
    left = values.clone()
    right, taken, total = (values.new_zeros(len(values)) for _ in range(3))
    for _ in range(k):
        value, best = left.max(1)
        some = (value > 0).to(values)
        right += some * hits.gather(1, best[:, None])[:, 0]
        taken += some
        total += right / taken.clamp_min(1)
        near = (places - places[best][:, None]).abs().amax(-1) < apart
        left.masked_fill_(near, 0)
    return total / k
