"""Looking into a network without leaving a trace: taps on layers, and a guard around everything that is touched."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pellucid.errors import LayerError, nearest

# Modules that make no feature map of their own: the last spatial layer is looked for before them.
_POOLS = ("Pool", "Dropout", "Identity", "Flatten", "Upsample")


@dataclass
class Tap:
    """What a tapped layer gave during the calls made while the tap was open."""

    name: str
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def activation(self) -> Tensor:
        """The layer's output, a leaf that `torch.autograd.grad` can differentiate to. Refused unless it ran once."""
        if len(self.outputs) != 1:
            raise LayerError(
                f"Layer '{self.name}' ran {len(self.outputs)} times in one pass.",
                why="A map of it is only defined when it runs exactly once.",
                hint="Choose a layer that is used once on the way from the input to the output.",
            )
        return self.outputs[0]

    def feature_map(self, x: Tensor) -> Tensor:
        """The activation, once it is known to be a map with positions for the inputs `x`."""
        found = self.activation
        if found.ndim != x.ndim or x.ndim < 3 or len(found) != len(x):
            raise LayerError(
                f"Layer '{self.name}' gives {tuple(found.shape)} for inputs {tuple(x.shape)}.",
                why="A map needs (batch, channels, *spatial) with as many axes as the input.",
                hint="Choose a layer before the network pools or flattens.",
            )
        return found


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what `torch.compile` compiled as it is written, and compile nothing.

    Code that was compiled before does not ask for hooks that came later, and what is compiled under a hook may keep it.
    """
    loaded = "torch._dynamo" in sys.modules  # else nothing can be compiled, and loading it takes seconds
    with torch.compiler.set_stance("force_eager") if loaded else nullcontext():
        yield


@contextmanager
def tap(model: nn.Module, layer: nn.Module, *, gradient: bool = True) -> Iterator[Tap]:
    """Record what `layer` gives. With `gradient`, autograd sees only what comes after the layer.

    The network before the layer runs without a graph; the layer's output becomes a leaf, and a clone of it goes on, so
    that an in-place operation further on (ReLU) cannot change what was recorded. This costs the memory of the tail
    alone. Gradient mode and hooks are as before afterwards.
    """
    taken = Tap(layer_name(model, layer))

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        found = _map_in(output, taken.name)
        if not gradient:
            taken.outputs.append(found.detach().clone())
            return output
        if not torch.is_grad_enabled():
            torch.set_grad_enabled(True)
        leaf = found.detach()
        leaf = (leaf.clone() if leaf.is_inference() else leaf).requires_grad_()
        taken.outputs.append(leaf)
        return _replaced(output, found, leaf.clone())

    handle = layer.register_forward_hook(hook)
    before = torch.is_grad_enabled()
    try:
        with torch.inference_mode(False), uncompiled():
            torch.set_grad_enabled(False)
            yield taken
    finally:
        torch.set_grad_enabled(before)
        handle.remove()


@contextmanager
def listen(model: nn.Module, layer: nn.Module) -> Iterator[Tap]:
    """Record what `layer` gives together with its graph, so that it can be differentiated to what came before."""
    taken = Tap(layer_name(model, layer))
    handle = layer.register_forward_hook(
        lambda module, args, output: taken.outputs.append(_map_in(output, taken.name).clone())
    )
    try:
        with uncompiled():
            yield taken
    finally:
        handle.remove()


@contextmanager
def silent(model: nn.Module, layer: nn.Module) -> Iterator[None]:
    """Let `layer` give zeros instead of its feature map."""
    name = layer_name(model, layer)

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        found = _map_in(output, name)
        return _replaced(output, found, torch.zeros_like(found))

    handle = layer.register_forward_hook(hook)
    try:
        with uncompiled():
            yield
    finally:
        handle.remove()


def _parts(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    return list(output) if isinstance(output, list | tuple) else [output]


def _map_in(output: Any, name: str) -> Tensor:
    """The one feature map in what a layer returns: a tensor, or the only one with positions in a tuple or dict."""
    found = [part for part in _parts(output) if isinstance(part, Tensor)]
    maps = found if isinstance(output, Tensor) else [part for part in found if part.ndim >= 3]
    if len(maps) != 1:
        raise LayerError(
            f"Layer '{name}' returns a {type(output).__name__} with {len(maps)} feature maps.",
            why="Which of them is meant cannot be known.",
            hint="Choose one of its sub-layers.",
        )
    return maps[0]


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """What a layer returned, with one tensor in it exchanged."""
    if isinstance(output, Tensor):
        return new
    if isinstance(output, Mapping):
        changed: Any = copy(output)
        changed.update({k: new for k, v in output.items() if v is old})
        return changed
    values = [new if v is old else v for v in output]
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)


def gradient(score: Float[Tensor, "batch *targets"], point: Tensor, name: str) -> Tensor:
    """How each input's score changes with `point` (same shape as it); `.grad` of nothing is touched.

    The scores are added up first, which leaves the inputs apart as long as the network does. With several scores per
    input the result has their axis after the first: `(batch, targets, ...)`.
    Raises `LayerError` when the score does not depend on the point.
    """
    totals = score.float().sum(0)
    found = _slopes(totals, point) if score.requires_grad else None
    if found is None:
        raise LayerError(
            f"The score does not depend on {name}.",
            why="No gradient reaches it: it lies on another branch, or the network cuts the gradient.",
            hint="Choose a layer on the way from the input to the output that is explained.",
        )
    return found


# How many scores are differentiated in one backward pass: it holds the tail's gradients of all of them.
_AT_A_TIME = 32


def _slopes(totals: Float[Tensor, "*targets"], point: Tensor) -> Tensor | None:
    """d totals / d point, with the targets' axis second; None where the point has no part in them."""
    if totals.ndim == 0:
        return torch.autograd.grad(totals, point, allow_unused=True)[0]
    unit = torch.eye(len(totals), dtype=totals.dtype, device=totals.device)
    parts = [_weighted_slopes(totals, point, rows) for rows in torch.split(unit, _AT_A_TIME)]
    found = [part for part in parts if part is not None]
    return torch.cat(found).movedim(0, 1) if found else None


