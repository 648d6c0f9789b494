"""Layer-wise relevance propagation, epsilon-plus composite (Bach et al. 2015, Montavon et al. 2019)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from pellucid import hooks, inputs
from pellucid.call import Call
from pellucid.errors import LayerError, OptionError
from pellucid.explanation import Attribution
from pellucid.feature_map import full_precision
from pellucid.inputs import SeenInput
from pellucid.targets import Target
from pellucid.watch import watched

# From the relevance of an output, and the inputs that were kept for it, to the relevance of these.
Rule: TypeAlias = Callable[..., tuple[Tensor, ...]]
# (inputs, weight, bias) -> output, and with what it is called
Linear: TypeAlias = Callable[..., Tensor]
Part: TypeAlias = tuple[Linear, Sequence[Tensor], Tensor | None, Tensor | None]


def lrp(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    epsilon: float = 1e-6,
    reduce: inputs.Reduce = "sum",
) -> Attribution:
    """The score, handed back from layer to layer until it lies on the input; each layer divides what it got.

    With z_ij = x_i w_ij, an output's relevance R_j goes to the inputs (equations 56 to 60 of Bach et al.; the choice of
    rules is that of Kohlbrenner et al. 2020, arXiv:1910.09840):

        linear layers, epsilon rule     R_i = sum_j z_ij / (sum_i z_ij + b_j +- epsilon) R_j
        convolutions, z-plus rule       the same with the positive parts of z_ij and b_j
        sums, means, average pooling, interpolation: the epsilon rule, as the linear layers they are
        BatchNorm                       folded into the convolution or linear layer before it; elsewhere passed on
        ReLU and its kin, constant factors and offsets: passed on
        maximum pooling, reshaping, padding, joining: to where the value came from

    Residual connections are sums: each branch gets its share. What biases stand for stays with them, and what comes to
    an output of a convolution without any positive z_ij ends there; in networks without biases, and with a ReLU behind
    every convolution, relevance adds up to the score. Elsewhere score - sum(map) is what was lost.
    Started from output times d score / d output: for a class its logit, for a contrast both logits with their signs.

    epsilon: added to denominators, away from 0. reduce: how channels become one value: "sum" (keeps sign and total),
    "abs_max" or "none". The network's modules are not touched; functions are met as they are called.

    Raises `LayerError` for a function that has no rule here (normalisation over the batch, layers or groups; softmax; the
    product of two things that depend on the input, as in squeeze-and-excitation and attention), with the layer's name.
    """
    inputs.check_reduction(reduce)
    if not epsilon > 0:
        raise OptionError(f"epsilon={epsilon} is not possible.", hint="Give a small positive number.")
    mode = _Relevance(call.model, epsilon)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        start = mode.start(leaf.clone())
        with watched(call, mode) as plain:
            output = plain(start)
        decided = target.resolve(output)
        relevance = _handed_back(output, decided, leaf, mode)
    return SeenInput(hooks.detached(output), decided).attribution(relevance, reduce)


def _handed_back(output: Any, target: Target, leaf: Tensor, mode: _Relevance) -> Tensor:
    if not isinstance(output, Tensor):
        raise LayerError(
            f"Relevance cannot start from a {type(output).__name__}.",
            why="One tensor of outputs is needed.",
            hint="Pass output= to pick the logits.",
        )
    top = output.detach().requires_grad_()
    start = top * hooks.gradient(target(top), top, "the output")
    if mode.carries(output):
        try:
            found = torch.autograd.grad(output, leaf, start.detach(), allow_unused=True)[0]
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise
            raise LayerError(
                "The network changes in place what the rules still need.",
                why=str(error),
                hint="Switch its in-place operations off, or use method='integrated_gradients'.",
            ) from error
        if found is not None:
            return found
    raise LayerError("The score does not depend on the input.", why="The network cuts the way back to it.")


@dataclass(frozen=True)
class _Product:
    """How a convolution or linear layer made a tensor out of `source`; noted in case BatchNorm follows.

    version: of the source when it was read. groups: of a transposed convolution, whose weight has its output channels
    second; 0 for all others.
    """

    source: Tensor
    version: int
    function: Callable[..., Tensor]
    weight: Tensor
    bias: Tensor | None
    plus: bool
    groups: int

    def scaled(self, scale: Tensor, offset: Tensor) -> _Product:
        """The same with each output channel multiplied and moved."""
        w = self.weight
        if self.groups:
            grouped = w.view(self.groups, -1, *w.shape[1:])
            weight = (grouped * scale.view(self.groups, 1, -1, *(1,) * (w.ndim - 2))).view(w.shape)
        else:
            weight = w * scale.view(-1, *(1,) * (w.ndim - 1))
        return replace(self, weight=weight, bias=offset if self.bias is None else self.bias * scale + offset)


class _Relevance(TorchFunctionMode):
    """Gives every function that meets something of the input a rule for the way back.

    known: the tensors that carry relevance. One that has a graph and is not among them was made out of sight.
    """

    def __init__(self, model: nn.Module, epsilon: float) -> None:
        super().__init__()
        self.model, self.epsilon = model, epsilon
        self.known: Any = WeakIdKeyDictionary()  # tensor -> _Product or None

    def start(self, x: Tensor) -> Tensor:
        self.known[x] = None
        return x

    def carries(self, value: Any) -> bool:
        """Whether something of the input is in it."""
        if not isinstance(value, Tensor) or not value.requires_grad or value.is_leaf:
            return False
        if value not in self.known:
            raise self._refused("a scripted or custom function", "What it does cannot be seen.")
        return True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():  # nothing comes back from here; also the inside of a custom function
            return func(*args, **kwargs)
        carriers = [t for t in _tensors((args, kwargs)) if self.carries(t)]
        if not carriers:
            learned = any(t.requires_grad for t in _tensors((args, kwargs)))
            with torch.no_grad() if learned else nullcontext():  # what is made of weights alone carries nothing
                return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        plain = _SAME.get(name.strip("_"), name.strip("_"))
        if plain in _PRODUCTS:
            return self._product(plain, args, kwargs, carriers)
        if plain == "batch_norm":
            return self._batch_norm(carriers, *args, **kwargs)
        if plain in _LINEAR or (plain in _TERMS and len(carriers) > 1):
            return self._own(func, args, kwargs, True)
        if plain in _PASSED | _TERMS and len(carriers) == 1:
            return self._own(func, args, kwargs, False)
        return self._routed(plain, func, args, kwargs)

    def _product(self, name: str, args: Any, kwargs: Any, carriers: Sequence[Tensor]) -> Tensor:
        """Convolutions and linear layers."""
        given = {**dict(zip(_PRODUCTS[name], args, strict=False)), **kwargs}
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        if len(carriers) > 1 or carriers[0] is not x:
            raise self._refused(name, "Its weights depend on the input.")
        function = partial(getattr(F, name), **given)
        with torch.no_grad():
            value = function(x, weight, bias)
        groups = given.get("groups", 1) if name.startswith("conv_transpose") else 0
        bias = None if bias is None else bias.detach()
        return self._made(_Product(x, x._version, function, weight.detach(), bias, name != "linear", groups), value)

    def _made(self, product: _Product, value: Tensor) -> Tensor:
        """The value of a product, with its rule."""
        divide = _plus if product.plus else _epsilon
        rule = partial(divide, self.epsilon, partial(_of_weights, product.function), product.weight, product.bias)
        found = self._noted(value, rule, [product.source], [product.source])
        self.known[found] = product
        return found

    def _noted(self, value: Tensor, rule: Rule, kept: Sequence[Tensor], carriers: Sequence[Tensor]) -> Tensor:
        found: Tensor = _Node.apply((value,), rule, tuple(kept), *carriers)
        self.known[found] = None
        return found

    def _batch_norm(
        self, carriers: Sequence[Tensor], input: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
        weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        if training or running_mean is None or running_var is None or len(carriers) > 1:
            raise self._refused("batch_norm", "It normalises with what the inputs of this batch are.")
        with torch.no_grad():
            value = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
            scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
            offset = (0 if bias is None else bias) - running_mean * scale
            before = self.known[input]
            folded = None if before is None else before.scaled(scale, offset)
        if folded is None or folded.source._version != folded.version:
            return self._noted(value, partial(_pass, input.shape), [], [input])
        return self._made(folded, value)

    def _own(self, func: Any, args: Any, kwargs: Any, divides: bool) -> Tensor:
        """Sums, which divide what they get among their terms, and functions of one value, which pass it on.

        What may work in place works on copies, since the rule needs the values from before; the result is then written
        where it belongs.
        """
        may_change = func.__name__.endswith("_") or any(a is True for a in (*args, *kwargs.values()))
        given = list(_tensors((args, kwargs)))
        fresh = [t.detach().clone() if may_change else t.detach() for t in given]
        copies = [t.clone() for t in fresh] if may_change else fresh
        args, kwargs = _exchanged((args, kwargs), fresh)  # the rule must not hold what it is a part of
        with torch.no_grad():
            value = _called(func, args, kwargs, copies)
        places = [i for i, t in enumerate(given) if self.carries(t)]
        carriers, kept = [given[i] for i in places], [fresh[i] for i in places]
        rule: Rule
        if divides:
            rule = partial(_epsilon, self.epsilon, partial(_of_terms, func, args, kwargs, fresh, places), None, None)
        else:
            rule, kept = partial(_pass, carriers[0].shape), []
        changed = [t for t, copy in zip(given, copies, strict=True) if copy is value]
        found = self._noted(value, rule, kept, carriers)
        if not changed:
            return found
        changed[0].copy_(found)
        self.known[changed[0]] = None
        return changed[0]

    def _routed(self, plain: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Functions whose gradient hands on the whole of what it gets: each value to where it came from."""
        found = func(*args, **kwargs)
        made = [t for t in _tensors(found) if t.requires_grad]
        if made and plain not in _ROUTED:
            raise self._refused(plain, "It depends on the input in a way that divides into no shares.")
        for tensor in [*made, *(args[:1] if plain == "setitem" else ())]:
            self.known[tensor] = None
        return found

    def _refused(self, what: str, why: str) -> LayerError:
        return LayerError(
            f"LRP has no rule for {what}{_place(self.model)}.",
            why=why,
            hint="Use method='integrated_gradients', or a network without it.",
        )


