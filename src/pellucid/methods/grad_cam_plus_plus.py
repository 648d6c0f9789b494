"""Grad-CAM++ (Chattopadhay et al. 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import spatial
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.feature_map import differentiate
from pellucid.targets import Target


def grad_cam_plus_plus(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    rectify: bool = False,
) -> Attribution:
    """Channels weighted by their positive gradients, each with its own share alpha: sum_k w_k A_k.

    The paper explains Y = exp(S) of the score S. With g = d S / d A_k(i,j) and S_k the sum of A_k, equation 19 is

        alpha = g^2 / (2 g^2 + S_k g^3) = 1 / (2 + S_k g)      and      w_k = sum_ij alpha relu(g).

    Three formulas are in use. This one is the paper's, in closed form: no small number is added to the denominator
    (pytorch-grad-cam adds 1e-6, which outweighs g^2 on deep networks), and the division is carried out (torch-cam 0.5
    computes it, with g^3 inside the sum over places, and goes on with alpha = g^2). The paper's w_k has relu(d Y / d A) = exp(S) relu(g); that factor is
    one positive number for the whole map and overflows for large scores (MONAI keeps it), so the map here is the
    paper's divided by exp(S). Equation 19 is exact where what follows the layer is piecewise linear.

    `rectify` gives the paper's final ReLU; behind a ReLU the map has no negative cells anyway, and as only positive
    gradients count it cannot speak against the class. The paper presumes activations that are not negative; with
    others the denominator may come near 0 and the weight grow without bound. Where it is exactly 0 the place counts 0.

    Raises `LayerError` for a layer that runs more than once, has no positions, or does not reach the score.
    """
    seen = differentiate(call, x, target, layer)
    total = seen.activation.flatten(2).sum(2, keepdim=True)
    slope = seen.slope.flatten(2)
    below = 2 + total * slope
    weights = torch.where(below == 0, 0, slope.relu() / below).sum(2)
    return seen.attribution(spatial.combine(seen.activation, weights), rectify)
