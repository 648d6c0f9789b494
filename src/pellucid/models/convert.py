"""The head compiler: find where a network's logits are linear in a pooled feature map, and prove it by numbers.

copy ── trace ──> cuts, the last first ── head.read ──> linear, the same at every place? ── check_head ──> SoftCAM
                                                         │ no
                                                         └──> ConversionError that names the layer and the reason
"""

from __future__ import annotations

import copy as copying
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pellucid import hooks
from pellucid.call import Call, weights_device
from pellucid.errors import BadInput, ConversionError
from pellucid.models import head as heads
from pellucid.models.capture import CapturePoint, best, substituted
from pellucid.models.certificate import Certificate
from pellucid.models.head import Pooling, Reading, Tail
from pellucid.models.receptive_field import Field, receptive_field
from pellucid.models.softcam import Plan, SoftCAM
from pellucid.models.trace import Ref, Step, Trace, Untraceable, as_logits, trace
from pellucid.targets import Task

_TRIED = 12  # cuts looked at before giving up
_ROWS = 2  # inputs of the example that the analysis runs on


def convert(
    model: nn.Module | str,
    example: Float[Tensor, "batch channels *spatial"],
    *,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    features: str | None = None,
    head: str | None = None,
    output: Any = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    images: Float[Tensor, "images channels *spatial"] | None = None,
    tolerance: float = 1e-4,
) -> SoftCAM:
    """A self-explaining copy of a network whose logits are linear in a pooled feature map; the original stays untouched.

    model: any network (of a compiled one, the network that was compiled), or a name such as "torchvision:resnet50", "timm:regnety_016", "pellucid:s8" (random weights).
    example: inputs as in use, at the size of use; evidence needs at least two cells.
    task, classes: what the logits mean, and their names. output: which part of a tuple or dict are the logits.
    args, kwargs: the network's other inputs. images: real inputs for the parity test (default: the example).
    features, head: dotted names of the layer that gives the feature map and of the linear layer, for networks that
    cannot be traced; they are tested like any other.

    Raises `ConversionError` naming the layer and the reason where evidence would not add up: nothing is converted on
    trust. Sources: Zhou et al. 2016 (CAM); Djoumessi et al. 2025 (SoftCAM).
    """
    if isinstance(model, str):
        from pellucid.models.zoo import build

        model = build(model)
    _check_example(example)
    # What torch.compile wraps is the network itself; compiled code cannot be looked into. Compile the SoftCAM instead.
    model = getattr(model, "_orig_mod", model)
    with torch.inference_mode(False):
        ours = _copied(model)
    device = weights_device(ours)
    with torch.inference_mode(False), hooks.untouched(ours):
        example = example.detach().to(device).clone()
        call = Call(ours, tuple(args), dict(kwargs or {}), output, batch=len(example))
        with _no_zero_weights(ours) as drawn:
            found = _analyse(call, example, features, head)
        plain = found.certificate(call, example, drawn)
        fused = found.own_parameters(ours)
        softcam = SoftCAM(ours, found.plan, plain, task=task, classes=classes, output=output, fused=fused)
        softcam.certificate = replace(plain, **_parity(softcam, call, example, images, tolerance))
        retired = _retired(softcam, call, example)
    for parameter in retired:
        parameter.requires_grad_(False)
    softcam.training = ours.training
    return softcam