def _place(model: nn.Module) -> str:
    """Where in the network the program is, by the innermost of its layers that is running."""
    names = {id(module): name for name, module in model.named_modules() if name}
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        name = names.get(id(frame.f_locals.get("self")))
        if name is not None:
            return f", which layer '{name}' calls"
    return ""


class _Node(torch.autograd.Function):
    """A value with a rule instead of a gradient: what comes back is relevance."""

    @staticmethod
    def forward(ctx: Any, value: tuple[Tensor], rule: Rule, kept: tuple[Tensor, ...], *carriers: Tensor) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(*kept)
        return value[0].detach()

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(relevance[0].device.type, enabled=False):
            return (None, None, None, *ctx.rule(full_precision(relevance[0]), *ctx.saved_tensors))


def _pass(shape: torch.Size, relevance: Tensor) -> tuple[Tensor]:
    return (relevance.sum_to_size(shape),)


def _epsilon(
    epsilon: float, linear: Linear, weight: Tensor | None, bias: Tensor | None, relevance: Tensor, *inputs: Tensor
) -> tuple[Tensor, ...]:
    """R_i = sum_j z_ij / (z_j +- epsilon) R_j with z_j = sum_i z_ij + b_j: the gradient of z carries the division."""
    return _shares(epsilon, [(linear, inputs, weight, bias)], relevance)


