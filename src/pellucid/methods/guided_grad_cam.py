"""Guided backpropagation where Grad-CAM is positive (Selvaraju et al. 2017)."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from pellucid import inputs, spatial
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.methods.grad_cam import grad_cam
from pellucid.methods.guided_backprop import differentiate_gated
from pellucid.targets import Target


def guided_grad_cam(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    reduce: inputs.Reduce = "sum",
) -> Attribution:
    """Section 3.2 of the paper: guided backpropagation times the rectified Grad-CAM map, brought to the input's size.

    The sign is that of guided backpropagation. The map is interpolated linearly, each cell where it looks if that is
    known; Captum takes the nearest cell unless told otherwise. All 0 where no cell of Grad-CAM is positive.
    layer: of Grad-CAM, by default the last spatial layer. reduce: how channels become one value: "sum", "abs_max" or
    "none".

    Raises `LayerError` as `grad_cam` and `guided_backprop` do.
    """
    inputs.check_reduction(reduce)
    coarse = grad_cam(call, x, target, layer=layer, rectify=True)
    seen = differentiate_gated(call, x, target, masked=True)
    weight = spatial.upsample(coarse.map, coarse.geometry)
    return replace(seen.attribution(seen.slope * weight[:, None], reduce), layer=coarse.layer)
