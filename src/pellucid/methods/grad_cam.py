"""Gradient-weighted class activation mapping (Selvaraju et al. 2017)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks, spatial
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.spatial import Geometry
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
    model = call.model
    chosen = hooks.spatial_layer(model, call, x, layer)
    with hooks.tap(model, chosen) as taken:
        output = call(x.clone())  # a copy, since the network may work on its input in place
        decided = target.resolve(output)
        activation = taken.feature_map(x)
        slope = hooks.gradient(decided(output), activation, f"layer '{taken.name}'")
    weights = slope.to(torch.promote_types(slope.dtype, torch.float32)).flatten(2).mean(2)
    cells = spatial.combine(activation.detach(), weights)
    place = call.geometry if layer is None else Geometry.unregistered
    geometry = place(cells.shape[1:], x.shape[2:])
    return Attribution(cells.relu() if rectify else cells, geometry, hooks.detached(output), decided, layer=taken.name)
