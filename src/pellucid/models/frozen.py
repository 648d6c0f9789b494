"""What each cell adds to a logit where the head bends: the head's gates are held as this very input set them.

A gate is what an operation multiplies by: the mask of a ReLU, the ratio y/u of any activation, the standard deviation of
a normalisation, the weights of an attention, the winner of a maximum. With the gates held, everything after the feature
map is linear, so the logit is a sum over cells plus a constant. Both are carried through the network's own forward pass,
operation by operation: biases go to the constant, everything else to the cells. Nothing is found by subtraction; the
sum is compared with the logit afterwards. (HiResCAM of Draelos and Carin 2020 is the case of piecewise linear heads.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from pellucid.models.capture import CapturePoint, capture, function_name

_LARGEST = 2**30  # elements of one tensor of shares


class Unfreezable(Exception):
    """An operation after the feature map for which there is no way to hold its gates."""


@dataclass(frozen=True)
class Placed:
    """A tensor each of whose elements stems from one cell: its indices along `axes` say which.

    constant: what does not stem from cells; None for nothing. gate: whether the tensor may be held where it multiplies
    another that stems from cells. folded: the tensor meant is `values.flatten(1)`.
    """

    values: Tensor
    axes: tuple[int, ...]
    constant: Tensor | None = None
    gate: bool = False
    folded: bool = False

    def rows(self) -> Tensor:
        """The same with one row per cell, `(cells, *shape)`."""
        places = [self.values.shape[a] for a in self.axes]
        cells = prod(places)
        _check_size(cells * self.values.numel())
        eye = torch.eye(cells, dtype=self.values.dtype, device=self.values.device)
        shape = [1] * self.values.ndim
        for axis in self.axes:
            shape[axis] = self.values.shape[axis]
        order = sorted(range(len(self.axes)), key=lambda i: self.axes[i])
        mask = eye.view(cells, *places).permute(0, *(i + 1 for i in order)).reshape(cells, *shape)
        rows = self.values.unsqueeze(0) * mask
        return rows.flatten(2) if self.folded else rows


@dataclass(frozen=True)
class Mixed:
    """A tensor with a row for what stems from each cell, `(cells, *shape)`; rows and constant add up to it."""

    values: Tensor
    constant: Tensor | None = None
    gate: bool = False

    def rows(self) -> Tensor:
        return self.values


Share = Placed | Mixed


def _check_size(elements: int) -> None:
    if elements > _LARGEST:
        raise Unfreezable(f"the shares of all cells would be {elements:,} numbers; give fewer inputs at a time")


class Shares(TorchFunctionMode):
    """While open, follows what stems from each cell of a feature map through every function that the network calls.

    channel_axis: of the feature map, 1 or -1; its other axes but the first are places.
    """

    def __init__(self, channel_axis: int) -> None:
        super().__init__()
        self.channel_axis = channel_axis
        self.places: tuple[int, ...] = ()  # of the feature map, once it has come by
        self._known: dict[int, tuple[Tensor, Share]] = {}

    def begin(self, features: Tensor, held: Tensor | None = None) -> None:
        """From here on `features` is a map of cells; `held` stands for it where the network goes on with that one."""
        values = features.clone().to(torch.promote_types(features.dtype, torch.float32))
        axes = tuple(range(2, values.ndim)) if self.channel_axis == 1 else tuple(range(1, values.ndim - 1))
        self.places = tuple(values.shape[a] for a in axes)
        known = features if held is None else held
        self._known = {id(known): (known, Placed(values, axes))}

    def of(self, tensor: Tensor) -> Share | None:
        """What is known of a tensor; None where no cell reaches it."""
        found = self._known.get(id(tensor))
        return found[1] if found else None

    def cells(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `(cells, *shape of logits)` and the constant, which add up to the logits."""
        share = self.of(logits)
        if share is None:
            raise Unfreezable("no cell reaches the logits once gates are held: they come out of gates alone")
        rows = share.rows()
        constant = (
            torch.zeros_like(rows[0]) if share.constant is None else share.constant.to(rows).expand(rows.shape[1:])
        )
        return rows, constant

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._known or not any(self.of(t) for t in _tensors((args, kwargs))):
            return func(*args, **kwargs)
        step = _Step(self, func, args, kwargs)
        step.result = func(*args, **kwargs)
        results = _tensors(step.result)
        if not results or not results[0].is_floating_point():
            return step.result
        with torch.autocast(results[0].device.type, enabled=False):
            rule = _RULES.get(step.name)
            if rule is None:
                raise Unfreezable(f"there is no rule for {step.name}()")
            shares = rule(step)
        for tensor, share in zip(results, shares if isinstance(shares, list) else [shares], strict=False):
            if share is not None:
                self._known[id(tensor)] = (tensor, share)
            else:
                self._known.pop(id(tensor), None)
        return step.result


