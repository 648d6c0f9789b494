"""The gradient of the score with respect to the input (Simonyan et al. 2013)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pellucid import inputs
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.targets import Target


def saliency(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    reduce: inputs.Reduce = "abs_max",
) -> Attribution:
    """How strongly each input value moves the score: d score / d x, per input sample.

    reduce: how channels become one value. "abs_max" is the paper's (section 3: the largest size over the channels),
    which has no sign; "sum" keeps the sign; "none" keeps the channels, `(batch, channels, *spatial)`.
    Units: score per unit of the network's own (normalised) input.
    """
    inputs.check_reduction(reduce)
    seen = inputs.differentiate(call, x, target)
    return seen.attribution(seen.slope, reduce)