@dataclass(frozen=True)
class _Found:
    """A feature map, the head that reads it, and what was measured on the way."""

    plan: Plan
    weight: Tensor | None
    bias: Tensor
    reading: Reading
    head_error: float
    grid: tuple[int, ...]
    field: Field | None
    attention: bool

    def rank_order(self) -> tuple[int, bool, int]:
        """Smaller is better: parameters shared with the network, places in a grid, read at a layer."""
        kinds = ("output", "input", "function")
        own = 0 if self.plan.layer else 2 if self.plan.fused else 1
        return own, self.plan.stride is not None, kinds.index(self.plan.capture.kind)

    def own_parameters(self, model: nn.Module) -> nn.Linear | None:
        if not self.plan.fused or self.weight is None:
            return None
        like = next(p for p in model.parameters() if p.is_floating_point())
        classes, channels = self.weight.shape
        linear = nn.Linear(channels, classes, device="meta").to_empty(device=like.device).to(like.dtype)
        linear.load_state_dict({"weight": self.weight, "bias": self.bias})
        return linear

    def certificate(self, call: Call, example: Tensor, drawn: list[str]) -> Certificate:
        size, field = tuple(example.shape[2:]), self.field
        stride = field.jump if field else tuple(n / g for n, g in zip(size, self.grid, strict=True))
        head = self.plan.layer or (
            "own evidence parameters, fused from the head"
            if self.plan.fused
            else "none: the feature map is the evidence"
        )
        whole = field is not None and field.whole
        return Certificate(
            kind="exact", cut=str(self.plan.capture), head=head, classes=len(self.bias), images=0, parity=0.0, parity_relative=0.0, flips=0,
            affinity=self.reading.residual, head_error=self.head_error, grid=self.grid, input_size=size, stride=stride,
            start=field.start if field else None, jump=field.jump if field else None,
            receptive_field=field.size if field and not whole else None, whole_input=whole, sized=field is not None and field.sized, notes=tuple(self._notes(drawn)),
        )  # fmt: skip

    def _notes(self, drawn: list[str]) -> Iterator[str]:
        if self.attention:
            yield "attention lies before the map: a cell may draw on places far from its own"
        elif self.field is not None and self.field.whole:
            yield "a gate or normalisation before the map sees the whole input (squeeze-excitation): so does every cell"
        if self.field is None:
            yield "cell centres are not known for this network: overlays tile the input evenly"
        if self.plan.fused:
            yield "the head's layers were fused: logits come from the evidence parameters, and the original head no longer trains"
        if drawn:
            yield f"weights that are all zero were drawn at random for the analysis: {', '.join(drawn[:3])}"


def _check_example(example: Any) -> None:
    if not isinstance(example, Tensor) or example.ndim < 3 or len(example) == 0:
        came = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise BadInput(
            f"The example is {came}.",
            why="A tensor (batch, channels, *spatial) is needed.",
            hint="Add the batch axis, or the channel axis: x[None].",
        )


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copying.deepcopy(model)
    except Exception as error:
        raise ConversionError(
            f"The {type(model).__name__} cannot be copied.",
            why=str(error),
            hint="Remove what cannot be copied (open files, tensors with a graph) and try again.",
        ) from error


@contextmanager
def _no_zero_weights(model: nn.Module) -> Iterator[list[str]]:
    """Weights that are all zero (new heads, the last scale of a residual branch) hide what will bend once they are
    trained: drawn at random while open.
    """
    zero = [
        (name, p)
        for name, p in model.named_parameters()
        if "bias" not in name and p.is_floating_point() and not bool(p.any())
    ]
    with torch.no_grad():
        for _, parameter in zero:
            parameter.normal_(std=0.1)
    try:
        yield [name for name, _ in zero]
    finally:
        with torch.no_grad():
            for _, parameter in zero:
                parameter.zero_()


def _analyse(call: Call, example: Tensor, features: str | None, head: str | None) -> _Found:
    rows = torch.arange(min(len(example), _ROWS))
    few, x = call.rows(rows), example[rows]
    _check_output(few, x)
    for name in (features, head):
        if name is not None:
            hooks.find_layer(call.model, name)
    others = tuple(v for v in tree_leaves((few.args, dict(few.kwargs))) if isinstance(v, Tensor))
    try:
        traced = trace(call.model, lambda: few.run(few.model, x), (x, *others), few.select)
    except Untraceable as reason:
        if features is None:
            raise ConversionError(
                "The network cannot be traced.",
                why=f"{str(reason).capitalize()}.",
                hint="Name the layers: features='<layer that gives the feature map>', head='<linear layer>'.",
            ) from reason
        return _by_substitution(few, x, features, head)
    return _by_trace(traced, few, x, features, head)


