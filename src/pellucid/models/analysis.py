"""Find the feature map that evidence is read from, and what the head makes of it.

trace ──> cuts, the last first ── head.read ──> linear, the same at every place? ── check_head ──> exact
                                        │ no
                                        └──> last grid of places ── frozen.Shares ──> adds up on large random features?
                                                   │ no                                     └──> exact_at_this_image
                                                   └──> ConversionError that names the layer and the reason
"""

from __future__ import annotations

import copy as copying
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pellucid import hooks
from pellucid.call import Call
from pellucid.errors import ConversionError
from pellucid.models import head as heads
from pellucid.models.capture import CapturePoint, best, earliest, substituted
from pellucid.models.certificate import Certificate
from pellucid.models.frozen import Unfreezable, following
from pellucid.models.head import Pooling, Reading, Tail
from pellucid.models.pooling import EvidenceHead
from pellucid.models.reasons import TokenHead, is_curved, place_of, reason_of, refuse_curved, refuse_flattened
from pellucid.models.receptive_field import Field, centre_interval, receptive_field
from pellucid.models.softcam import Plan, grid_of_shares
from pellucid.models.trace import Ref, Step, Trace, Untraceable, as_logits, trace

_TRIED = 12  # cuts looked at before giving up
_ROWS = 2  # inputs of the example that the analysis runs on


@dataclass(frozen=True)
class Found:
    """A feature map, the head that reads it, and what was measured on the way."""

    plan: Plan
    weight: Tensor | None
    bias: Tensor
    affinity: float
    head_error: float
    grid: tuple[int, ...]
    field: Field | None
    attention: bool
    hints: tuple[str, ...] = ()
    interval: str = ""

    def rank_order(self) -> tuple[int, bool, int]:
        """Smaller is better: parameters shared with the network, places in a grid, read at a layer."""
        own = 0 if self.plan.layer else 2 if self.plan.fused else 1
        return own, *_readability(self.plan)

    def own_parameters(self, model: nn.Module) -> nn.Linear | None:
        if not self.plan.fused or self.weight is None:
            return None
        like = next(p for p in model.parameters() if p.is_floating_point())
        classes, channels = self.weight.shape
        linear = nn.Linear(channels, classes, device="meta").to_empty(device=like.device).to(like.dtype)
        linear.load_state_dict({"weight": self.weight, "bias": self.bias})
        linear.train(model.training)
        return linear

    def certificate(self, call: Call, example: Tensor, drawn: list[str]) -> Certificate:
        size, field = tuple(example.shape[2:]), self.field
        stride = field.jump if field else tuple(n / g for n, g in zip(size, self.grid, strict=True))
        head = self.plan.layer or (
            "the network's own, its gates held at each input"
            if self.plan.frozen
            else "own evidence parameters, fused from the head"
            if self.plan.fused
            else "none: the feature map is the evidence"
        )
        whole = field is not None and field.whole
        return Certificate(
            kind="exact_at_this_image" if self.plan.frozen else "exact", cut=str(self.plan.capture), head=head, classes=len(self.bias), images=0, parity=0.0, parity_relative=0.0, flips=0,
            affinity=self.affinity, head_error=self.head_error, grid=self.grid, input_size=size, stride=stride,
            start=field.start if field else None, jump=field.jump if field else None,
            receptive_field=field.size if field and not whole else None, whole_input=whole, sized=field is not None and field.sized, notes=tuple(self._notes(drawn)),
        )  # fmt: skip

    def _notes(self, drawn: list[str]) -> Iterator[str]:
        if self.attention:
            yield "attention lies before the map: a cell may draw on places far from its own"
        elif self.field is not None and self.field.whole:
            yield "a gate or normalisation before the map sees the whole input (squeeze-excitation): so does every cell"
        if self.field is None:
            span = f" (the first lies at {self.interval}, the weights decide)" if self.interval else ""
            yield f"cell centres are not known for this network{span}: overlays tile the input evenly"
        if self.plan.fused:
            yield "the head's layers were fused: logits come from the evidence parameters, and the original head no longer trains"
        yield from self.hints
        if drawn:
            yield f"weights that are all zero were drawn at random for the analysis: {', '.join(drawn[:3])}"


