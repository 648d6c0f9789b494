"""Gradient-weighted class activation mapping (Selvaraju et al. 2017)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pellucid import spatial
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.feature_map import differentiate
from pellucid.targets import Target


def grad_cam(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    rectify: bool = False,
) -> Attribution:
    """The feature map A of a layer, weighted by the mean gradient of the score: sum_k a_k A_k.

    Equation 1: a_k = mean over places of d score / d A_k. Equation 2 then drops what is negative; here the map stays
    signed, since what speaks against the class is part of the answer. `rectify` gives the paper's map.
    layer: its name or the module; by default the last spatial layer. The gradient is taken at the layer's output as
    it is, whatever works on it in place afterwards, and only what follows the layer is differentiated.

    The cells do not add up to the score in general. Where average pooling and one linear layer follow, they are the
    class activation map: their sum is the score minus the bias, and each is the cell's contribution.
    Raises `LayerError` for a layer that runs more than once, has no positions, or does not reach the score.
    """
    seen = differentiate(call, x, target, layer)
    weights = seen.slope.flatten(2).mean(2)
    return seen.attribution(spatial.combine(seen.activation, weights), rectify)
