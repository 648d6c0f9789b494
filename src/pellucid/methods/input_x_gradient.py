"""The input times the gradient of the score (Shrikumar et al. 2016)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pellucid import inputs
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.targets import Target


def input_x_gradient(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    reduce: inputs.Reduce = "sum",
) -> Attribution:
    """What each input value would add to the score if the network were linear: x * d score / d x.

    arXiv:1605.01713 ("gradient * input"). Units of the score. The values depend on what the network takes as
    0: an input value of 0 gets 0. In a network of ReLUs without biases they add up to the score, otherwise they do not.

    reduce: how channels become one value. "sum" keeps sign and total; "abs_max" is the largest size over the channels;
    "none" keeps the channels, `(batch, channels, *spatial)`.
    """
    inputs.check_reduction(reduce)
    seen = inputs.differentiate(call, x, target)
    return seen.attribution(x * seen.slope, reduce)
