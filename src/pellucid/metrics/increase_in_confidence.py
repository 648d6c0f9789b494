"""Increase in confidence (Chattopadhay et al. 2018, section 4.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.metrics.removal import Baseline, confidence
from pellucid.targets import Target


def increase_in_confidence(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str = "multiclass",
    *,
    baseline: Baseline = 0.0,
    batch_size: int | None = None,
) -> Float[Tensor, "batch"]:
    """1 where the answer is more probable on the input seen through its map than on the whole input, else 0.

    The mean over inputs is the paper's share; higher is better. The input is shown as for `average_drop`, with its
    baseline. A map that is 1 everywhere changes nothing and scores 0. Whatever hides what speaks against the answer raises it,
    whether the map names what speaks for it or not. nan where the target has no probability or the map is not finite.
    """
    whole, part = confidence(call, x, target, pixels, task, baseline=baseline, batch_size=batch_size)
    return (part > whole).double().masked_fill((part - whole).isnan(), torch.nan)
