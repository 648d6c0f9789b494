"""A trunk that sees little, made of a network that is there already, with its trained weights.

After Brendel and Bethge 2019 (BagNet: late convolutions 1 wide). There the network is trained from scratch; here the
narrow kernels are the sums of the wide ones, so that a trained network goes on from what it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks
from pellucid.backends import first_line
from pellucid.call import weights_device
from pellucid.errors import LayerError, OptionError
from pellucid.models import zoo

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLINGS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def local_trunk(model: nn.Module, example: Float[Tensor, "batch channels *spatial"], layer: str) -> nn.Module:
    """A copy of a network in which everything after `layer` is 1 wide, to be fine-tuned and converted.

    layer: dotted name of the last layer that may look around, for example "layer2" of a ResNet. Every convolution that
    first runs after it (found by a run on two examples) becomes one of width and stride 1 whose weights are the sums of
    its kernels over space. A cell of the last map then sees what a cell of `layer` sees, and there are as many of them:
    maps get finer by the strides that are gone, and passes dearer. Where a map is the same all around, a 1-wide
    convolution answers as the wide one did; elsewhere it does not, so the logits change and the network has to be trained.

    The network given is not touched. Raises `LayerError` where there is no such layer, or a pooling over a window runs
    after it (name a later layer), `OptionError` where no convolution does, or the narrow network does not run.

    Receptive fields of BatchNorm in training and of global blocks (squeeze-and-excitation) are the whole input still.
    """
    narrow, few = deepcopy(model), example[:2].detach().clone().to(weights_device(model))
    with torch.inference_mode(False), hooks.untouched(narrow):
        after = _after(narrow, few, layer)
        _narrow(narrow, after)
        try:
            narrow(few)
        except Exception as error:
            raise OptionError(
                f"The network does not run with 1-wide convolutions after '{layer}'.",
                why=first_line(error),
                hint="Name a later layer; convolutions without padding cannot be narrowed.",
            ) from error
    for name in after:
        narrow.get_submodule(name).train(model.get_submodule(name).training)
    known = zoo.source_of(model)
    narrow.pellucid_source = None if known is None else {"name": "pellucid:local_trunk", "options": {"network": known, "convolutions": after}}  # type: ignore[assignment]  # fmt: skip
    return narrow


def rebuilt_local_trunk(network: Mapping[str, Any], convolutions: Sequence[str]) -> nn.Module:
    """The same structure with random weights, from what a saved one notes of itself."""
    model = zoo.build(network["name"], **network["options"])
    _narrow(model, convolutions)
    return model.eval()


def _after(model: nn.Module, x: Tensor, layer: str) -> list[str]:
    """The names of the convolutions that first run after `layer`."""
    hooks.find_layer(model, layer)
    modules = dict(model.named_modules())
    order: list[str] = []
    watched = {n: m for n, m in modules.items() if n == layer or isinstance(m, (*_CONVOLUTIONS, *_POOLINGS))}
    handles = [m.register_forward_hook(lambda *_, name=n: order.append(name)) for n, m in watched.items()]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    if layer not in order:
        raise LayerError(f"Layer '{layer}' does not run.", hint="Name one that the network calls.")
    end = order.index(layer)
    later = [name for name in dict.fromkeys(order[end + 1 :]) if name not in order[:end]]
    for name in later:
        if isinstance(watched[name], _POOLINGS):
            raise LayerError(
                f"'{name}' ({type(watched[name]).__name__}) runs after '{layer}' and pools over a window.",
                hint=f"Name a layer that runs after '{name}'.",
            )
    if not later:
        raise OptionError(f"No convolution runs after '{layer}'.", hint="Name an earlier layer.")
    return later


def _narrow(model: nn.Module, convolutions: Sequence[str]) -> None:
    for name in convolutions:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _one_wide(model.get_submodule(name)))


def _one_wide(conv: Any) -> Any:
    kernel = conv.weight.detach()
    made: Any = type(conv)(
        conv.in_channels, conv.out_channels, 1, groups=conv.groups, bias=conv.bias is not None,
        device=kernel.device, dtype=kernel.dtype,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(kernel.sum(dim=tuple(range(2, kernel.ndim)), keepdim=True))
        if conv.bias is not None:
            made.bias.copy_(conv.bias)
    return made
