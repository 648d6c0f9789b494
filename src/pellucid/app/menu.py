"""What a page offers for a network: methods that suit it, the options a client may set of them, and its layers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from pellucid import hooks, inputs
from pellucid.app.schemas import LayerInfo, MethodInfo, OptionInfo
from pellucid.call import weights_device
from pellucid.errors import OptionError
from pellucid.methods import METHODS

_MOST_TIMES = 4  # as many steps or samples as usual, at most
_LEFT_OUT = frozenset({"layer", "task", "head", "batch_size", "generator", "baseline", "backend", "precision"})
_COUNTS = ("samples", "steps", "masks")
_MANY_PASSES = ("score_cam", "ablation_cam", "occlusion")  # as many as there are channels, or places


def method_info(name: str) -> MethodInfo:
    """A method as its registry row and its signature have it."""
    row = METHODS[name]
    leaf = row.load()
    hints = get_type_hints(leaf, localns=vars(inputs))  # whose aliases are written in its own names
    parameters = inspect.signature(leaf).parameters
    own = [p for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in _LEFT_OUT]
    options = [option for p in own if (option := _option(p, hints[p.name])) is not None]
    counted = next((o.default for o in options if o.name in _COUNTS), None)
    return MethodInfo(
        name=name,
        title=row.summary,
        paper=row.paper,
        input_space=row.space == "pixels",
        control=row.control,
        complete=row.complete,
        layer="layer" in parameters,
        passes=None if name in _MANY_PASSES else int(counted or 1),
        options=options,
    )


def _option(parameter: inspect.Parameter, hint: Any) -> OptionInfo | None:
    """What a client may set of an option: switches, words, and numbers within bounds. Other ones keep their default."""
    name, default = parameter.name, parameter.default
    if get_origin(hint) is Literal:
        return OptionInfo(name=name, kind="choice", default=default, choices=list(get_args(hint)))
    if hint is bool:
        return OptionInfo(name=name, kind="switch", default=default)
    if hint is int:
        return OptionInfo(name=name, kind="whole", default=default, low=1, high=_MOST_TIMES * default)
    if hint is float:
        return OptionInfo(name=name, kind="number", default=default, low=0, high=max(1.0, _MOST_TIMES * default))
    if int in get_args(hint):
        return OptionInfo(name=name, kind="whole", default=default, low=1, high=1024)
    return None


def check_options(method: MethodInfo, given: Mapping[str, Any]) -> None:
    """Raise `OptionError` for an option that a client may not set, or a value out of its bounds."""
    known = {o.name: o for o in method.options}
    for name, value in given.items():
        option = known.get(name)
        if option is None:
            raise OptionError(
                f"'{method.name}' has no option '{name}' here.", hint=f"It has: {', '.join(known) or 'none'}."
            )
        if not _fits(option, value):
            raise OptionError(f"{name}={value!r} is not possible.", hint=_wanted(option))


def _fits(option: OptionInfo, value: Any) -> bool:
    if option.kind == "switch":
        return isinstance(value, bool)
    if option.kind == "choice":
        return value in option.choices
    number = isinstance(value, int if option.kind == "whole" else int | float) and not isinstance(value, bool)
    assert option.low is not None
    assert option.high is not None
    return number and option.low <= value <= option.high


def _wanted(option: OptionInfo) -> str:
    if option.kind == "switch":
        return "Give true or false."
    if option.kind == "choice":
        return f"Choose one of {', '.join(option.choices)}."
    return f"Give a {'whole ' if option.kind == 'whole' else ''}number from {option.low:g} to {option.high:g}."


def layers_of(network: nn.Module, shape: Sequence[int]) -> list[LayerInfo]:
    """The layers that run once and give a map with positions, in the order in which they run."""
    seen: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == len(shape) + 1:
            seen.append((module, tuple(output.shape[1:])))

    handles = [m.register_forward_hook(note) for m in network.modules()]
    try:
        with torch.no_grad(), hooks.untouched(network):
            network(torch.zeros(1, *shape, device=weights_device(network)))
    finally:
        for handle in handles:
            handle.remove()
    names = {m: name for name, m in network.named_modules()}
    runs = [m for m, _ in seen]
    return [
        LayerInfo(name=names[m], channels=made[0], grid=list(made[1:]), convolution=hasattr(m, "kernel_size") and hasattr(m, "in_channels"))
        for m, made in seen
        if names[m] and prod(made[1:]) > 1 and runs.count(m) == 1 and _is_worth_naming(m)
    ]  # fmt: skip


def _is_worth_naming(module: nn.Module) -> bool:
    """Convolutions and blocks; what follows them one by one (norms, ReLUs) would make the list long."""
    return next(module.children(), None) is not None or hasattr(module, "in_channels")