def _check_output(call: Call, x: Tensor) -> None:
    with torch.no_grad():
        try:
            returned = call.run(call.model, x)
        except Exception as error:
            raise ConversionError(
                "The network fails on the example.",
                why=f"{type(error).__name__}: {error}",
                hint="Give an example that the network accepts.",
            ) from error
        output = call.select(returned)
    if (
        not isinstance(output, Tensor)
        or output.ndim not in (1, 2)
        or len(output) != len(x)
        or not output.is_floating_point()
    ):
        came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConversionError(
            f"The network's output is {came}.",
            why="Logits (batch, classes) are needed.",
            hint="Attach a classifier, or pick the logits with output=.",
        )
    if not bool(torch.isfinite(output).all()):
        raise ConversionError(
            "The network's output is not finite on the example.", hint="Check the weights and the example."
        )


def _by_trace(traced: Trace, call: Call, x: Tensor, features: str | None, head: str | None) -> _Found:
    rank = x.ndim - 2
    attention = {
        i for i, s in enumerate(traced.steps) if s.name == "_softmax" or s.name.startswith("_scaled_dot_product")
    }
    found: list[_Found] = []
    for cut in _candidates(traced, call.model, features):
        points = traced.points.get(cut, [])
        point = best([p for p in points if features is None or (p.kind == "output" and p.name == features)])
        shape = traced.shape(cut)
        tail = traced.tail(cut)
        _refuse_flattened(traced, cut, call.model)
        reading = heads.read(tail, shape, x.device)
        if reading.mixes_batch:  # the first axis happens to be as long as the batch but is another one
            continue
        try:
            _refuse_curved(reading, partial(_reason, traced, cut, call.model), _place(point, traced.steps[cut.step]))
        except ConversionError:
            if found:
                break
            raise
        grid, stride = _grid(shape, reading, rank, tuple(x.shape[2:]), _known_grids(traced, cut))
        if grid is None or point is None:
            continue
        plan = Plan(point, None, False, "mean", reading.channel_axis or 1, rank, stride)
        field = receptive_field(traced, cut, rank)
        places = tuple(range(2, len(shape))) if plan.channel_axis == 1 else tuple(range(1, len(shape) - 1))
        field = field if field is not None and field.axes == places else None
        found.append(
            _with_head(call.model, tail, shape, reading, plan, grid, head, field, any(i < cut.step for i in attention))
        )
        if found[-1].plan.fused or found[-1].rank_order() == (0, False, 0):
            break
    if not found:
        raise ConversionError(
            "No feature map with several places was found through which everything passes on the way to the logits.",
            why="Another input or a path around the map reaches the logits, or the map has a single cell at this input size.",
            hint="Give a larger example, or name the layer with features='...'.",
        )
    return min(found, key=_Found.rank_order)


def _candidates(traced: Trace, model: nn.Module, features: str | None) -> Iterator[Ref]:
    cuts = [c for c in traced.cuts() if c.step >= traced.inputs]
    if features is None:
        batch = traced.shape(Ref(0))[0]
        grids = [
            c
            for c in cuts
            if len(traced.shape(c)) >= 3 and traced.shape(c)[0] == batch and traced.steps[c.step].floating
        ]
        yield from grids[:_TRIED]
        return
    named = [
        ref for ref, points in traced.points.items() if any(p.kind == "output" and p.name == features for p in points)
    ]
    if not named or len(traced.shape(named[-1])) < 3:
        raise ConversionError(
            f"'{features}' gives no feature map.",
            why="One tensor with places, (batch, channels, *grid), is needed.",
            hint="Name a layer before the pooling.",
        )
    if named[-1] not in cuts:
        raise ConversionError(
            f"There is a path around '{features}'.",
            why="The logits depend on the input in another way too, so its evidence would not add up.",
            hint="Name a later layer, or none.",
        )
    yield named[-1]


