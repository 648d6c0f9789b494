"""Kind retrain: the head is applied to every cell and its answers are averaged, so the function changes.

The authors of SoftCAM do this to VGG, with new random layers; here every layer starts from the old one's weights. A linear
layer that read a flattened grid becomes one per cell with its weights summed over places, which gives the same where all
cells are alike. What is lost where they differ has to be learned again (`training.distil`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import ConversionError
from pellucid.models.capture import CapturePoint, capture

_DROPPED = (nn.Identity, nn.Flatten)


class _Reached(Exception):
    """The trunk has given its feature map; the old head need not run."""


class CellHead(nn.Module):
    """Layers that act on every cell by itself: `(batch, channels, *grid)` to evidence `(batch, classes, *grid)`."""

    def __init__(self, layers: Sequence[nn.Module], channel_axis: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.channel_axis = channel_axis

    def forward(self, features: Tensor) -> Tensor:
        maps = features.movedim(self.channel_axis, 1)
        rows = maps.flatten(2).transpose(1, 2)
        for layer in self.layers:
            rows = layer(rows.transpose(1, 2)).transpose(1, 2) if isinstance(layer, nn.BatchNorm1d) else layer(rows)
        return rows.transpose(1, 2).reshape(rows.shape[0], -1, *maps.shape[2:])


class Retrained(nn.Module):
    """A trunk that stops at its feature map, a head per cell, and the mean over cells as logits `(batch, classes)`."""

    def __init__(self, trunk: nn.Module, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.recipe = dict(recipe)
        self.point = CapturePoint(**recipe["capture"])
        self.head = CellHead([_per_cell(trunk, **layer) for layer in recipe["layers"]], recipe["channel_axis"])
        for name in dict.fromkeys(layer["name"] for layer in recipe["layers"]):
            trunk.set_submodule(name, nn.Identity())  # never runs, so its weights need not be kept
        self.trunk = trunk

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        """The trunk's feature map."""
        found: list[Tensor] = []

        def take(features: Tensor) -> None:
            found.append(features)
            raise _Reached

        try:
            with capture(self.trunk, self.point, take):
                self.trunk(*args, **kwargs)
        except _Reached:
            return found[0]
        raise ConversionError(f"The feature map did not come by: {self.point}.")

    def forward(self, *args: Any, **kwargs: Any) -> Float[Tensor, "batch classes"]:
        return cast(Tensor, self.head(self.features(*args, **kwargs)).flatten(2).mean(2))


def retrained(
    model: nn.Module, call: Call, x: Tensor, point: CapturePoint, channel_axis: int, between: Sequence[str]
) -> Retrained:
    """`model` (which is used up) with its head applied per cell. between: layers of functions that act outside layers.

    Raises `ConversionError` for a head that is no chain of layers, or has layers that mean nothing to a single cell.
    """
    if between:
        raise ConversionError(
            f"The head cannot be rebuilt per cell: {', '.join(sorted(set(between)))} in its forward method.",
            why="Only heads that are a chain of layers can.",
            hint="Write the head as nn.Sequential.",
        )
    names, features = _chain(model, call, x, point)
    places = prod(features.shape[2:] if channel_axis == 1 else features.shape[1:-1])
    width, layers = features.shape[channel_axis], list[dict[str, Any]]()
    for name in names:
        layer = model.get_submodule(name)
        kind = _kind(layer, width)
        if kind is None:
            continue
        grid = layer.in_features // width if kind == "flattened" else 0  # type: ignore[operator]
        layers.append({"name": name, "kind": kind, "places": grid})
        width = _width_after(layer, width)
    if not any(entry["kind"] != "elementwise" for entry in layers):
        raise ConversionError(
            f"No linear layer follows {point}.",
            why=f"It has {places} cells.",
            hint="Name the layer before the pooling.",
        )
    recipe = {"capture": point.as_dict(), "channel_axis": channel_axis, "layers": layers}
    return Retrained(model, recipe)


def _chain(model: nn.Module, call: Call, x: Tensor, point: CapturePoint) -> tuple[list[str], Tensor]:
    """The innermost layers that run after the feature map has come by, in order; and the map."""
    found: list[Tensor] = []
    names: list[str] = []

    def note(name: str) -> Any:
        return lambda module, args: names.append(name) if found else None

    leaves = [(n, m) for n, m in model.named_modules() if n and (_is_leaf(m))]
    handles = [m.register_forward_pre_hook(note(n)) for n, m in leaves]
    try:
        with torch.no_grad(), capture(model, point, found.append):
            call.run(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return names, found[0]


def _is_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children())


def _kind(layer: nn.Module, width: int) -> str | None:
    """How a layer is rebuilt for single cells; None where it falls away (pooling, flattening)."""
    if isinstance(layer, _DROPPED) or "Pool" in type(layer).__name__:
        return None
    if isinstance(layer, nn.Linear) and layer.in_features == width:
        return "linear"
    if isinstance(layer, nn.Linear) and layer.in_features % width == 0:
        return "flattened"
    weight = getattr(layer, "weight", None)
    kernel = getattr(layer, "kernel_size", None)
    if kernel is not None and isinstance(weight, Tensor) and prod(weight.shape[2:]) == 1 and weight.shape[1] == width:
        return "linear"
    if isinstance(layer, nn.LayerNorm) and tuple(layer.normalized_shape) == (width,):
        return "layer_norm"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return "batch_norm"
    if not any(True for _ in layer.parameters()) and _is_elementwise(layer, width):
        return "elementwise"
    raise ConversionError(
        f"The head cannot be rebuilt per cell: {type(layer).__name__} means something else to a single cell.",
        hint="Replace the head by average pooling and a linear layer, and train it.",
    )


def _is_elementwise(layer: nn.Module, width: int) -> bool:
    """Whether shuffled numbers give shuffled answers (dropout aside, which is off while this is asked)."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(width, generator=generator)
    x = torch.randn(2, width, generator=generator)
    probe = copy.deepcopy(layer).eval()
    try:
        with torch.no_grad():
            return torch.equal(probe(x.clone())[:, order], probe(x[:, order].clone()))
    except (RuntimeError, TypeError, ValueError):
        return False


def _width_after(layer: nn.Module, width: int) -> int:
    out = getattr(layer, "out_features", getattr(layer, "out_channels", width))
    return int(out)


def _per_cell(model: nn.Module, name: str, kind: str, places: int) -> nn.Module:
    """A layer of the old head for rows `(batch, cells, channels)`, with its weights."""
    old: Any = model.get_submodule(name)
    if kind == "elementwise":
        return cast(nn.Module, copy.deepcopy(old))
    with torch.no_grad():
        if kind in ("linear", "flattened"):
            weight = old.weight.flatten(1)
            if kind == "flattened":  # flattening puts the places of one channel side by side
                weight = weight.unflatten(1, (-1, places)).sum(2)
            # On no device at first: drawing weights that are overwritten would move the user's random state.
            new: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], old.bias is not None, device="meta")
            state = {"weight": weight, **({} if old.bias is None else {"bias": old.bias})}
        elif kind == "layer_norm":
            new, state = nn.LayerNorm(old.weight.numel(), old.eps, device="meta"), old.state_dict()
        else:
            new, state = nn.BatchNorm1d(old.num_features, old.eps, old.momentum, device="meta"), old.state_dict()
        like = next(iter(state.values()))
        new = new.to_empty(device=like.device).to(like.dtype)
        new.load_state_dict({k: v.clone() for k, v in state.items()})
    new.train(old.training)
    return new