def analyse(call: Call, example: Tensor, features: str | None, head: str | None, kind: str | None = None) -> Found:
    """The feature map to read evidence from, and how. Raises `ConversionError` where there is none of the wanted kind."""
    rows = torch.arange(min(len(example), _ROWS))
    few, x = call.rows(rows), example[rows]
    _check_output(few, x)
    for name in (features, head):
        if name is not None:
            hooks.find_layer(call.model, name)
    try:
        traced = _traced(few, x)
    except Untraceable as reason:
        if features is None:
            raise ConversionError(
                "The network cannot be traced.",
                why=f"{str(reason).capitalize()}.",
                hint="Name the layers: features='<layer that gives the feature map>', head='<linear layer>'.",
            ) from reason
        return _by_substitution(few, x, features, head, kind)
    if kind == "exact_at_this_image":
        return _at_image(traced, few, x, features)
    try:
        return _by_trace(traced, few, x, features, head)
    except ConversionError as bends:
        if kind == "exact" or head is not None:
            raise
        try:
            return _at_image(traced, few, x, features, tokens=not isinstance(bends, TokenHead))
        except ConversionError as error:
            raise _both(bends, error) from error


def _both(bends: ConversionError, held: ConversionError) -> ConversionError:
    """Why neither kind is possible: the head bends, and its gates cannot be held."""
    if isinstance(held, TokenHead) or isinstance(bends, TokenHead):
        return held if isinstance(held, TokenHead) else bends
    why = " ".join(
        part for part in (bends.why, f"Holding its gates at each input fails too: {held.message}", held.why) if part
    )
    return ConversionError(bends.message, why=why, hint=held.hint or bends.hint)


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


def _by_trace(traced: Trace, call: Call, x: Tensor, features: str | None, head: str | None) -> Found:
    rank = x.ndim - 2
    found: list[Found] = []
    for cut in _candidates(traced, call.model, features):
        points = traced.points.get(cut, [])
        point = best([p for p in points if features is None or (p.kind == "output" and p.name == features)])
        shape = traced.shape(cut)
        tail = traced.tail(cut)
        refuse_flattened(traced, cut, call.model)
        known = _known_grids(traced, cut)
        if not _plausible(shape, rank, known):
            continue
        reading = heads.read(tail, shape, x.device)
        if reading.mixes_batch:  # the first axis happens to be as long as the batch but is another one
            continue
        try:
            refuse_curved(reading, partial(reason_of, traced, cut, call.model), place_of(point, traced.steps[cut.step]))
        except ConversionError:
            if found:
                break
            raise
        grid, stride = _grid(shape, reading, rank, tuple(x.shape[2:]), known)
        if grid is None or point is None:
            continue
        plan = Plan(point, None, False, "mean", reading.channel_axis or 1, rank, stride)
        field = receptive_field(traced, cut, rank)
        places = tuple(range(2, len(shape))) if plan.channel_axis == 1 else tuple(range(1, len(shape) - 1))
        field = field if field is not None and field.axes == places else None
        attention = _has_attention(traced.steps[: cut.step])
        made = _with_head(call.model, tail, shape, reading, plan, grid, head, field, attention)
        found.append(replace(made, interval=_interval(traced, cut, rank, field)))
        if found[-1].plan.fused or found[-1].rank_order() == (0, False, 0):
            break
    if not found:
        raise _no_map(traced)
    return min(found, key=Found.rank_order)


