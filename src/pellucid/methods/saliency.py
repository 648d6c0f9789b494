"""The gradient of the score with respect to the input (Simonyan et al. 2013)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid import hooks
from pellucid.call import Call
from pellucid.errors import OptionError, nearest
from pellucid.explanation import Attribution
from pellucid.spatial import Geometry
from pellucid.targets import Target

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs_max": lambda slope: slope.abs().amax(1),
    "sum": lambda slope: slope.sum(1),
    "none": lambda slope: slope,
}


def saliency(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    reduce: Literal["abs_max", "sum", "none"] = "abs_max",
) -> Attribution:
    """How strongly each input value moves the score: d score / d x, per input sample.

    reduce: how channels become one value. "abs_max" is the paper's (section 3: the largest size over the channels),
    which has no sign; "sum" keeps the sign; "none" keeps the channels, `(batch, channels, *spatial)`.
    Units: score per unit of the network's own (normalised) input.
    """
    if reduce not in REDUCTIONS:
        raise OptionError(f"There is no reduction '{reduce}'.", hint=nearest(reduce, REDUCTIONS))
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        output = call(leaf.clone())  # a copy, since the network may work on its input in place
        decided = target.resolve(output)
        slope = hooks.gradient(decided(output), leaf, "the input")
    slope = slope.to(torch.promote_types(slope.dtype, torch.float32))
    return Attribution(REDUCTIONS[reduce](slope), Geometry.of_samples(x.shape[2:]), hooks.detached(output), decided)
