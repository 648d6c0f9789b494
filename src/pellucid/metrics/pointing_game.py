"""The pointing game (Zhang et al. 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import spatial


def pointing_game(
    pixels: Float[Tensor, "batch *size"], mask: Bool[Tensor, "batch *size"], *, tolerance: float = 15
) -> Float[Tensor, "batch"]:
    """1 where the highest value of the map lies in the mask or at most `tolerance` samples from it, else 0.

    Where several samples share the highest value, the score is the fraction of them that hit: what breaking the tie at
    random would give on average, so a flat map scores the share of the area that counts as a hit.
    tolerance: Euclidean, in samples of the input. The paper's 15 is meant for photographs of about 500 pixels; scale
    it with the side for other sizes (15 * side / 500), or use 0 for exact hits. An empty mask gives nan.
    """
    spatial.check_same_size(pixels, mask, "mask")
    highest = pixels == spatial.expand(pixels.flatten(1).amax(1), pixels)
    hits = highest & spatial.within(mask, tolerance)
    share = hits.flatten(1).sum(1) / highest.flatten(1).sum(1)
    return share.masked_fill(~mask.flatten(1).any(1), torch.nan)