def _weighted_slopes(totals: Tensor, point: Tensor, weights: Float[Tensor, "rows targets"]) -> Tensor | None:
    """The gradient of each weighted sum of the totals, first axis rows, in one backward pass where that is possible."""

    def slope(given: Tensor, batched: bool) -> Tensor | None:
        return torch.autograd.grad(
            totals, point, given, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )[0]

    try:
        return slope(weights, True)
    except RuntimeError:  # something on the way has no batched backward pass: one after the other, then
        alone = [found for found in (slope(row, False) for row in weights) if found is not None]
        return torch.stack(alone) if alone else None


def detached(output: Any) -> Any:
    """A network's output without its graph, also in lists, tuples and dicts."""
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, Mapping):
        return {k: detached(v) for k, v in output.items()}
    return [detached(v) for v in output] if isinstance(output, list | tuple) else output


@contextmanager
def untouched(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Run with the network in evaluation mode and leave everything as it was, also after an error.

    Kept: every module's mode, `.grad` and `requires_grad` of every parameter, the random states of torch, NumPy and
    Python, and the gradient mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    grads = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    enabled = torch.is_grad_enabled()
    python, numpy = random.getstate(), np.random.get_state()
    devices = sorted({p.device.index or 0 for p, _, _ in grads if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        try:
            for parameter, _, _ in grads:
                if parameter.grad is not None:
                    parameter.grad = None  # what the user has is kept aside, so that nothing can add to it
            if any(mode != training for _, mode in modes):
                model.train(training)
            yield
        finally:
            for module, mode in modes:  # setting is slow, so only what differs is set
                if module.training != mode:
                    module.training = mode
            for parameter, grad, requires_grad in grads:
                if parameter.requires_grad != requires_grad:
                    parameter.requires_grad_(requires_grad)
                if parameter.grad is not grad:
                    parameter.grad = grad
            torch.set_grad_enabled(enabled)
            random.setstate(python)
            np.random.set_state(numpy)


def layer_name(model: nn.Module, layer: nn.Module) -> str:
    """The layer's dotted name; `LayerError` when it is not part of the network."""
    for name, module in model.named_modules():
        if module is layer:
            return str(name)
    raise LayerError(
        f"The given {type(layer).__name__} is not a layer of this network.",
        why="A layer is found by its name or by being the very module of the network.",
        hint="Pass a name from `model.named_modules()`.",
    )


def find_layer(model: nn.Module, layer: str | nn.Module) -> nn.Module:
    """The layer that is meant by a dotted name or by the module itself."""
    if isinstance(layer, nn.Module):
        layer_name(model, layer)
        return layer
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if layer not in modules:
        raise LayerError(f"The network has no layer '{layer}'.", hint=nearest(str(layer), [n for n in modules if n]))
    return modules[layer]


def spatial_layer(
    model: nn.Module, run: Callable[[Tensor], Any], x: Tensor, layer: str | nn.Module | None = None
) -> nn.Module:
    """The layer whose feature map is looked at: the given one, or else the last before pooling.

    A network may name it itself (`spatial_layer`, a string). Choosing takes one pass of `run(x)`, remembered for as long as the network has the same modules.
    Raises `LayerError` for a layer with its channels last, whose map would mix channels and places.
    """
    if layer is None:
        named = getattr(model, "spatial_layer", None)  # a network may know better than its order of layers tells
        return find_layer(model, named) if isinstance(named, str) else last_spatial_layer(model, run, x)
    found = find_layer(model, layer)
    if any(type(m) is nn.LayerNorm for m in model.modules()):  # convolutional networks need no look at their axes
        survey = _survey(model, run, x)
        shapes = [shape for module, shape in survey.seen if module is found]
        if shapes and len(shapes[-1]) == x.ndim and not survey.channels_first(shapes[-1]):
            raise LayerError(
                f"Layer '{layer_name(model, found)}' gives {shapes[-1]}: its channels come last.",
                why="A map needs (batch, channels, *spatial).",
                hint="Choose a layer after the axes are put in order, if there is one.",
            )
    return found


def last_spatial_layer(model: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> nn.Module:
    """The layer whose output is the last feature map before pooling: the usual target of a class activation map.

    Taken is the last output with as many axes as the input, channels first, more than one position, made by a layer
    that runs once and does not pool; where a block and its last part give the same tensor, the block. Refused when
    most of the network's parameters still work on positions after it (a transformer behind its patch layer).
    """
    modules, key = _modules(model, x)
    chosen = _CHOSEN.get(model)
    if chosen is None or chosen[0] != key:
        chosen = _CHOSEN[model] = (key, layer_name(model, _last(model, _survey(model, run, x), x)))
    return modules[chosen[1]]


def _last(model: nn.Module, survey: _Survey, x: Tensor) -> nn.Module:
    runs = Counter(module for module, _ in survey.seen)
    for i, (module, shape) in reversed(list(enumerate(survey.seen))):
        pools = any(word in type(module).__name__ for word in _POOLS)
        if (
            len(shape) == x.ndim
            and shape[2:].numel() > 1
            and not pools
            and runs[module] == 1
            and survey.channels_first(shape)
        ):
            survey.check_is_late(i, layer_name(model, module))
            return module
    raise LayerError(
        "No layer of this network gives a feature map with positions.",
        why=f"An output with {x.ndim} axes, channels first and more than one position was looked for.",
        hint="Name the layer to explain: layer='...' (see model.named_modules()).",
    )


@dataclass(frozen=True)
class _Survey:
    """The shapes of all layers' outputs in one pass, in the order in which they were finished.

    sizes: the spatial sizes that layers with a known order of axes gave. mixed: some of those had channels last.
    """

    seen: list[tuple[nn.Module, torch.Size]]
    sizes: set[torch.Size]
    mixed: bool

    def channels_first(self, shape: torch.Size) -> bool:
        return not self.mixed or shape[2:] in self.sizes

    def check_is_late(self, index: int, name: str) -> None:
        def count(part: list[tuple[nn.Module, torch.Size]]) -> int:
            return sum(p.numel() for module in {m for m, _ in part} for p in module.parameters(recurse=False))

        later = [(m, shape) for m, shape in self.seen[index + 1 :] if len(shape) > 2 and shape[2:].numel() > 1]
        if 2 * count(later) > count(self.seen):
            raise LayerError(
                f"Most of this network's work comes after its last feature map ('{name}').",
                why="What follows still works on positions, as transformers do on tokens; a map of that layer would say little.",
                hint="Use method='saliency', or name the layer to explain: layer='...'.",
            )


# Shapes in one pass, per network; forgotten with the network, and made anew when its modules or the input's shape change.
_SURVEYS: WeakKeyDictionary[nn.Module, tuple[Any, list[tuple[str, torch.Size]]]] = WeakKeyDictionary()
# The layer's name that was chosen from them, under the same conditions.
_CHOSEN: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def _modules(model: nn.Module, x: Tensor) -> tuple[dict[str, nn.Module], Any]:
    """The layers by name, and what a survey of them holds for: these very layers, inputs of this shape."""
    modules = dict(model.named_modules())
    return modules, (x.shape[1:], [(name, id(module)) for name, module in modules.items()])


def _survey(model: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> _Survey:
    modules, key = _modules(model, x)
    names = {module: name for name, module in modules.items()}
    known = _SURVEYS.get(model)
    if known is None or known[0] != key:
        found = _shapes(model, run, x)
        known = (key, [(names[module], shape) for module, shape in found])
        _SURVEYS[model] = known
    seen = [(modules[name], shape) for name, shape in known[1]]
    first = {s[2:] for m, s in seen if isinstance(m, _ConvNd | _NormBase | nn.GroupNorm) or "Pool" in type(m).__name__}
    last = {s[1:-1] for m, s in seen if len(s) > 2 and (isinstance(m, nn.Linear) or type(m) is nn.LayerNorm)}
    return _Survey(seen, first | last, bool(last))


def _shapes(model: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> list[tuple[nn.Module, torch.Size]]:
    seen: list[tuple[nn.Module, torch.Size]] = []

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.append((module, output.shape))

    handles = [m.register_forward_hook(hook) for m in model.modules() if m is not model]
    try:
        with torch.no_grad(), uncompiled():
            run(x.clone())  # a copy, since the network may work on its input in place
    finally:
        for handle in handles:
            handle.remove()
    return seen