def _refuse_curved(reading: Reading, reason: Callable[[], tuple[str, str]], place: str) -> None:
    """Raise for a tail that is curved, reads single tokens, or weighs places differently."""
    if reading.affine and reading.used <= 2 and reading.places >= 4 and reading.channel_axis is None:
        which = "a class token reads the map by attention" if reading.used else "the output does not depend on it"
        raise ConversionError(
            f"Only {reading.used} of the {reading.places} places of {place} reach the logits: {which}.",
            why="Single places carry the whole decision, so a map of them would say nothing about the image.",
            hint="Use or retrain a variant with average pooling (timm: global_pool='avg').",
        )
    if not reading.affine or reading.channel_axis is None:
        message, hint = reason()
        detail = f"Between {place} and the logits the departure from a straight line is {reading.residual:.1g} of the logits' spread."
        if reading.affine:
            detail = f"The logits weigh the {reading.places} places of {place} differently."
        raise ConversionError(message, why=detail, hint=hint)


def _place(point: CapturePoint | None, step: Step) -> str:
    return str(point) if point is not None else f"the result of {step.name} in '{step.layer or 'forward'}'"


def _reason(traced: Trace, cut: Ref, model: nn.Module) -> tuple[str, str]:
    """Which layer stands in the way, and what can be done."""
    steps = traced.after(cut)
    curved = next((s for s in steps if _is_curved(s)), None)
    if curved is None:
        return (
            "The head weighs places differently, so there is no evidence layer that fits every place.",
            "Use average pooling over the whole map before the classifier.",
        )
    hint = "Only heads that are linear after pooling convert exactly."
    if prod(traced.shape(cut)[2:]) == 1 and any(s.name == "mean" or "avg_pool" in s.name for s in steps):
        hint = "At this input size the map has a single cell even before the pooling: give a larger example."
    return (
        f"The head is not linear: {curved.name} in {_layer(model, curved.layer)} lies between the feature map and the logits.",
        hint,
    )


def _layer(model: nn.Module, name: str) -> str:
    return (
        f"'{name}' ({type(model.get_submodule(name)).__name__})"
        if name
        else f"the forward method of {type(model).__name__}"
    )


def _refuse_flattened(traced: Trace, cut: Ref, model: nn.Module) -> None:
    """Raise where a linear layer reads a flattened grid, with a weight for every place of it."""
    steps = traced.after(cut)
    for i, step in enumerate(steps):
        if step.name not in ("view", "_unsafe_view", "reshape") or len(step.shapes[0]) != 2:
            continue
        before, after = traced.shape(step.parents[0]), step.shapes[0]
        reader = next((s for s in steps[i + 1 :] if s.name in ("addmm", "mm", "linear")), None)
        if (
            reader is not None
            and len(before) > 2
            and before[0] == after[0]
            and prod(before[2:]) > 1
            and after[1] == prod(before[1:])
        ):
            raise ConversionError(
                f"{_layer(model, reader.layer)} reads the whole {' x '.join(map(str, before[2:]))} grid, flattened.",
                why="Every place then has weights of its own; exact conversion needs a mean over places.",
                hint="Replace the flattening by average pooling and retrain.",
            )


# Operations that are linear in each argument; products of two features are told apart by `_is_curved`.
_STRAIGHT = frozenset({
    "view", "_unsafe_view", "reshape", "flatten", "t", "transpose", "permute", "mean", "sum", "add", "sub", "rsub",
    "addmm", "mm", "bmm", "matmul", "linear", "mul", "div", "neg", "clone", "alias", "expand", "squeeze", "unsqueeze",
    "select", "slice", "cat", "stack", "split", "split_with_sizes", "chunk", "unbind", "narrow", "convolution",
    "native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training", "detach", "_to_copy",
    "native_dropout", "constant_pad_nd", "as_strided", "contiguous", "index", "index_select", "roll", "flip",
})  # fmt: skip


def _is_curved(step: Step) -> bool:
    if step.name in ("mul", "bmm", "mm", "matmul", "addmm", "convolution"):
        return len(step.parents) > 1
    if step.name == "div":
        return len(step.args) > 1 and isinstance(step.args[1], Ref)
    return step.name not in _STRAIGHT and "avg_pool" not in step.name


