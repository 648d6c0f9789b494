"""Axiom-based Grad-CAM (Fu et al. 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import spatial
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.feature_map import differentiate
from pellucid.targets import Target


def x_grad_cam(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    rectify: bool = False,
) -> Attribution:
    """Channels weighted by their gradient at the places where they are active: sum_k a_k A_k.

    The paper's closed form: a_k = sum_ij A_k(i,j) / S_k * d score / d A_k(i,j), with S_k the sum of A_k. The cells add
    up to the sum of gradient times activation, as those of HiResCAM do. Where pooling and one linear layer follow, the
    map is that of Grad-CAM. `rectify` drops what is negative, as libraries do.
    A channel whose activations add up to exactly 0 gets the weight 0; libraries add a small number to S_k instead.
    The paper has feature maps behind a ReLU in mind: where activations of both signs cancel, S_k is small and the
    weight large.

    Raises `LayerError` for a layer that runs more than once, has no positions, or does not reach the score.
    """
    seen = differentiate(call, x, target, layer)
    total = seen.activation.flatten(2).sum(2)
    product = (seen.slope * seen.activation).flatten(2).sum(2)
    weights = torch.where(total == 0, 0, product / total)
    return seen.attribution(spatial.combine(seen.activation, weights), rectify)