def _plausible(shape: tuple[int, ...], rank: int, known: Sequence[tuple[int, ...]]) -> bool:
    """Whether a tensor may be a map: it has the input's rank, or a row as long as an earlier layer's grid, prefix included."""
    sizes = {prod(g) for g in known}
    return len(shape) == rank + 2 or any(0 <= n - size <= _PREFIX for n in shape[1:] for size in sizes if size >= 4)


def _no_map(traced: Trace) -> ConversionError:
    """That there is no map, and whether the size of the input may be why."""
    message = "No feature map with several places was found through which everything passes on the way to the logits."
    grids = [s.shapes[0][2:] for s in traced.steps if s.name == "convolution" and len(s.shapes[0]) > 2]
    if grids and prod(grids[-1]) < 4:
        return ConversionError(
            message,
            why="The map has fewer than four cells at this input size, or another input or a path around it reaches the logits.",
            hint="Give a larger example, or name the layer with features='...'.",
        )
    return ConversionError(
        message,
        why="Several maps, tokens or inputs reach the logits, each by a way of its own.",
        hint="Use a variant whose classifier reads one pooled map, or name the layer with features='...'.",
    )


def _candidates(traced: Trace, model: nn.Module, features: str | None) -> Iterator[Ref]:
    cuts = [c for c in traced.cuts() if c.step >= traced.inputs]
    if features is None:
        batch = traced.shape(Ref(0))[0]
        grids = [
            c
            for c in cuts
            if len(traced.shape(c)) >= 3 and traced.shape(c)[0] == batch and traced.steps[c.step].floating
        ]
        given = _given_to_head(traced, model)
        grids = [c for c in grids if (given is None or c.step <= given) and not _is_picked(traced, c)]
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


def _is_picked(traced: Trace, cut: Ref) -> bool:
    """Whether places were ranked or picked by value on the way: where they stand then says nothing about where they lie."""
    return any(traced.steps[i].name in _PICKING for i in traced.needed() if i <= cut.step)


_PICKING = frozenset({"topk", "sort", "argsort", "kthvalue", "gather", "masked_select", "nonzero", "scatter"})


def _given_to_head(traced: Trace, model: nn.Module) -> int | None:
    """The step that made what an `EvidenceHead` is given: inside it cells are weighed or ranked, and are no map any more."""
    names = {name for name, module in model.named_modules() if isinstance(module, EvidenceHead)}
    steps = [
        r.step for r, points in traced.points.items() if any(p.kind == "input" and p.name in names for p in points)
    ]
    return min(steps, default=None)


def _known_grids(traced: Trace, cut: Ref) -> list[tuple[int, ...]]:
    """Grids of earlier convolutions and poolings, the latest first, then these halved as merging of tokens does."""
    return _with_halved(_convolved(traced, cut))


