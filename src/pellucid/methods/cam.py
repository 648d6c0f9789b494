"""Class activation mapping (Zhou et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pellucid import hooks, spatial, targets
from pellucid.call import Call, has_evidence
from pellucid.errors import LayerError
from pellucid.explanation import Attribution
from pellucid.spatial import Geometry
from pellucid.targets import Target


def cam(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    head: str | nn.Module | None = None,
) -> Attribution:
    """Equation 2 of the paper, M_c = sum_k w_k^c A_k, divided by the number of cells: cells + constant = score.

    The paper pools by summing, so there the cells of M_c add up to the class score; networks pool by averaging, and so
    each cell adds M_c / n to the logit. The constant is the head's bias.

    layer, head: the layer that is pooled and the linear layer (or 1x1 convolution) behind it; by default the last
    spatial layer and whichever linear layer fits. That they belong together is checked on the numbers of this very
    pass, with and without a ReLU in between: W mean(A) + b must be the logits.
    A SoftCAM answers with its own evidence, no class taken off (`evidence` with gauge="raw").

    Raises `LayerError` where the logits are not linear in a pooled feature map.
    """
    model = call.model
    if has_evidence(model) and layer is None and head is None:
        return _of_evidence(call, x, target)
    chosen = hooks.spatial_layer(model, call, x, layer)
    with hooks.tap(model, chosen, gradient=False) as taken:
        output = call(x)
    decided = target.resolve(output)
    weights = decided.weights(output)
    modules = model.modules() if head is None else [hooks.find_layer(model, head)]
    logits = output.reshape(len(x), -1)
    found = _fitting(_heads(taken.feature_map(x), logits.shape[1], chosen, modules), logits)
    if found is None:
        raise LayerError(
            f"The logits are not a linear layer of the mean over '{taken.name}'.",
            why="CAM is defined only where global average pooling and one linear layer follow the feature map.",
            hint="Use method='grad_cam', which needs no such head, or name the layers: layer='...', head='...'.",
        )
    per_channel = weights.to(found.weight) @ found.weight
    cells = spatial.combine(found.features, per_channel) / found.features[0, 0].numel()
    constant = weights.to(found.weight) @ found.bias + targets.offset(decided, output).to(found.weight)
    place = call.geometry if layer is None else Geometry.unregistered
    geometry = place(found.features.shape[2:], x.shape[2:])
    return Attribution(cells, geometry, hooks.detached(output), decided, True, constant, layer=taken.name)


def _of_evidence(call: Call, x: Tensor, target: Target) -> Attribution:
    with torch.no_grad():
        found = call.evidence(x)
    output = call.select(found.output)
    decided = target.resolve(output)
    weights = decided.weights(output)
    cells = spatial.combine(found.maps, weights) / found.positions
    bias = found.bias.to(cells).expand(len(x), -1)
    constant = torch.einsum("b...c,bc->b...", weights.to(cells), bias) + targets.offset(decided, output).to(cells)
    return Attribution(cells, found.geometry, hooks.detached(output), decided, found.complete, constant)


@dataclass(frozen=True)
class Head:
    """Features and the linear layer that turns their mean into the logits."""

    features: Float[Tensor, "batch channels *grid"]
    weight: Float[Tensor, "classes channels"]
    bias: Float[Tensor, "classes"]


def _heads(features: Tensor, classes: int, layer: nn.Module, modules: Iterable[nn.Module]) -> Iterator[Head]:
    """What may turn the mean features into logits: a linear layer, with or without a ReLU before it, or nothing more."""
    yield from _linear(features, classes, modules)
    if classes == features.shape[1]:
        own = features.new_zeros(classes)
        if isinstance(layer, _ConvNd) and layer.bias is not None:
            own = layer.bias.detach()
        yield Head(features - spatial.expand(own, features[0]), torch.eye(classes).to(own), own)


def linear_head(
    features: Float[Tensor, "batch channels *grid"],
    modules: Iterable[nn.Module],
    logits: Float[Tensor, "batch classes"],
) -> Head | None:
    """The linear layer among `modules` that makes these logits of the features' mean over places, if there is one."""
    return _fitting(_linear(features, logits.shape[1], modules), logits)


def _linear(features: Tensor, classes: int, modules: Iterable[nn.Module]) -> Iterator[Head]:
    for module in modules:
        if isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and _pointwise(module)):
            weight = module.weight.detach().flatten(1)
            bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
            if weight.shape == (classes, features.shape[1]):
                yield Head(features, weight, bias)
                yield Head(features.relu(), weight, bias)


def _pointwise(convolution: _ConvNd) -> bool:
    return convolution.groups == 1 and set(convolution.kernel_size) == {1}


def _fitting(heads: Iterable[Head], logits: Float[Tensor, "batch classes"]) -> Head | None:
    """The first head whose product with the mean features is the logits, to rounding; None where none is."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    for head in heads:
        weight, bias = head.weight.to(exact), head.bias.to(exact)
        made = head.features.to(exact).flatten(2).mean(2) @ weight.T + bias
        tolerance = max(1e-4, *(8 * torch.finfo(d).eps for d in (logits.dtype, head.features.dtype)))
        if float((made - exact).abs().max()) <= tolerance * float(exact.abs().max()):
            return Head(head.features, weight, bias)
    return None