def _plus(
    epsilon: float, linear: Linear, weight: Tensor, bias: Tensor | None, relevance: Tensor, x: Tensor
) -> tuple[Tensor]:
    """The same with positive z_ij and b_j alone: positive inputs with positive weights, negative with negative ones."""
    constant = None if bias is None else bias.clamp_min(0)
    parts: list[Part] = [(linear, (x.clamp_min(0),), weight.clamp_min(0), constant)]
    if bool((x < 0).any()):
        parts.append((linear, (x.clamp_max(0),), weight.clamp_max(0), None))
    found = _shares(epsilon, parts, relevance)
    return (found[0] if len(found) == 1 else found[0] + found[1],)


def _shares(epsilon: float, parts: Sequence[Part], relevance: Tensor) -> tuple[Tensor, ...]:
    """What each input of the parts gets of the relevance of their sum."""
    with torch.enable_grad():
        given = [[full_precision(x).detach().requires_grad_() for x in inputs] for _, inputs, _, _ in parts]
        made = [f(xs, w, b) for xs, (f, _, w, b) in zip(given, parts, strict=True)]
        z = made[0] if len(made) == 1 else made[0] + made[1]
    below = z.detach()
    quotient = relevance / (below + torch.where(below < 0, -epsilon, epsilon))
    flat = [x for xs in given for x in xs]
    return tuple(x.detach() * g for x, g in zip(flat, torch.autograd.grad(z, flat, quotient), strict=True))


