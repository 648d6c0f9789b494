"""Zennit's composites as methods: `zennit:EpsilonPlus`, `zennit:EpsilonGammaBox`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks, inputs
from pellucid.call import Call
from pellucid.errors import LayerError, OptionError, nearest
from pellucid.explanation import Attribution
from pellucid.inputs import SeenInput
from pellucid.targets import Target

# What the adapter itself gives to Zennit, or what would have to be made of Zennit's own parts.
_TAKEN = frozenset({"self", "canonizers", "layer_map", "first_map"})
STARTS = ("relevance", "gradient")


def zennit_adapter(name: str) -> Callable[..., Attribution]:
    """The method `zennit:NAME`: a composite of `zennit.composites`, by the name of its class.

    Its options are those of the class. Besides, `reduce` ("sum", "abs_max", "none") makes one value of the channels;
    `canonize` lets Zennit's ResNetCanonizer fold BatchNorm and see the sums of torchvision's ResNets (other networks'
    additions and functional layers it does not see: `lrp` does); `start` is what is handed back from the output:
    "relevance" is output times d score / d output (the default for layer-wise relevance propagation, names with
    Epsilon), "gradient" is d score / d output (the default for the others, such as GuidedBackprop).

    Zennit works on a copy of the network without in-place operations, which it needs and changes.
    Raises `OptionError` where Zennit is missing or has no such composite.
    """
    kind = _composite(name)
    options = {n: p for n, p in inspect.signature(kind.__init__).parameters.items() if n not in _TAKEN}

    def method(
        call: Call,
        x: Float[Tensor, "batch channels *spatial"],
        target: Target,
        *,
        reduce: inputs.Reduce = "sum",
        canonize: bool = True,
        start: Literal["relevance", "gradient"] = "relevance" if name.startswith("Epsilon") else "gradient",
        **given: Any,
    ) -> Attribution:
        inputs.check_reduction(reduce)
        if start not in STARTS:
            raise OptionError(f"There is no start '{start}'.", hint=nearest(start, STARTS))
        for option in given:
            if option not in options:
                raise OptionError(f"'zennit:{name}' has no option '{option}'.", hint=nearest(option, options))
        for option, parameter in options.items():
            if parameter.default is parameter.empty and option not in given:
                raise OptionError(f"'zennit:{name}' needs the option '{option}'.", hint="See Zennit's documentation.")
        composite = kind(canonizers=_canonizers() if canonize else None, **given)
        network = _copied(call.model)
        with torch.inference_mode(False), torch.enable_grad(), composite.context(network):
            leaf = x.detach().clone().requires_grad_()
            output = replace(call, model=network)(leaf.clone())
            decided = target.resolve(output)
            found = _handed_back(output, decided, leaf, start)
        return SeenInput(hooks.detached(output), decided).attribution(found, reduce)

    own = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=p.default) for n, p in options.items()]
    plain = inspect.signature(method)
    kept = [p for p in plain.parameters.values() if p.kind is not p.VAR_KEYWORD]
    method.__doc__ = f"Zennit's {name}; see `zennit_adapter`."
    vars(method)["__signature__"] = plain.replace(parameters=[*kept, *own])
    return method


def _composite(name: str) -> Any:
    try:
        from zennit.composites import COMPOSITES
    except ImportError as error:
        raise OptionError(
            "Zennit is not installed.",
            why="Methods named zennit:... are Zennit's own. No extra of pellucid brings it, because of its licence (LGPL).",
            hint="Install it yourself: pip install zennit. Or use method='lrp'.",
        ) from error
    known = {kind.__name__: kind for kind in COMPOSITES.values()}
    if name not in known:
        raise OptionError(f"Zennit has no composite '{name}'.", hint=nearest(name, sorted(known)))
    return known[name]


def _canonizers() -> list[Any]:
    from zennit.torchvision import ResNetCanonizer

    return [ResNetCanonizer()]


def _copied(model: nn.Module) -> nn.Module:
    network = copy.deepcopy(model)
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return network


def _handed_back(output: Any, target: Target, leaf: Tensor, start: str) -> Tensor:
    if not isinstance(output, Tensor):
        raise LayerError(
            f"Nothing can be handed back from a {type(output).__name__}.",
            why="One tensor of outputs is needed.",
            hint="Pass output= to pick the logits.",
        )
    top = output.detach().requires_grad_()
    slope = hooks.gradient(target(top), top, "the output")
    handed = slope if start == "gradient" else slope * top.detach()
    found = torch.autograd.grad(output, leaf, handed, allow_unused=True)[0] if output.requires_grad else None
    if found is None:
        raise LayerError("The score does not depend on the input.", why="The network cuts the way back to it.")
    return found