@contextmanager
def following(
    model: nn.Module,
    point: CapturePoint,
    channel_axis: int,
    instead: Tensor | None = None,
    hold: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Shares]:
    """Open `Shares` that begin at a capture point of the network; `instead`: what takes the feature map's place there.

    hold: makes of the feature map the one that sets the gates, where that is another.
    """
    shares = Shares(channel_axis)

    def take(features: Tensor) -> Tensor | None:
        given = features if instead is None else instead.clone()
        if hold is not None:
            held = hold(given)
            shares.begin(given, held)
            return held
        shares.begin(given)
        return None if instead is None else given

    with shares, capture(model, point, take):
        yield shares


def _tensors(value: Any) -> list[Tensor]:
    """Tensors among arguments or results, also one level down in lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


class _Step:
    """One call of a function that has at least one argument that stems from cells."""

    result: Any

    def __init__(self, shares: Shares, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.shares, self.func, self.args, self.kwargs = shares, func, args, kwargs
        self.name = _plain_name(function_name(func))
        # What an in-place operation gets is gone afterwards.
        self.writes = _writes(func, args, kwargs)
        self.before = (
            args[0].clone()
            if self.writes and args and isinstance(args[0], Tensor)
            else next(iter((*args, *kwargs.values())))
        )

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def x(self) -> Share | None:
        """What is known of the first argument."""
        first = self.args[0] if self.args else next(iter(self.kwargs.values()))
        return self.shares.of(first) if isinstance(first, Tensor) else None

    def share_of(self, value: Any) -> Share | None:
        """What is known of an argument, the first one also as it was before it was overwritten."""
        if value is self.before:
            return self.x
        return self.shares.of(value) if isinstance(value, Tensor) else None

    @property
    def first(self) -> Share:
        share = self.x
        if share is None:
            raise Unfreezable(f"{self.name}() takes what stems from cells in an unexpected place")
        return share

    def again(self, tensor: Tensor) -> Any:
        """The function on another first argument, the others as they are (a gate where they stem from cells)."""
        tensor = tensor.clone() if self.writes else tensor
        if not self.args:
            key = next(iter(self.kwargs))
            return self.func(**{**self.kwargs, key: tensor})
        return self.func(tensor, *_cast(self.args[1:], tensor), **_cast(self.kwargs, tensor))

    def linear(self, straight: Callable[[Tensor], Tensor] | None = None, offset: bool = True) -> Mixed:
        """Shares after a function that is affine in its first argument; `straight` is it without its offset."""
        share = self.first
        rows = share.rows()
        origin = self.again(torch.zeros_like(rows[0])) if offset else None
        if straight is None:
            made = torch.vmap(self.again)(rows)
            straight_rows = made if origin is None else made - origin
        else:
            straight_rows = torch.vmap(straight)(rows)
        constant = origin if share.constant is None else self.again(share.constant)
        return Mixed(straight_rows, constant)


def _writes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    name = function_name(func).rsplit(".", 1)[-1]
    in_place = (name.endswith("_") and not name.endswith("__")) or (name.startswith("__i") and name.endswith("__"))
    return in_place or bool(kwargs.get("inplace")) or any(v is True for v in args[1:])


def _cast(values: Any, like: Tensor) -> Any:
    return tree_map(lambda v: v.to(like.dtype) if isinstance(v, Tensor) and v.is_floating_point() else v, values)


def _plain_name(name: str) -> str:
    """ "torch.Tensor.__iadd__" is add, "torch.nn.functional.relu_" is relu, a property is its own name."""
    parts = name.split(".")
    own = parts[-2] if parts[-1] == "__get__" else parts[-1]
    if own.startswith("__") and own.endswith("__"):
        own = own.strip("_")
        own = own[1:] if (own[:1] == "i" and own[1:] in _ARITHMETIC) or own in ("radd", "rmul") else own
    return _SYNONYMS.get(own.rstrip("_"), own.rstrip("_"))


_ARITHMETIC = ("add", "sub", "mul", "truediv", "matmul", "pow")
_SYNONYMS = {
    "truediv": "div", "rtruediv": "rdiv", "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub", "mm": "matmul",
    "bmm": "matmul", "concat": "cat", "concatenate": "cat", "negative": "neg", "clip": "clamp", "__getitem__": "getitem", "swapdims": "transpose",
    "swapaxes": "transpose", "moveaxis": "movedim", "dropout1d": "dropout", "dropout2d": "dropout", "dropout3d": "dropout",
    "alpha_dropout": "dropout", "feature_alpha_dropout": "dropout", "rpow": "exp",
}  # fmt: skip


# --- shapes ----------------------------------------------------------------------------------------------------------


def _same(step: _Step) -> Share:
    """Copies and casts: every element stays where it is."""
    return step.first


def _view(step: _Step) -> Share | list[Share | None]:
    """Reshapes, permutations, indexing: elements move, none are mixed."""
    share = step.first
    if isinstance(share, Placed):
        moved = _view_placed(step, share)
        if moved is not None:
            return moved
    rows, constant = share.rows(), share.constant
    made = torch.vmap(step.again)(rows)
    held = None if constant is None else step.again(constant)
    if isinstance(made, Tensor):
        return Mixed(made, held, share.gate)
    held = [None] * len(made) if held is None else held
    return [Mixed(m, h, share.gate) for m, h in zip(made, held, strict=True)]


def _view_placed(step: _Step, share: Placed) -> Share | list[Share | None] | None:
    """Where the axes of places have gone, told by strides of a tensor without content; None where they are broken up."""
    if share.folded:
        return None
    ghost = torch.empty(share.values.shape, device="meta")
    seen = step.again(ghost)
    held = None if share.constant is None else step.again(share.constant)
    if isinstance(seen, Tensor):
        axes = _axes_in(seen, ghost, share.axes)
        if axes is not None:
            return Placed(step.again(share.values), axes, held, share.gate)
        if (
            seen.ndim == 2
            and seen.shape[0] == ghost.shape[0]
            and seen.shape[1] == prod(ghost.shape[1:])
            and 0 not in share.axes
        ):
            return replace(share, folded=True, constant=held)
        return None
    all_axes = [_axes_in(part, ghost, share.axes) for part in seen]
    if any(axes is None for axes in all_axes):
        return None
    held = [None] * len(all_axes) if held is None else held
    parts = zip(step.again(share.values), all_axes, held, strict=True)
    return [Placed(values, cast(tuple[int, ...], axes), part, share.gate) for values, axes, part in parts]


def _axes_in(seen: Tensor, ghost: Tensor, axes: Sequence[int]) -> tuple[int, ...] | None:
    """Where whole axes of `ghost` are found in a view of it, or the one axis that they were merged into in their order."""
    if seen.untyped_storage()._cdata != ghost.untyped_storage()._cdata:
        return None  # a copy: elements may be in another order
    real = [a for a in axes if ghost.shape[a] != 1]
    found = []
    for axis in real:
        match = [
            i for i in range(seen.ndim) if seen.shape[i] == ghost.shape[axis] and seen.stride(i) == ghost.stride(axis)
        ]
        found.append(match[0] if match else None)
    if None not in found:
        return cast(tuple[int, ...], tuple(found))
    if real == list(range(real[0], real[-1] + 1)):
        size, stride = prod(ghost.shape[a] for a in real), ghost.stride(real[-1])
        match = [i for i in range(seen.ndim) if seen.shape[i] == size and seen.stride(i) == stride]
        return (match[0],) if match else None
    return None


def _cat(step: _Step) -> Share:
    tensors: list[Tensor] = list(step.argument(0, "tensors"))
    dim = step.argument(1, "dim", step.kwargs.get("axis", 0)) % tensors[0].ndim
    shares = [step.shares.of(t) for t in tensors]
    first = next(s for s in shares if s is not None)
    constants = [
        t if s is None else torch.zeros_like(t) if s.constant is None else s.constant.expand(t.shape)
        for t, s in zip(tensors, shares, strict=True)
    ]
    kind = first.values.dtype
    constant = torch.cat([c.to(kind) for c in constants], dim)
    axes = first.axes if isinstance(first, Placed) else None
    placed = [s for s in shares if isinstance(s, Placed) and not s.folded and s.axes == axes and dim not in s.axes]
    if len(placed) == len(shares):
        return Placed(torch.cat([s.values for s in placed], dim), placed[0].axes, constant)
    rows = [s.rows() if s is not None else None for s in shares]
    cells = len(next(r for r in rows if r is not None))
    whole = [
        torch.zeros(cells, *t.shape, dtype=kind, device=t.device) if r is None else r
        for t, r in zip(tensors, rows, strict=True)
    ]
    return Mixed(torch.cat(whole, dim + 1), constant)


def _stack(step: _Step) -> Share:
    tensors: list[Tensor] = list(step.argument(0, "tensors"))
    dim = step.argument(1, "dim", 0) % (tensors[0].ndim + 1)
    shares = [step.shares.of(t) for t in tensors]
    rows = [s.rows() if s is not None else None for s in shares]
    like = next(r for r in rows if r is not None)
    whole = [torch.zeros_like(like) if r is None else r for r in rows]
    constants = [
        t.to(like) if s is None else torch.zeros_like(like[0]) if s.constant is None else s.constant.expand(t.shape)
        for t, s in zip(tensors, shares, strict=True)
    ]
    return Mixed(torch.stack(whole, dim + 1), torch.stack(constants, dim))


# --- arithmetic ------------------------------------------------------------------------------------------------------


def _lifted(rows: Tensor, ndim: int) -> Tensor:
    """Rows of a tensor with fewer axes than `ndim`, with the missing ones right after the first."""
    return rows.reshape(rows.shape[0], *(1,) * (ndim + 1 - rows.ndim), *rows.shape[1:])


def _sum_of(step: _Step, a: Any, b: Any, sign: float) -> Share:
    """a + sign * b."""
    one, two = (step.share_of(v) for v in (a, b))
    shape = step.result.shape

    def held(value: Any, share: Share | None) -> Any:
        return value if share is None else share.constant

    left, right = held(a, one), held(b, two)
    if left is None and right is None:
        constant = None
    else:
        constant = (0 if left is None else left) + (0 if right is None else sign * right)
    if constant is not None:
        like = (one or two).values  # type: ignore[union-attr]
        constant = torch.as_tensor(constant, dtype=like.dtype, device=like.device).expand(shape)
    if (
        isinstance(one, Placed)
        and isinstance(two, Placed)
        and not (one.folded or two.folded)
        and one.axes == two.axes
        and (one.values.shape == two.values.shape == shape)
    ):
        return Placed(one.values + sign * two.values, one.axes, constant)
    if one is not None and two is not None:
        return Mixed(_lifted(one.rows(), len(shape)) + sign * _lifted(two.rows(), len(shape)), constant)
    share, factor = (one, 1.0) if one is not None else (two, sign)
    assert share is not None
    if isinstance(share, Placed) and (share.folded or share.values.shape == shape):
        return replace(share, values=factor * share.values, constant=constant, gate=False)
    rows = _lifted(factor * share.rows(), len(shape))
    return Mixed(rows.expand(rows.shape[0], *shape), constant)


def _add(step: _Step) -> Share:
    return _sum_of(step, step.before, step.argument(1, "other"), step.kwargs.get("alpha", 1))


def _sub(step: _Step) -> Share:
    return _sum_of(step, step.before, step.argument(1, "other"), -step.kwargs.get("alpha", 1))


def _rsub(step: _Step) -> Share:
    return _sum_of(step, step.argument(1, "other"), step.before, -step.kwargs.get("alpha", 1))


def _scaled(share: Share, factor: Any, shape: Sequence[int]) -> Share:
    """Shares times a factor that is held."""
    factor = factor.to(share.values.dtype) if isinstance(factor, Tensor) else factor
    constant = None if share.constant is None else share.constant * factor
    if isinstance(share, Placed) and share.folded and isinstance(factor, Tensor) and factor.ndim:
        inner = factor.expand(shape).reshape(share.values.shape)
        return replace(share, values=share.values * inner, constant=constant)
    if isinstance(share, Placed) and (share.folded or (share.values * factor).shape == share.values.shape):
        return replace(share, values=share.values * factor, constant=constant, gate=False)
    return Mixed(_lifted(share.rows(), len(shape)) * factor, constant)


def _mul(step: _Step) -> Share:
    a, b = step.before, step.argument(1, "other")
    one, two = (step.share_of(v) for v in (a, b))
    if one is not None and two is not None and a is not b and not (one.gate or two.gate):
        raise Unfreezable("two tensors that both stem from the feature map are multiplied")
    if one is None or (two is not None and one.gate and not two.gate):
        assert two is not None
        return _scaled(two, a, step.result.shape)
    return _scaled(one, b, step.result.shape)


def _div(step: _Step) -> Share | None:
    if step.x is None:
        return None  # something constant over a gate
    if step.kwargs.get("rounding_mode") is not None:
        raise Unfreezable("division that rounds")
    divisor = step.argument(1, "other")
    factor = 1 / divisor.to(step.first.values.dtype) if isinstance(divisor, Tensor) else 1 / divisor
    return _scaled(step.first, factor, step.result.shape)


def _rdiv(step: _Step) -> None:
    return None


def _neg(step: _Step) -> Share:
    return _scaled(step.first, -1.0, step.result.shape)


# --- linear layers ---------------------------------------------------------------------------------------------------


def _linear(step: _Step) -> Share:
    share = step.first
    weight: Tensor = step.argument(1, "weight").to(share.values.dtype)
    bias = _to(step.argument(2, "bias"), share.values)
    constant: Tensor | None
    if share.constant is not None:
        constant = F.linear(share.constant, weight, bias)
    else:
        constant = None if bias is None else bias.expand(step.result.shape)
    if isinstance(share, Placed) and share.folded:
        return Mixed(_by_place(share, weight), constant)
    if isinstance(share, Placed) and share.values.ndim - 1 not in share.axes:
        return Placed(F.linear(share.values, weight), share.axes, constant)
    return Mixed(F.linear(share.rows(), weight), constant)


def _reading_all(share: Share, weight: Tensor, constant: Tensor | None, ndim: int) -> Share:
    """A convolution as large as what it reads is a linear layer on it, flattened."""
    flat = weight.flatten(1)
    if isinstance(share, Placed) and not share.folded:
        rows = _by_place(share, flat)
    else:
        rows = F.linear(share.rows().flatten(2), flat)
    return Mixed(rows.reshape(*rows.shape, *(1,) * (ndim - 2)), constant)


def _by_place(share: Placed, weight: Tensor) -> Tensor:
    """A linear layer on the flattened values. Each cell meets its own part of the matrix, so none is multiplied by zeros."""
    places = tuple(range(len(share.axes)))
    parts = weight.view(len(weight), *share.values.shape[1:]).movedim(share.axes, places).flatten(len(places) + 1)
    values = share.values.movedim(share.axes, places).flatten(len(places) + 1)
    cells = prod(values.shape[: len(places)])
    return torch.bmm(values.reshape(cells, *values.shape[-2:]), parts.reshape(cells, *parts.shape[-2:]).mT)


def _convolution(step: _Step) -> Share:
    share, weight, bias = step.first, step.argument(1, "weight"), step.argument(2, "bias")
    weight = weight.to(share.values.dtype)
    rest = {k: v for k, v in step.kwargs.items() if k not in ("input", "weight", "bias")}

    def straight(t: Tensor) -> Tensor:
        return cast(Tensor, step.func(t, weight, None, *step.args[3:], **rest))

    origin = (
        None
        if bias is None
        else bias.to(weight.dtype).view(-1, *(1,) * (step.result.ndim - 2)).expand(step.result.shape)
    )
    constant = origin if share.constant is None else straight(share.constant) + (0 if origin is None else origin)
    if weight.shape[2:] == step.args[0].shape[2:] and prod(step.result.shape[2:]) == 1 and prod(weight.shape[2:]) > 1:
        return _reading_all(share, weight, constant, step.result.ndim)
    pointwise = prod(weight.shape[2:]) == 1 and step.result.shape[2:] == step.args[0].shape[2:]
    if isinstance(share, Placed) and not share.folded and pointwise and 1 not in share.axes:
        return Placed(straight(share.values), share.axes, constant)
    return Mixed(_row_by_row(straight, share.rows()), constant)


def _row_by_row(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """A function of batches for every row: rows join the batch (`vmap` would fix the batch size of an exported graph)."""
    made = function(rows.flatten(0, 1))
    return made.reshape(*rows.shape[:2], *made.shape[1:])


def _matmul(step: _Step) -> Share:
    a, b = step.args[0], step.argument(1, "other", step.kwargs.get("mat2"))
    one, two = step.shares.of(a), step.shares.of(b)
    if one is not None and two is not None:
        if not (one.gate or two.gate):
            raise Unfreezable("two tensors that both stem from the feature map are multiplied")
        one, two = (None, two) if one.gate else (one, None)
    share = one if one is not None else cast(Share, two)
    kind = share.values.dtype

    def straight(t: Tensor) -> Tensor:
        return cast(Tensor, t @ b.to(kind) if one is not None else a.to(kind) @ t)

    constant = None if share.constant is None else straight(share.constant)
    if isinstance(one, Placed) and not one.folded and b.ndim == 2 and one.values.ndim - 1 not in one.axes:
        return Placed(straight(one.values), one.axes, constant)
    return Mixed(torch.vmap(straight)(share.rows()), constant)


def _addmm(step: _Step) -> Share:
    """bias + a @ b with a from cells."""
    bias, a, b = step.args[:3]
    share = step.shares.of(a)
    if (
        share is None
        or step.shares.of(b) is not None
        or step.kwargs.get("alpha", 1) != 1
        or step.kwargs.get("beta", 1) != 1
    ):
        raise Unfreezable("addmm() with an unexpected argument")
    b = b.to(share.values.dtype)
    constant = bias if share.constant is None else bias + share.constant @ b
    return Mixed(share.rows() @ b, constant.expand(step.result.shape))


def _einsum(step: _Step) -> Share:
    equation, *given = step.args
    tensors: list[Tensor] = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else given
    live = [i for i, t in enumerate(tensors) if step.shares.of(t) is not None]
    live = [i for i in live if not cast(Share, step.shares.of(tensors[i])).gate] or live
    if len(live) != 1:
        raise Unfreezable("einsum() of two tensors that both stem from the feature map")
    share = cast(Share, step.shares.of(tensors[live[0]]))

    def straight(t: Tensor) -> Tensor:
        return torch.einsum(equation, *[t if i == live[0] else v.to(t.dtype) for i, v in enumerate(tensors)])

    return Mixed(torch.vmap(straight)(share.rows()), None if share.constant is None else straight(share.constant))


def _affine(step: _Step) -> Share:
    return step.linear()


def _pure(step: _Step) -> Share:
    return step.linear(offset=False)


# --- pooling ---------------------------------------------------------------------------------------------------------


def _dims(step: _Step, ndim: int) -> tuple[int, ...]:
    given = step.argument(1, "dim", step.kwargs.get("axis"))
    if given is None:
        return tuple(range(ndim))
    return tuple(sorted(d % ndim for d in (given if isinstance(given, list | tuple) else (given,))))


def _reduce(step: _Step) -> Share:
    """Mean or sum: over all places every cell becomes a row."""
    share = step.first
    ndim = step.args[0].ndim
    dims = _dims(step, ndim)
    keep = bool(step.argument(2, "keepdim", False))
    constant = None if share.constant is None else step.again(share.constant)
    if not isinstance(share, Placed) or share.folded or not set(share.axes) <= set(dims):
        return Mixed(torch.vmap(step.again)(share.rows()), constant)
    others = [d for d in dims if d not in share.axes]
    values = getattr(share.values, step.name)(others, keepdim=True) if others else share.values
    count = prod(share.values.shape[a] for a in share.axes) if step.name == "mean" else 1
    return Mixed(_as_rows(values / count, share.axes, dims, keep), constant)


def _as_rows(values: Tensor, axes: Sequence[int], dims: Sequence[int], keep: bool) -> Tensor:
    """One row per place; the axes `dims` have length 1 in a row, or are left out."""
    rows = values.movedim(tuple(axes), tuple(range(len(axes)))).flatten(0, len(axes) - 1)
    for axis in sorted(axes):
        rows = rows.unsqueeze(axis + 1)
    return rows if keep else rows.squeeze(tuple(d + 1 for d in dims))


def _covers(step: _Step, shape: Sequence[int]) -> bool:
    kernel = step.argument(1, "kernel_size")
    return tuple(kernel if isinstance(kernel, list | tuple) else (kernel,) * len(shape)) == tuple(shape)


def _average(step: _Step) -> Share:
    share = step.first
    spatial = tuple(range(2, step.result.ndim))
    constant = None if share.constant is None else step.again(share.constant)
    if isinstance(share, Placed) and not share.folded:
        if step.result.shape == share.values.shape:
            return replace(share, constant=constant)
        count = prod(share.values.shape[2:])
        whole = (
            prod(step.result.shape[2:]) == 1
            and prod(share.values.shape[a] for a in share.axes if a in spatial) == count
        )
        if whole and ("adaptive" in step.name or _covers(step, share.values.shape[2:])):
            return Mixed(_as_rows(share.values / count, share.axes, spatial, True), constant)
    return Mixed(_row_by_row(step.again, share.rows()), constant)


def _winners(step: _Step, share: Share, index: Tensor, dims: Sequence[int]) -> Share:
    """Shares of the elements that `index` picks, `(*shape before dims, picked)` into the flattened `dims` (which are last)."""
    first = dims[0]
    shape = step.result.shape if isinstance(step.result, Tensor) else step.result[0].shape

    def pick(t: Tensor, lead: int = 0) -> Tensor:
        flat = t.flatten(first + lead)
        wide = index if not lead else index.unsqueeze(0).expand(t.shape[0], *index.shape)
        return flat.gather(-1, wide).reshape(*t.shape[:lead], *shape)

    return Mixed(pick(share.rows(), 1), None if share.constant is None else pick(share.constant))


def _max_pool(step: _Step) -> Share:
    """The winner of each window passes; indices come from the same function."""
    given: Tensor = step.args[0]
    rank = given.ndim - 2
    own = {k: v for k, v in step.kwargs.items() if k not in ("input", "return_indices")}
    function = {name: getattr(F, f"{name}_with_indices") for name in _MAX_POOLS}[step.name]
    names = (
        ("output_size",) if "adaptive" in step.name else ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    )
    values = dict(zip(names, step.args[1 : 1 + len(names)], strict=False)) | own
    index = function(given, **values)[1]
    return _winners(step, step.first, index.flatten(2), tuple(range(2, 2 + rank)))


def _maximum_of(step: _Step) -> Share | list[Share | None]:
    """amax, max: over given axes, the winner passes."""
    given: Tensor = step.args[0]
    other = step.argument(1, "other")
    if isinstance(other, Tensor):
        raise Unfreezable("the larger of two tensors")
    dims = _dims(step, given.ndim)
    if dims != tuple(range(dims[0], given.ndim)):
        order = [d for d in range(given.ndim) if d not in dims] + list(dims)
        share = step.first
        moved = Mixed(
            share.rows().permute(0, *(d + 1 for d in order)),
            None if share.constant is None else share.constant.expand(given.shape).permute(order),
        )
        return _winners(
            step,
            moved,
            given.permute(order).flatten(given.ndim - len(dims)).argmax(-1, keepdim=True),
            tuple(range(given.ndim - len(dims), given.ndim)),
        )
    index = given.flatten(dims[0]).argmax(-1, keepdim=True)
    return _winners(step, step.first, index, dims)


def _topk(step: _Step) -> list[Share | None]:
    """topk, sort: elements move along one axis, told by the indices."""
    index = step.result[1]
    given: Tensor = step.args[0]
    if step.name == "topk":
        dim = step.argument(2, "dim", -1) % given.ndim
    else:
        dim = (
            step.kwargs.get(
                "dim", next((a for a in step.args[1:] if isinstance(a, int) and not isinstance(a, bool)), -1)
            )
            % given.ndim
        )
    share = step.first
    rows = share.rows()
    picked = rows.gather(dim + 1, index.unsqueeze(0).expand(rows.shape[0], *index.shape))
    constant = None if share.constant is None else share.constant.expand(given.shape).gather(dim, index)
    return [Mixed(picked, constant), None]


def _log_sum_exp(step: _Step) -> Share:
    """log sum exp(u) = sum w u + H(w) with w = softmax(u), whose entropy H(w) goes to the constant."""
    given: Tensor = step.args[0]
    dims, keep = _dims(step, given.ndim), bool(step.argument(2, "keepdim", False))
    u = given.to(step.first.values.dtype)
    log_weight = u - torch.logsumexp(u, dims, keepdim=True)
    weight = log_weight.exp()
    entropy = -(weight * log_weight).sum(dims, keepdim=keep)
    share = step.first
    rows = (share.rows() * weight).sum([d + 1 for d in dims], keepdim=keep)
    constant = entropy if share.constant is None else entropy + (share.constant * weight).sum(dims, keepdim=keep)
    return Mixed(rows, constant)


# --- gates -----------------------------------------------------------------------------------------------------------


def _activation(step: _Step) -> Share:
    """y(u) = y(0) + u (y(u) - y(0)) / u: the ratio is the gate."""
    share = step.first
    kind = share.values.dtype
    u, y = cast(Tensor, step.before).to(kind), step.result.to(kind)
    if (
        step.name == "pow"
        and not isinstance(step.argument(1, "exponent"), Tensor)
        and step.argument(1, "exponent") <= 0
    ):
        return cast(Share, _hidden(step))
    origin = step.again(torch.zeros_like(u)).to(kind)
    # Where u is so small that y(u) - y(0) is rounding, the slope at 0 takes the ratio's place.
    small = (torch.finfo(kind).eps * origin.abs()).sqrt() + torch.finfo(kind).tiny
    slope = ((step.again(small) - step.again(-small)) / (2 * small)).nan_to_num()
    gate = torch.where(u.abs() > small, (y - origin) / torch.where(u.abs() > small, u, torch.ones_like(u)), slope)
    made = _scaled(share, gate, step.result.shape)
    constant = made.constant if made.constant is not None else torch.zeros_like(origin)
    return replace(made, constant=constant + origin, gate=step.name in _GATES)


def _hidden(step: _Step) -> Any:
    """Softmax, variances, norms, inverse roots: gates through and through, with no share of their own."""
    return None


def _dropout(step: _Step) -> Share:
    rate, training = step.argument(1, "p", 0.5), step.argument(2, "training", True)
    return step.first if not training or rate == 0 else _scaled(step.first, _ratio(step), step.result.shape)


def _ratio(step: _Step) -> Tensor:
    u, y = cast(Tensor, step.before), step.result
    return torch.where(u == 0, torch.zeros_like(u), y / torch.where(u == 0, torch.ones_like(u), u))


def _normalised(share: Share, dims: Sequence[int], scale: Tensor, centred: bool, weight: Any, bias: Any) -> Share:
    """(u - mean u) * scale * weight + bias with the scale held; the mean stays linear."""

    def straight(t: Tensor, lead: int) -> Tensor:
        over = [d + lead for d in dims]
        t = (t - t.mean(over, keepdim=True) if centred else t) * scale
        return t if weight is None else t * weight

    constant = None if share.constant is None else straight(share.constant, 0)
    if bias is not None:
        constant = bias if constant is None else constant + bias
    if isinstance(share, Placed) and not share.folded and not set(dims) & set(share.axes):
        values = straight(share.values, 0)
        return Placed(values, share.axes, None if constant is None else constant.expand(values.shape))
    rows = straight(share.rows(), 1)
    return Mixed(rows, None if constant is None else constant.expand(rows.shape[1:]))


def _layer_norm(step: _Step) -> Share:
    u = step.args[0].to(step.first.values.dtype)
    count = len(step.argument(1, "normalized_shape"))
    weight, bias, eps = (step.argument(i, n) for i, n in ((2, "weight"), (3, "bias"), (4, "eps")))
    dims = tuple(range(u.ndim - count, u.ndim))
    scale = (u.var(dims, unbiased=False, keepdim=True) + (1e-5 if eps is None else eps)).rsqrt()
    return _normalised(step.first, dims, scale, True, _to(weight, u), _to(bias, u))


def _rms_norm(step: _Step) -> Share:
    u = step.args[0].to(step.first.values.dtype)
    dims = tuple(range(u.ndim - len(step.argument(1, "normalized_shape")), u.ndim))
    eps = step.argument(3, "eps")
    eps = torch.finfo(step.args[0].dtype).eps if eps is None else eps
    scale = (u.pow(2).mean(dims, keepdim=True) + eps).rsqrt()
    return _normalised(step.first, dims, scale, False, _to(step.argument(2, "weight"), u), None)


def _group_norm(step: _Step) -> Share:
    u = step.args[0].to(step.first.values.dtype)
    groups, eps = step.argument(1, "num_groups"), step.argument(4, "eps", 1e-5)
    weight, bias = (_per_channel(step.argument(i, n), u) for i, n in ((2, "weight"), (3, "bias")))
    split = (len(u), groups, -1)
    scale = (u.reshape(split).var(2, unbiased=False, keepdim=True) + eps).rsqrt()

    def straight(t: Tensor) -> Tensor:
        parts = t.reshape(split)
        made = ((parts - parts.mean(2, keepdim=True)) * scale).reshape(t.shape)
        return cast(Tensor, made if weight is None else made * weight)

    share = step.first
    constant = None if share.constant is None else straight(share.constant.expand(u.shape))
    if bias is not None:
        constant = bias.expand(u.shape) if constant is None else constant + bias
    return Mixed(torch.vmap(straight)(share.rows()), constant)


def _batch_norm(step: _Step) -> Share:
    """Affine per channel; statistics of the batch, in training, are held."""
    u = step.args[0].to(step.first.values.dtype)
    mean, variance, weight, bias = (
        step.argument(i, n) for i, n in ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias"))
    )
    over = [0, *range(2, u.ndim)]
    if step.argument(5, "training", False) or mean is None:
        mean, variance = u.mean(over), u.var(over, unbiased=False)
    scale = (variance.to(u) + step.argument(7, "eps", 1e-5)).rsqrt()
    scale = scale if weight is None else scale * weight.to(u)
    shift = -mean.to(u) * scale if bias is None else bias.to(u) - mean.to(u) * scale
    made = _scaled(step.first, _per_channel(scale, u), u.shape)
    offset = cast(Tensor, _per_channel(shift, u)).expand(u.shape)
    return replace(made, constant=offset if made.constant is None else made.constant + offset)


def _normalize(step: _Step) -> Share:
    u = step.args[0].to(step.first.values.dtype)
    p, dim, eps = step.argument(1, "p", 2.0), step.argument(2, "dim", 1), step.argument(3, "eps", 1e-12)
    return _scaled(step.first, 1 / u.norm(p, dim, keepdim=True).clamp_min(eps), u.shape)


def _attention(step: _Step) -> Share:
    """softmax(q k / sqrt(d)) v with the softmax held."""
    q, k, v = (step.argument(i, n) for i, n in enumerate(("query", "key", "value")))
    mask, scale = step.argument(3, "attn_mask"), step.kwargs.get("scale")
    share = step.shares.of(v)
    if share is None:
        return cast(Share, None)
    kind = share.values.dtype
    scores = q.to(kind) @ k.to(kind).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if step.argument(5, "is_causal", False) or (mask is not None and mask.dtype == torch.bool):
        raise Unfreezable("attention with a mask of places")
    weights = (scores if mask is None else scores + mask.to(kind)).softmax(-1)
    return Mixed(
        torch.vmap(lambda t: weights @ t)(share.rows()), None if share.constant is None else weights @ share.constant
    )


def _to(value: Tensor | None, like: Tensor) -> Tensor | None:
    return None if value is None else value.to(like.dtype)


def _per_channel(value: Tensor | None, like: Tensor) -> Tensor | None:
    return None if value is None else value.to(like.dtype).view(-1, *(1,) * (like.ndim - 2))


_GATES = ("sigmoid", "hardsigmoid", "sqrt", "softplus", "exp")
_ACTIVATIONS = frozenset({
    "relu", "relu6", "gelu", "silu", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "leaky_relu", "elu", "selu", "celu",
    "mish", "softplus", "softsign", "prelu", "rrelu", "threshold", "clamp", "clamp_min", "clamp_max", "abs", "pow", "square", "sqrt",
    "exp", "erf", "logsigmoid", "tanhshrink", "softshrink", "hardshrink", "dropout",
})  # fmt: skip
_MAX_POOLS = [f"{lead}max_pool{n}d" for lead in ("", "adaptive_") for n in (1, 2, 3)]
_RULES: dict[str, Callable[[_Step], Any]] = {
    **dict.fromkeys(["contiguous", "clone", "Identity", "to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda", "data", "requires_grad", "alias", "detach"], _same),
    **dict.fromkeys(["view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "T", "mT", "movedim", "squeeze", "unsqueeze",
                     "getitem", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "expand", "expand_as", "view_as", "reshape_as",
                     "flip", "roll", "index_select", "repeat", "tile", "repeat_interleave", "rot90"], _view),
    "cat": _cat, "stack": _stack, "add": _add, "sub": _sub, "rsub": _rsub, "mul": _mul, "div": _div, "rdiv": _rdiv, "neg": _neg,
    "linear": _linear, **dict.fromkeys(["conv1d", "conv2d", "conv3d"], _convolution), "matmul": _matmul, "addmm": _addmm, "einsum": _einsum,
    **dict.fromkeys(["pad", "interpolate"], _affine), **dict.fromkeys(["cumsum", "pixel_shuffle", "unfold", "diagonal"], _pure),
    "mean": _reduce, "sum": _reduce, **dict.fromkeys([f"{lead}avg_pool{n}d" for lead in ("", "adaptive_") for n in (1, 2, 3)], _average),
    **dict.fromkeys(_MAX_POOLS, _max_pool), "amax": _maximum_of, "max": _maximum_of, "topk": _topk, "sort": _topk, "logsumexp": _log_sum_exp,
    **dict.fromkeys(_ACTIVATIONS, _activation), "dropout": _dropout,
    **dict.fromkeys(["softmax", "_softmax", "var", "std", "norm", "vector_norm", "rsqrt", "reciprocal", "var_mean", "softmin"], _hidden),
    "layer_norm": _layer_norm, "rms_norm": _rms_norm, "group_norm": _group_norm, "batch_norm": _batch_norm, "normalize": _normalize,
    "scaled_dot_product_attention": _attention,
}  # fmt: skip