def _convolved(traced: Trace, cut: Ref) -> list[tuple[int, ...]]:
    """Grids of earlier convolutions and poolings, the latest first; without any, those of square patches of the input."""
    found = [s.shapes[0][2:] for s in traced.steps[: cut.step + 1] if s.name == "convolution" or "pool" in s.name]
    size = traced.shape(Ref(0))[2:]
    patches = [tuple(n // side for n in size) for side in range(64, 1, -1) if all(n % side == 0 for n in size)]
    return found[::-1] or patches


def _with_halved(grids: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    known = halved = list(grids)
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


def before_the_head(call: Call, example: Tensor, features: str | None) -> tuple[CapturePoint, int, list[str]]:
    """Where the last map of places comes by, its channel axis, and what bends after it outside layers of its own."""
    few = call.rows(torch.arange(min(len(example), _ROWS)))
    x = example[:_ROWS]
    _check_output(few, x)
    traced = _traced(few, x)
    found = _last_grid(traced, call.model, x, features, tokens=False)
    if found is None:
        raise _no_map(traced)
    cut, plan, _, _ = found
    leaves = {name for name, module in call.model.named_modules() if not any(True for _ in module.children())}
    between = [s.name for s in traced.after(cut) if is_curved(s) and (not s.layer or s.layer not in leaves)]
    return plan.capture, plan.channel_axis, between


def _traced(call: Call, x: Tensor) -> Trace:
    others = tuple(v for v in tree_leaves((call.args, dict(call.kwargs))) if isinstance(v, Tensor))
    return trace(call.model, lambda: call.run(call.model, x), (x, *others), call.select)


def _at_image(traced: Trace, call: Call, x: Tensor, features: str | None, tokens: bool = True) -> Found:
    """The last grid of places through which everything passes, with the head's gates held after it.

    tokens: whether tokens that are no places may stand beside them. Where these carry the decision, a grid before they
    came in is looked for (the input of an attention pool).
    """
    found = _last_grid(traced, call.model, x, features, tokens)
    if found is None:
        raise _no_map(traced)
    cut, plan, grid, field = found
    try:
        error, bias = _held_error(call, x, plan, traced.shape(cut))
    except TokenHead as reason:
        if not tokens:
            raise
        try:
            return _at_image(traced, call, x, features, tokens=False)
        except ConversionError:
            raise reason from None
    bend = heads.departure(traced.tail(cut), traced.shape(cut), x.device)
    hints = ("attention in the head is held: what shapes its weights is not shown",)
    return Found(
        plan, None, bias, bend, error, grid, field if _fits(field, plan) else None,
        _has_attention(traced.steps[: cut.step]), hints if _has_attention(traced.after(cut)) else (),
        _interval(traced, cut, x.ndim - 2, field),
    )  # fmt: skip


def _interval(traced: Trace, cut: Ref, rank: int, field: Field | None) -> str:
    """Between which samples the first cell's centre lies, where the ways to it disagree; empty where not even that is known."""
    span = centre_interval(traced, cut, rank) if field is None else None
    return " x ".join(f"{low:g} to {high:g}" for low, high in span) if span else ""


def _last_grid(
    traced: Trace, model: nn.Module, x: Tensor, features: str | None, tokens: bool
) -> tuple[Ref, Plan, tuple[int, ...], Field | None] | None:
    """The last cut that is a grid; of several that differ in layout only, the one that is best read."""
    found: tuple[Ref, Plan, tuple[int, ...], Field | None] | None = None
    for cut in _candidates(traced, model, features):
        if _goes_on(traced.after(cut)) or (found is not None and not _only_moved(traced, cut, found[0])):
            break
        points = traced.points.get(cut, [])
        point = earliest([p for p in points if features is None or (p.kind == "output" and p.name == features)])
        field = receptive_field(traced, cut, x.ndim - 2)
        layout = _layout(traced.shape(cut), tuple(x.shape[2:]), _convolved(traced, cut), field)
        if point is None or layout is None or _is_resized(traced, cut) or (layout[0].prefix and not tokens):
            continue
        plan = replace(layout[0], capture=point)
        if found is None or _readability(plan) < _readability(found[1]):
            found = cut, plan, layout[1], field
    return found


_MOVES = frozenset(
    {"view", "_unsafe_view", "reshape", "permute", "transpose", "clone", "alias", "unsqueeze", "squeeze", "detach"}
)


def _only_moved(traced: Trace, cut: Ref, later: Ref) -> bool:
    """Whether `later` is the tensor at `cut` in another layout."""
    return all(traced.steps[i].name in _MOVES for i in traced.needed() if cut.step < i <= later.step)


def _readability(plan: Plan) -> tuple[bool, int]:
    """Smaller is better: places in a grid, read at a layer."""
    return plan.stride is not None, ("output", "input", "function").index(plan.capture.kind)


def _goes_on(tail: Sequence[Step]) -> bool:
    """Whether more than a head follows: convolutions over places, or layers of attention."""
    spatial = any(
        s.name == "convolution" and prod(s.argument("weight").shape[2:]) > 1 and not _reads_all(s) for s in tail
    )
    return spatial or sum(_has_attention([s]) for s in tail) > 1


def _reads_all(step: Step) -> bool:
    """Whether a convolution is as large as what it reads: a linear layer on a flattened map, written otherwise."""
    return prod(step.shapes[0][2:]) == 1 and not any(step.argument("padding"))


def _has_attention(steps: Sequence[Step]) -> bool:
    return any(s.name == "_softmax" or s.name.startswith("_scaled_dot_product") for s in steps)


def _fits(field: Field | None, plan: Plan) -> bool:
    """Whether the field speaks of the axes that the plan takes for places."""
    axes = tuple(range(2, 2 + plan.rank)) if plan.channel_axis == 1 else tuple(range(1, 1 + plan.rank))
    return field is not None and plan.prefix == 0 and (plan.stride is None and field.axes == axes)


def _is_resized(traced: Trace, cut: Ref) -> bool:
    """Whether the tensor comes from pooling to a fixed size: cells of what was pooled are finer, and lie somewhere known."""
    return "adaptive" in traced.steps[cut.step].name


_PREFIX = 8  # class and register tokens at most


def _layout(
    shape: tuple[int, ...], size: tuple[int, ...], grids: Sequence[tuple[int, ...]], field: Field | None
) -> tuple[Plan, tuple[int, ...]] | None:
    """Which axes of a tensor are places, told by the grids of earlier layers: a plan (its capture to be filled in) and the grid."""
    rank = len(size)
    known = _with_halved(grids)
    somewhere = CapturePoint("output", "")
    plan = Plan(somewhere, None, False, "mean", 1, rank, frozen=True)
    if len(shape) == rank + 2:
        for axis, grid, axes in ((1, shape[2:], range(2, rank + 2)), (-1, shape[1:-1], range(1, rank + 1))):
            if prod(grid) >= 4 and grid in known and (field is None or field.axes == tuple(axes)):
                return replace(plan, channel_axis=axis), grid
    if len(shape) == 3 and rank > 1:
        for axis, places in ((-1, shape[1]), (1, shape[2])):
            fitting = [g for g in grids if len(g) == rank and prod(g) >= 4 and 0 <= places - prod(g) <= _PREFIX]
            fitting += [g for g in known if len(g) == rank and prod(g) == places >= 4]
            if fitting:
                grid = min(fitting, key=lambda g: places - prod(g))
                stride = tuple(n // g for n, g in zip(size, grid, strict=True))
                return replace(plan, channel_axis=axis, stride=stride, prefix=places - prod(grid)), grid
    return None


def _held_error(call: Call, x: Tensor, plan: Plan, shape: tuple[int, ...]) -> tuple[float, Tensor]:
    """Largest departure of cells plus constant from the logits, over their spread, on large random features in double
    precision; and the logits of no features. Raises `ConversionError` where gates cannot be held, or single tokens decide.
    """
    rows = torch.zeros(len(_SCALES), dtype=torch.long)
    generator = torch.Generator().manual_seed(2)
    probes = torch.cat([heads.features_like((1, *shape[1:]), s, generator, x.device) for s in _SCALES])
    wide = _widened(call.rows(rows))
    given = x[rows].double()
    with _double_precision(), torch.no_grad():
        try:
            with following(wide.model, plan.capture, plan.channel_axis, instead=probes) as shares:
                selected = wide(given)
                made, constant = shares.cells(selected)
        except Unfreezable as error:
            raise ConversionError(f"The head's gates cannot be held: {error}.", hint="Use kind='retrain'.") from error
    cells, constant = (t.detach() for t in grid_of_shares(made, constant, plan.prefix))
    logits = as_logits(selected).detach()
    if len(logits) != len(probes):
        raise ConversionError(
            f"The first axis of {plan.capture} is not the batch.", hint="Name another layer with features='...'."
        )
    used = int((cells.abs().amax((0, 1)) > 1e-12 * float(cells.abs().max())).sum())
    tokens = _token_share(made[: plan.prefix].detach(), logits)
    if tokens > _TOKENS:
        raise TokenHead(
            f"Class tokens beside the {cells.shape[2]} places of {plan.capture} carry {tokens:.0%} of the logits' spread.",
            why="What they hold does not belong to any place, so a map would say little about the decision.",
            hint="Use or retrain a variant with average pooling (timm: global_pool='avg').",
        )
    if used <= 2:
        raise TokenHead(
            f"Only {used} of the {cells.shape[2]} places of {plan.capture} reach the logits: a class token carries the decision.",
            why="Single places carry the whole decision, so a map of them would say nothing about the image.",
            hint="Use or retrain a variant with average pooling (timm: global_pool='avg').",
        )
    differences = (cells.mean(2) + constant - logits).detach().abs().amax(1)
    worst = max(float(d) / heads.spread(y[None]) for d, y in zip(differences, logits, strict=True))
    if not worst <= heads.TOLERANCE:
        raise ConversionError(
            f"With the head's gates held, cells and constant miss the logits by {worst:.1g} of their spread.",
            why=f"On large random features at most {heads.TOLERANCE:g} is allowed.",
            hint="Use kind='retrain', or name another layer with features='...'.",
        )
    return worst, torch.zeros_like(constant[0])


def _token_share(tokens: Tensor, logits: Tensor) -> float:
    """How much of the logits' spread over classes stems from tokens that are no places; the median over inputs, since
    biases drown small features and attention picks one token among large ones.
    """
    parts = tokens.sum(0).reshape(len(logits), -1)
    shares = [
        heads.spread(a[None]) / heads.spread(b[None]) for a, b in zip(parts, logits, strict=True) if bool(a.any())
    ]
    return median(shares) if shares else 0.0


_SCALES = (0.1, 3.0, 100.0)
_TOKENS = 0.25  # of the logits' spread, at most, from tokens that are no places


def _widened(call: Call) -> Call:
    """The call in double precision, on a copy of the network."""
    double = copying.deepcopy(call.model).double()
    return replace(call, model=double, args=_doubled(call.args), kwargs=_doubled(dict(call.kwargs)))


@contextmanager
def _double_precision() -> Iterator[None]:
    """New tensors are double precision meanwhile, as a network in double precision needs them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
) -> Found:
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
    return Found(
        replace(plan, layer=layer, fused=fused, pooling=chosen),
        weight,
        bias,
        reading.residual,
        error,
        grid,
        field,
        attention,
    )


def _weight_of(model: nn.Module, layer: str) -> Tensor:
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight.detach().double().flatten(1)


def _by_substitution(call: Call, x: Tensor, features: str, head: str | None, kind: str | None) -> Found:
    """For networks that cannot be traced: the network itself, in double precision, run with the named layer's output replaced."""
    shape, calls = _shape_of(call, x, features)
    if calls != 1:
        raise ConversionError(
            f"'{features}' runs {calls} times in one pass.",
            why="A feature map must come by once.",
            hint="Name a layer that is used once.",
        )
    wide = _widened(call)
    double = wide.model

    def tail(values: Tensor, given: Tensor = x.double()) -> Tensor:  # noqa: B008
        with _double_precision(), substituted(double, features, values):
            return as_logits(wide(given))

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
    rank = x.ndim - 2
    try:
        if kind == "exact_at_this_image":
            raise ConversionError("This kind was asked for.")
        refuse_curved(reading, lambda: reason, f"the output of '{features}'")
    except TokenHead:
        raise
    except ConversionError as bends:
        layout = _layout(shape, tuple(x.shape[2:]), [shape[2:]], None)
        if kind == "exact" or head is not None or layout is None:
            raise
        plan = replace(layout[0], capture=CapturePoint("output", features))
        try:
            error, bias = _held_error(call, x, plan, shape)
        except ConversionError as held:
            raise _both(bends, held) from held
        return Found(plan, None, bias, reading.residual, error, layout[1], None, False)
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
