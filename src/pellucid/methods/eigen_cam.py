"""Eigen-CAM (Muhammad and Yeasin 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.feature_map import observe
from pellucid.targets import Target


def eigen_cam(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    centre: bool = False,
) -> Attribution:
    """A layer's feature map projected on its first right singular vector: A v_1, with A (places, channels) = U S V'.

    The map shows what the layer responds to, whatever the class: the target has no part in it.
    centre: take off each channel's mean over places first. The paper does not; pytorch-grad-cam does.
    A singular vector has no sign of its own: the map's is chosen so that its cell of largest size is positive, which
    makes every cell of a map behind a ReLU non-negative without centring. Two cells of equal size and opposite sign,
    both the largest, leave the choice to the decomposition.

    No singular value decomposition is made: v_1 or u_1 comes from the smaller of A A' and A' A.
    layer: its name or the module; by default the last spatial layer.
    Raises `LayerError` for a layer that runs more than once or has no positions.
    """
    seen = observe(call, x, target, layer)
    cells = seen.activation.flatten(2).mT
    if centre:
        cells = cells - cells.mean(1, keepdim=True)
    projected = _first_component(cells)
    flipped = -projected.amin(1, keepdim=True) > projected.amax(1, keepdim=True)
    projected = torch.where(flipped, -projected, projected)
    return seen.attribution(projected.view(len(x), *seen.activation.shape[2:]))


def _first_component(cells: Float[Tensor, "batch places channels"]) -> Float[Tensor, "batch places"]:
    """Each matrix times its first right singular vector, of either sign."""
    wide = cells.shape[1] <= cells.shape[2]
    with torch.autocast(cells.device.type, enabled=False):
        gram = cells @ cells.mT if wide else cells.mT @ cells
        values, vectors = torch.linalg.eigh(gram.double().cpu())  # tiny, and the same on every device
        first = vectors[..., -1]
        # A v_1 = s_1 u_1, and s_1 is the root of the largest eigenvalue
        scaled: Tensor = values[:, -1:].clamp_min(0).sqrt() * first
        return scaled.to(cells) if wide else torch.einsum("bpc,bc->bp", cells, first.to(cells))
