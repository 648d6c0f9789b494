"""Captum's attribution classes as methods: `captum:DeepLift`, `captum:KernelShap`, `captum:LayerConductance`."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid import hooks, inputs
from pellucid.call import Call
from pellucid.errors import LayerError, OptionError, nearest
from pellucid.explanation import Attribution
from pellucid.feature_map import full_precision
from pellucid.inputs import SeenInput
from pellucid.spatial import Geometry
from pellucid.targets import Target

# What the adapter itself gives to Captum, and what would change the kind of the answer.
_TAKEN = frozenset({
    "self", "forward_func", "model", "layer", "device_ids", "inputs", "target", "additional_forward_args",
    "return_convergence_delta", "return_input_shape",
})  # fmt: skip
# Options of Captum that `explain` would take for its own.
_RENAMED = {"method": "method_"}


def captum_adapter(name: str) -> Callable[..., Attribution]:
    """The method `captum:NAME`: a class of `captum.attr` that explains one tensor of inputs and a target.

    Its options are those of Captum's constructor and of its `attribute`, under the same names, but `method_` for
    `method`. Besides, `reduce` ("sum", "abs_max", "none") makes one value of the channels, and `layer` (a name or the
    module) is for the classes that look at a layer, whose maps have that layer's cells. Chance comes from `generator`.

    Captum works on a copy of the network without in-place operations, since several of its methods are wrong on these.
    What it cannot see it still cannot see: its guided backpropagation and DeepLift miss `F.relu`.

    Raises `OptionError` where Captum is missing, has no such class, or refuses the options.
    """
    kind = _class(name)
    options = _options(kind)
    layered = "layer" in inspect.signature(kind.__init__).parameters

    def method(
        call: Call,
        x: Float[Tensor, "batch channels *spatial"],
        target: Target,
        *,
        reduce: inputs.Reduce = "sum",
        layer: str | nn.Module | None = None,
        generator: torch.Generator | None = None,
        **given: Any,
    ) -> Attribution:
        inputs.check_reduction(reduce)
        _check_given(name, options, given)
        seen = inputs.observe(call, x, target)
        scored = _Scored(call, seen.target)
        chosen = hooks.layer_name(call.model, hooks.spatial_layer(call.model, call, x, layer)) if layered else ""
        place = [scored.network.get_submodule(chosen)] if layered else []
        own = {k: v for k, v in given.items() if k in inspect.signature(kind.__init__).parameters}
        asked = {options[k].name: v for k, v in given.items() if k not in own}
        rows = torch.arange(len(x), device=x.device)
        with torch.inference_mode(False), torch.enable_grad(), _quiet(), _seeded(generator, x), _told(name):
            leaf = x.detach().clone().requires_grad_()
            found = kind(scored, *place, **own).attribute(leaf, target=0, additional_forward_args=(rows,), **asked)
        return replace(_attribution(name, seen, found, x, reduce), layer=chosen)

    method.__doc__ = f"Captum's {name}; see `captum_adapter`."
    vars(method)["__signature__"] = _signature(method, options, layered)
    return method


class _Scored(nn.Module):
    """A copy of the network, scored: `(inputs, rows) -> (batch, 1)`. `rows` tells which inputs these are versions of."""

    def __init__(self, call: Call, target: Target) -> None:
        super().__init__()
        self.network = copy.deepcopy(call.model)
        for module in self.network.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]
        self.bound = replace(call, model=self.network)
        self.target = target

    def forward(self, x: Float[Tensor, "batch ..."], rows: Int[Tensor, "batch"]) -> Float[Tensor, "batch 1"]:
        return self.target.rows(rows)(self.bound.rows(rows)(x))[:, None]


def _captum() -> ModuleType:
    try:
        import captum.attr
    except ImportError as error:
        raise OptionError(
            "Captum is not installed.",
            why="Methods named captum:... are Captum's own.",
            hint="Install the extra: pip install 'pellucid[captum]'.",
        ) from error
    found: ModuleType = captum.attr
    return found


def _class(name: str) -> Any:
    known = {n: c for n, c in vars(_captum()).items() if inspect.isclass(c) and _fits(c)}
    if name not in known:
        raise OptionError(
            f"Captum has no method '{name}' that explains one input and a target.", hint=nearest(name, sorted(known))
        )
    return known[name]


def _fits(kind: Any) -> bool:
    """Made of a network, and asked with inputs and a target."""
    made = list(inspect.signature(kind.__init__).parameters)[1:2]
    asked = inspect.signature(kind.attribute).parameters if hasattr(kind, "attribute") else {}
    return bool(made) and made[0] in ("forward_func", "model") and {"inputs", "target"} <= set(asked)


def _options(kind: Any) -> dict[str, inspect.Parameter]:
    """What may be set of a class, by the name it has here."""
    found = {}
    for function in (kind.__init__, kind.attribute):
        for parameter in inspect.signature(function).parameters.values():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and parameter.name not in _TAKEN:
                found[_RENAMED.get(parameter.name, parameter.name)] = parameter
    return found


def _signature(method: Any, options: Mapping[str, inspect.Parameter], layered: bool) -> inspect.Signature:
    """The options one by one, as a method written by hand has them."""
    plain = inspect.signature(method)
    kept = [p for p in plain.parameters.values() if p.kind is not p.VAR_KEYWORD and (layered or p.name != "layer")]
    own = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=p.default) for n, p in options.items()]
    return plain.replace(parameters=[*kept, *own])


def _check_given(name: str, options: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
    for option in given:
        if option not in options:
            raise OptionError(f"'captum:{name}' has no option '{option}'.", hint=nearest(option, options))
    for option, parameter in options.items():
        if parameter.default is parameter.empty and option not in given:
            raise OptionError(f"'captum:{name}' needs the option '{option}'.", hint="See Captum's documentation of it.")


def _attribution(name: str, seen: SeenInput, found: Any, x: Tensor, reduce: str) -> Attribution:
    found = found[0] if isinstance(found, tuple) and len(found) == 1 else found
    if not isinstance(found, Tensor) or found.ndim != x.ndim or len(found) != len(x):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise LayerError(
            f"captum:{name} gives {shape} for inputs {tuple(x.shape)}.",
            why="A map needs (batch, channels, *grid).",
            hint="Choose a layer that gives one tensor with positions.",
        )
    if found.shape[2:] == x.shape[2:]:
        return seen.attribution(found, reduce)
    cells = inputs.REDUCTIONS[reduce](full_precision(found.detach()))
    return Attribution(cells, Geometry.unregistered(found.shape[2:], x.shape[2:]), seen.output, seen.target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Captum's notes on hooks that it sets and removes; errors stay errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"captum\.")
        yield


@contextmanager
def _seeded(generator: torch.Generator | None, x: Tensor) -> Iterator[None]:
    """Captum draws from the global sources of torch and NumPy: seeded inside, and put back."""
    source = generator.clone_state() if generator is not None else torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**31, (1,), generator=source, device=source.device))
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
        finally:
            np.random.set_state(before)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What Captum itself refuses is an option that does not fit; what the network raises is left alone."""
    try:
        yield
    except Exception as error:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is _Scored.forward.__code__:
                raise
            trace = trace.tb_next
        raise OptionError(
            f"captum:{name} refuses this.", why=str(error), hint="See Captum's documentation of it."
        ) from error
