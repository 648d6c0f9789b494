"""A layer's feature map in one pass and how the score changes with it: where every class activation method starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.spatial import Geometry
from pellucid.targets import Target


@dataclass(frozen=True)
class FeatureMap:
    """What one pass showed of a layer: its output in float32 at least, and where its cells lie in the input.

    output, target: what the network gave, without its graph, and what is explained of it. layer, module: the layer.
    targets: how many targets each input has where these are several. Every row of the activation is then one input
    with one of its targets, so that a method works on rows and need not know.
    """

    activation: Float[Tensor, "batch channels *grid"]
    output: Any
    target: Target
    geometry: Geometry
    layer: str
    module: nn.Module
    targets: int | None = None

    def attribution(self, cells: Float[Tensor, "batch *grid"], rectify: bool = False) -> Attribution:
        """The map a method made of it; with `rectify` only what is positive."""
        cells = cells.relu() if rectify else cells
        cells = cells if self.targets is None else cells.view(-1, self.targets, *cells.shape[1:])
        return Attribution(cells, self.geometry, self.output, self.target, layer=self.layer)


@dataclass(frozen=True, kw_only=True)
class SlopedFeatureMap(FeatureMap):
    """`slope`: the gradient of each row's score with respect to the activation, in float32 at least."""

    slope: Float[Tensor, "batch channels *grid"]


def observe(call: Call, x: Tensor, target: Target, layer: str | nn.Module | None) -> FeatureMap:
    """One forward pass without a graph. `layer`: a name, a module, or None for the last spatial layer.

    Raises `LayerError` for a layer that runs more than once or has no positions.
    """
    chosen = hooks.spatial_layer(call.model, call, x, layer)
    with hooks.tap(call.model, chosen, gradient=False) as taken:
        output = call(x.clone())  # a copy, since the network may work on its input in place
        decided = target.resolve(output)
        activation = full_precision(taken.feature_map(x))
    place = call.geometry if layer is None else Geometry.unregistered
    geometry = place(activation.shape[2:], x.shape[2:])
    return FeatureMap(activation, hooks.detached(output), decided, geometry, taken.name, chosen)


def differentiate(call: Call, x: Tensor, target: Target, layer: str | nn.Module | None) -> SlopedFeatureMap:
    """One forward pass, and a backward pass through what follows the layer alone.

    The gradient is taken at the layer's output as it is, whatever works on it in place afterwards.
    Raises `LayerError` as `observe` does, and where the layer does not reach the score.
    """
    chosen = hooks.spatial_layer(call.model, call, x, layer)
    with hooks.tap(call.model, chosen) as taken:
        output = call(x.clone())  # a copy, since the network may work on its input in place
        decided = target.resolve(output)
        activation = taken.feature_map(x)
        slope = full_precision(hooks.gradient(decided(output), activation, f"layer '{taken.name}'"))
    place = call.geometry if layer is None else Geometry.unregistered
    geometry = place(activation.shape[2:], x.shape[2:])
    activation, several = full_precision(activation.detach()), None
    if slope.ndim > activation.ndim:
        several = slope.shape[1]
        activation = activation[:, None].expand_as(slope).flatten(0, 1)
        slope = slope.flatten(0, 1)
    return SlopedFeatureMap(
        activation, hooks.detached(output), decided, geometry, taken.name, chosen, several, slope=slope
    )


def full_precision(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they already are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