def _of_weights(function: Callable[..., Tensor], xs: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    return function(xs[0], weight.to(xs[0]), None if bias is None else bias.to(xs[0]))


def _of_terms(
    func: Any, args: Any, kwargs: Any, fresh: Sequence[Tensor], places: Sequence[int], xs: Sequence[Tensor], *_: None
) -> Tensor:
    """The function again, on copies, with what carries relevance in its places."""
    terms = [full_precision(t) for t in fresh]
    for i, x in zip(places, xs, strict=True):
        terms[i] = x.clone()
    made: Tensor = _called(func, args, kwargs, terms)
    return made


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors among arguments, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)


def _exchanged(value: Any, tensors: Sequence[Tensor]) -> Any:
    """Arguments with other tensors in the places of theirs, in order."""
    source = iter(tensors)

    def other(value: Any) -> Any:
        if isinstance(value, Tensor):
            return next(source)
        if isinstance(value, list | tuple):
            return [other(v) for v in value] if isinstance(value, list) else tuple(other(v) for v in value)
        return {k: other(v) for k, v in value.items()} if isinstance(value, dict) else value

    return other(value)


def _called(func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor]) -> Any:
    args, kwargs = _exchanged((args, kwargs), tensors)
    return func(*args, **kwargs)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names of torch functions, without the underscores around them.
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_PRODUCTS: dict[str, tuple[str, ...]] = {
    "linear": _CONVOLUTION[:3],
    **{f"conv{n}d": _CONVOLUTION for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _TRANSPOSED for n in (1, 2, 3)},
}
_SAME = {"rsub": "sub", "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div"}
_TERMS = frozenset({"add", "sub"})
_LINEAR = frozenset(
    {"mean", "sum", "interpolate", "upsample"}
    | {f"{kind}avg_pool{n}d" for n in (1, 2, 3) for kind in ("", "adaptive_")}
)
_PASSED = _words(
    "relu relu6 hardtanh leaky_relu rrelu prelu elu celu selu gelu silu mish hardswish softplus softsign tanh clamp clamp_min "
    "clamp_max threshold mul div neg"
)
_ROUTED = _words(
    "cat concat concatenate stack chunk split unbind getitem setitem select narrow index_select flip roll where copy "
    "view view_as reshape reshape_as flatten unflatten squeeze unsqueeze permute transpose swapaxes movedim expand expand_as "
    "repeat get t contiguous clone to type float double half bfloat16 pad pixel_shuffle pixel_unshuffle channel_shuffle unfold "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout requires_grad "
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max amax maximum"
)
