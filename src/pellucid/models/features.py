"""What the evidence layer reads: the features of every cell."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks
from pellucid.errors import LayerError, OptionError
from pellucid.models.capture import CapturePoint, capture
from pellucid.models.multi_scale import MultiScale
from pellucid.models.softcam import SoftCAM


def cell_features(
    network: nn.Module, x: Float[Tensor, "batch channels *size"], grid: tuple[int, ...]
) -> Float[Tensor, "batch features *grid"]:
    """The feature map from which a network's evidence of this grid is made; of several scales that of the finest.

    Raises `OptionError` for a network that is no SoftCAM, `LayerError` where no feature map has this grid (a finer map).
    """
    if not isinstance(network, SoftCAM | MultiScale):
        raise OptionError(
            f"{type(network).__name__} has no features before an evidence layer.",
            why="Cells are compared by what a SoftCAM makes its evidence of.",
            hint="Convert it first: pellucid.convert(model, example).",
        )
    found: list[Tensor] = []
    with torch.no_grad(), hooks.untouched(network), ExitStack() as stack:
        for point, axis in _points(network):
            stack.enter_context(capture(network.model, point, partial(_keep, found, axis)))
        network.model(x)
    for features in found:
        cells = features.flatten(2)
        if cells.shape[2] == torch.Size(grid).numel():
            return cells.reshape(*cells.shape[:2], *grid)
    raise LayerError(
        f"No feature map of the network has the grid {grid}.",
        why=f"Those it reads have {', '.join(str(tuple(f.shape[2:])) for f in found) or 'none'}.",
        hint="Use the network itself, not its finer map.",
    )


def _points(network: SoftCAM | MultiScale) -> list[tuple[CapturePoint, int]]:
    """Where feature maps come by, and the axis of their channels."""
    if isinstance(network, MultiScale):
        return [(stage.capture, stage.channel_axis) for stage in network.stages]
    return [(network.plan.capture, network.plan.channel_axis)]


def _keep(found: list[Tensor], axis: int, features: Tensor) -> None:
    found.append(features.detach().movedim(axis, 1).clone())