def _known_grids(traced: Trace, cut: Ref) -> list[tuple[int, ...]]:
    """Grids of earlier convolutions and poolings, the latest first, then these halved as merging of tokens does."""
    known = [s.shapes[0][2:] for s in traced.steps[: cut.step + 1] if s.name == "convolution" or "pool" in s.name][::-1]
    halved = known
    for _ in range(4):
        halved = [tuple(-(-n // 2) for n in grid) for grid in halved]
        known = known + halved
    return known


def _grid(
    shape: tuple[int, ...], reading: Reading, rank: int, size: tuple[int, ...], known: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """The map's cells per axis; for places that stand in one row also the stride that lays them out. None: no grid.

    A row of a few places may as well be a stack of tokens or of heads; it counts when an earlier layer had such a grid.
    """
    places = tuple(shape[2:]) if reading.channel_axis == 1 else tuple(shape[1:-1])
    if prod(places) < 2:
        return None, None
    if len(places) == rank and (rank > 1 or places[0] >= 4 or places in known):
        return places, None
    if len(places) == 1 and rank > 1 and places[0] >= 4:
        grid = next((tuple(g) for g in known if len(g) == rank and prod(g) == places[0]), None)
        if grid is not None:
            return grid, tuple(n // g for n, g in zip(size, grid, strict=True))
    return None, None


def _with_head(
    model: nn.Module,
    tail: Tail,
    shape: tuple[int, ...],
    reading: Reading,
    plan: Plan,
    grid: tuple[int, ...],
    head: str | None,
    field: Field | None,
    attention: bool,
) -> _Found:
    """Find whose weights the evidence uses, and check them on random features."""
    with torch.no_grad():
        bias = tail(torch.zeros(shape, dtype=torch.float64, device=reading.slopes.device))[0]
    named = [(n, m) for n, m in model.named_modules() if head is None or n == head]
    match = heads.matching_layer(named, reading, bias)
    weight, pooling, layer = None, None, None
    if match is not None:
        layer, pooling = match
        weight = _weight_of(model, layer)
    elif head is not None:
        raise ConversionError(
            f"'{head}' is not the head: its weight and bias are not those that lead from the feature map to the logits.",
            why="The slope of the logits was compared with its parameters in double precision.",
            hint="Name the last linear layer, or leave head= out.",
        )
    else:
        identity = torch.eye(len(bias), dtype=torch.float64, device=bias.device)
        pooling = heads.slope_pooling(identity, reading) if not bool(bias.any()) else None
    fused = pooling is None
    if fused:
        weight = heads.full_weight(tail, shape, plan.channel_axis, bias.device)
    checked = weight if weight is not None else torch.eye(len(bias), dtype=torch.float64, device=bias.device)
    chosen: Pooling = pooling or "mean"
    error = heads.check_head(tail, shape, checked, bias, channel_axis=plan.channel_axis, pooling=chosen)
    return _Found(
        replace(plan, layer=layer, fused=fused, pooling=chosen), weight, bias, reading, error, grid, field, attention
    )


def _weight_of(model: nn.Module, layer: str) -> Tensor:
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight.detach().double().flatten(1)


def _by_substitution(call: Call, x: Tensor, features: str, head: str | None) -> _Found:
    """For networks that cannot be traced: the network itself, in double precision, run with the named layer's output replaced."""
    shape, calls = _shape_of(call, x, features)
    if calls != 1:
        raise ConversionError(
            f"'{features}' runs {calls} times in one pass.",
            why="A feature map must come by once.",
            hint="Name a layer that is used once.",
        )
    double = copying.deepcopy(call.model).double()
    wide = replace(call, model=double, args=_doubled(call.args), kwargs=_doubled(dict(call.kwargs)))

    def tail(values: Tensor, given: Tensor = x.double()) -> Tensor:  # noqa: B008
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with substituted(double, features, values):
                return as_logits(wide(given))
        finally:
            torch.set_default_dtype(before)

    probe = heads.features_like(shape, 3.0, torch.Generator().manual_seed(3), x.device)
    with torch.no_grad():
        same, other = tail(probe), tail(probe, torch.randn_like(x, dtype=torch.float64))
    if float((same - other).abs().max()) > heads.TOLERANCE * heads.spread(same):
        raise ConversionError(
            f"There is a path around '{features}'.",
            why="With its output held fixed, the logits still change with the input.",
            hint="Name a later layer.",
        )
    reading = heads.read(tail, shape, x.device)
    reason = (f"The head is not linear after '{features}'.", "Name the layer right before the pooling.")
    _refuse_curved(reading, lambda: reason, f"the output of '{features}'")
    rank = x.ndim - 2
    grid, _ = _grid(shape, reading, rank, tuple(x.shape[2:]), [shape[2:]])
    if grid is None:
        raise ConversionError(
            f"'{features}' gives {shape}, which is no grid of places.", hint="Name the layer right before the pooling."
        )
    plan = Plan(CapturePoint("output", features), None, False, "mean", reading.channel_axis or 1, rank)
    return _with_head(double, tail, shape, reading, plan, grid, head, None, False)


def _shape_of(call: Call, x: Tensor, layer: str) -> tuple[tuple[int, ...], int]:
    seen: list[tuple[int, ...]] = []
    handle = call.model.get_submodule(layer).register_forward_hook(
        lambda m, a, out: seen.append(tuple(getattr(out, "shape", ())))
    )
    try:
        with torch.no_grad():
            call(x)
    finally:
        handle.remove()
    if not seen or len(seen[0]) < 3:
        raise ConversionError(
            f"'{layer}' gives no feature map.",
            why="One tensor with places, (batch, channels, *grid), is needed.",
            hint="Name a layer before the pooling.",
        )
    return seen[0], len(seen)


def _doubled(values: Any) -> Any:
    return tree_map(lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v, values)


def _parity(softcam: SoftCAM, call: Call, example: Tensor, images: Tensor | None, tolerance: float) -> dict[str, Any]:
    """Compare evidence and logits on whole inputs: the example or the given images, and noise like the example."""
    real = example if images is None else images.detach().to(example)
    noise = (
        torch.randn(example.shape, generator=torch.Generator().manual_seed(4)).to(example) * example.std()
        + example.mean()
    )
    worst, spread, flips = 0.0, 0.0, 0
    with torch.no_grad():
        for batch, counted in [*((b, True) for b in torch.split(real, len(example))), (noise, False)]:
            seen = call.rows(torch.arange(len(batch))).run(softcam.evidence, batch)
            made = seen.maps.flatten(2).mean(2) + seen.bias
            logits = as_logits(
                softcam.select(
                    seen.output
                    if softcam.fused is None
                    else call.rows(torch.arange(len(batch))).run(softcam.model, batch)
                )
            )
            worst, spread = max(worst, float((made - logits).abs().max())), max(spread, heads.spread(logits))
            flips += int(counted) * int((_answers(made) != _answers(logits)).sum())
            allowed = max(tolerance, 8 * torch.finfo(logits.dtype).eps)
    relative = worst / spread
    if not relative <= allowed:
        raise ConversionError(
            f"Evidence and logits differ by {worst:.2g} on whole inputs, {relative:.1g} of the logits' spread.",
            why=f"At most {allowed:.1g} is allowed.",
            hint="The network may depend on values in a way that its trace does not show; name features= and head=.",
        )
    return {"images": len(real), "parity": worst, "parity_relative": relative, "flips": flips}


def _answers(logits: Tensor) -> Tensor:
    return logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0] > 0


def _retired(softcam: SoftCAM, call: Call, example: Tensor) -> list[nn.Parameter]:
    """Parameters that the network's logits depend on and the fused ones do not: those of the old head."""
    if softcam.fused is None:
        return []
    trainable = [p for p in softcam.model.parameters() if p.requires_grad]
    one = call.rows(torch.arange(1))

    def reached(function: Callable[..., Any]) -> list[bool]:
        with torch.enable_grad():
            score = softcam.select(one.run(function, example[:1])).sum()
            return [g is not None for g in torch.autograd.grad(score, trainable, allow_unused=True)]

    before, after = reached(softcam.model), reached(softcam)
    return [p for p, old, new in zip(trainable, before, after, strict=True) if old and not new]
