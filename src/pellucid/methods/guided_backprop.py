"""The gradient through ReLUs that let only positive gradients pass (Springenberg et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pellucid import inputs
from pellucid.call import Call
from pellucid.errors import LayerError
from pellucid.explanation import Attribution
from pellucid.inputs import SlopedInput
from pellucid.targets import Target
from pellucid.watch import watched


def guided_backprop(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    reduce: inputs.Reduce = "sum",
) -> Attribution:
    """d score / d x with another rule at every ReLU y = max(z, 0): R_z = R_y where z > 0 and R_y > 0, else 0.

    arXiv:1412.6806, section 3.4. The result is no gradient of anything; it is known to show edges more than classes
    (Adebayo et al. 2018), which is why it should be read beside `edge_map`.

    ReLUs are met wherever they are called: modules, `F.relu`, in place, `x.clamp(min=0)`, and the capped ones (ReLU6),
    which also block where they are capped. Other activations (GELU, SiLU, ...) keep their own gradient: the rule is not
    defined for them. reduce: how channels become one value: "sum", "abs_max" or "none".

    Raises `LayerError` for a network without any ReLU, and for TorchScript.
    """
    inputs.check_reduction(reduce)
    seen = differentiate_gated(call, x, target, masked=True)
    return seen.attribution(seen.slope, reduce)


def differentiate_gated(call: Call, x: Tensor, target: Target, *, masked: bool) -> SlopedInput:
    """`inputs.differentiate` with ReLUs that let only positive gradients back; `masked`: and only where they are active."""
    gates = _Gates(masked)

    def gated(leaf: Tensor) -> Any:
        with watched(call, gates) as plain:
            return plain(leaf)

    seen = inputs.differentiate(gated, x, target)
    if not gates.met:
        raise LayerError(
            "The network calls no ReLU.",
            why="Without one this is the plain gradient under another name.",
            hint="Use method='saliency', or 'integrated_gradients'.",
        )
    return seen


class _Gates(TorchFunctionMode):
    """Puts the rule in the place of every ReLU that something differentiable goes through."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked, self.met = masked, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = _RELUS.get(getattr(func, "__name__", ""))
        gate = read(*args, **kwargs) if read is not None else None
        if gate is None or not gate[0].requires_grad:
            return func(*args, **kwargs)
        self.met += 1
        return _Gate.apply(*gate, self.masked)


class _Gate(torch.autograd.Function):
    """min(max(z, 0), high), and the rule on the way back."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, high: float, inplace: bool, masked: bool) -> Tensor:
        y = z.clamp_(0, high) if inplace else z.clamp(0, high)
        if inplace:
            ctx.mark_dirty(z)
        if masked:
            ctx.save_for_backward((y > 0) & (y < high))
        return y

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        passing = slopes[0].clamp_min(0)
        for mask in ctx.saved_tensors:
            passing = passing * mask
        return passing, None, None, None


def _of_clamp(inplace: bool) -> Callable[..., Any]:
    def read(z: Tensor, min: Any = None, max: Any = None) -> Any:
        zero = isinstance(min, int | float) and min == 0
        return (z, inf if max is None else max, inplace) if zero and not isinstance(max, Tensor) else None

    return read


# name of a torch function -> its input, where it is capped, and whether it works in place; None if it is no ReLU
_RELUS: dict[str, Callable[..., Any]] = {
    "relu": lambda input, inplace=False: (input, inf, inplace),
    "relu_": lambda input: (input, inf, True),
    "relu6": lambda input, inplace=False: (input, 6.0, inplace),
    "hardtanh": lambda input, min_val=-1.0, max_val=1.0, inplace=False: (
        (input, max_val, inplace) if min_val == 0 else None
    ),
    "hardtanh_": lambda input, min_val=-1.0, max_val=1.0: (input, max_val, True) if min_val == 0 else None,
    "clamp": _of_clamp(False),
    "clamp_": _of_clamp(True),
    "clamp_min": _of_clamp(False),
    "clamp_min_": _of_clamp(True),
}
