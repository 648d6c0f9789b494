"""The score brought back through ReLUs that only look at the way back (Zeiler and Fergus 2014)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pellucid import inputs
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.methods.guided_backprop import differentiate_gated
from pellucid.targets import Target


def deconvnet(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    reduce: inputs.Reduce = "sum",
) -> Attribution:
    """d score / d x with another rule at every ReLU: R_z = max(R_y, 0), wherever the ReLU was active or not.

    arXiv:1311.2901, section 2.1; written as a change to the gradient in arXiv:1312.6034, section 4. Maximum pooling is
    undone at the places it took its values from, as its gradient does. The paper starts from one feature map; here, as
    in the libraries, the start is the score. Which ReLUs are met, and what the others do: see `guided_backprop`.
    In a network of convolutions and ReLUs without maximum pooling (MobileNetV2) nothing on the way back looks at the
    input: the map of a class is the same for every input.
    reduce: how channels become one value: "sum", "abs_max" or "none".

    Raises `LayerError` for a network without any ReLU, and for TorchScript.
    """
    inputs.check_reduction(reduce)
    seen = differentiate_gated(call, x, target, masked=False)
    return seen.attribution(seen.slope, reduce)
