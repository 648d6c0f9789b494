"""What a convolution looks for, as its weights say it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from pellucid import hooks
from pellucid.errors import LayerError, nearest
from pellucid.feature_map import full_precision
from pellucid.view import Filters


def filters(model: nn.Module, *, layer: str | nn.Module | None = None) -> Filters:
    """The kernels of a convolution of any rank, grouped, depthwise or transposed, as `(filters, inputs, *size)`.

    layer: a convolution, or a block that holds exactly one; by default the first one, in the order in which the network
    lists its layers. Where that is a picture layer with three channels, these are taken for red, green and blue.
    The values are a copy, in float32 at least.

    Kernels say what a layer looks for only as long as it looks at the input itself; further in they mix channels whose
    meaning they do not tell. `feature_maps` and `activation_maximisation` say more there.

    Raises `LayerError` for a layer that does not exist or is no convolution.
    """
    convolution = _convolution(model, layer)
    name = hooks.layer_name(model, convolution) or type(convolution).__name__
    if is_lazy(convolution.weight):
        raise LayerError(
            f"Layer '{name}' has no weights yet.",
            why="It takes its shape from the first input.",
            hint="Run the network once before looking into it.",
        )
    kernels = full_precision(_arranged(convolution)).detach().clone()
    first = convolution is _convolutions(model)[0]
    colour = first and isinstance(convolution, nn.Conv2d) and convolution.groups == 1 and kernels.shape[1] == 3
    return Filters(name, kernels, convolution.groups, convolution.transposed, colour)


def _convolutions(module: nn.Module) -> list[_ConvNd]:
    return [m for m in module.modules() if isinstance(m, _ConvNd)]


def _convolution(model: nn.Module, layer: str | nn.Module | None) -> _ConvNd:
    chosen = model if layer is None else hooks.find_layer(model, layer)
    found = _convolutions(chosen)
    if len(found) == 1 or (found and layer is None):
        return found[0]
    names = {m: name for name, m in model.named_modules()}
    if found:
        raise LayerError(
            f"Layer '{names[chosen]}' holds {len(found)} convolutions.",
            why="The filters of one are shown.",
            hint=f"Name one, for example '{names[found[0]]}'.",
        )
    raise LayerError(
        f"Layer '{names[chosen]}' is a {type(chosen).__name__}."
        if names[chosen]
        else "The network has no convolution.",
        why="Only convolutions have filters.",
        hint=nearest(names[chosen], [names[m] for m in _convolutions(model)]),
    )


def _arranged(convolution: _ConvNd) -> Tensor:
    """The weights with the output channel first; a transposed convolution keeps its input channel there."""
    weight = convolution.weight
    if not convolution.transposed:
        return weight
    grouped = weight.view(convolution.groups, -1, *weight.shape[1:])  # (groups, inputs, filters of a group, *size)
    return grouped.transpose(1, 2).flatten(0, 1)
