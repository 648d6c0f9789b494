"""Where a cell looks: centre, spacing and reach of the cells of a feature map, by recurrence over the traced operations.

For each convolution or pooling with kernel k, stride t, padding q and dilation d (Araujo, Norris and Sim, "Computing
Receptive Fields of Convolutional Neural Networks", Distill 2019; zero is the centre of the first sample):

    start += ((k - 1) d / 2 - q) jump;   size += (k - 1) d jump;   jump *= t

Where branches meet their centres must agree, otherwise the cells have no centre that does not depend on the weights.
Where an operation is not known to the recurrence a Dirac ramp through the trace tells (`pellucid.models.dirac`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch

from pellucid.models import dirac
from pellucid.models.dirac import Window
from pellucid.models.trace import Ref, Step, Trace


@dataclass(frozen=True)
class Field:
    """Of a tensor with places: on which of its axes they are (one axis where they stand in a row), and per axis of the
    input where cell 0 looks, how far cells lie apart and how many samples reach one (None: not known).
    whole: something on the way (a gate, a normalisation) sees the whole input.
    sized: something on the way (padding to an even size, cropping) may differ for inputs of another size.
    rows: lengths of the leading axes where a view has made one of them, as linear layers do; `axes` are those before it.
    """

    axes: tuple[int, ...]
    start: tuple[float, ...]
    jump: tuple[float, ...]
    size: tuple[float, ...] | None
    whole: bool = False
    sized: bool = False
    rows: tuple[int, ...] = ()


class _Pooled:
    """A tensor without places that depends on the whole input."""


POOLED = _Pooled()
State = Field | _Pooled | None  # None: not known


def receptive_field(trace: Trace, cut: Ref, rank: int) -> Field | None:
    """The field of the tensor at `cut` on an input with `rank` spatial axes, or None where it cannot be told.

    Centres come from the recurrence. Where it does not know an operation they come from the ramp, if all ways to a cell
    agree and cells lie evenly; the size is then not known, and the field holds for this input size and whole strides
    more or less.
    """
    found = by_recurrence(trace, cut, rank)
    if found is not None:
        return found
    ramp = dirac.ramp(trace, cut, rank)
    if ramp is None or not ramp.settled:
        return None
    return Field(ramp.axes, ramp.low, ramp.jump, None, whole=ramp.whole, sized=True)


def centre_interval(trace: Trace, cut: Ref, rank: int) -> tuple[tuple[float, float], ...] | None:
    """Per input axis the lowest and the highest centre (samples) that any way through the network gives the first cell.

    For cells whose ways disagree (a shortcut that averages beside a strided convolution): where between the two they look
    depends on the weights. The width is the same for all cells. None where not even an interval can be told.
    """
    ramp = dirac.ramp(trace, cut, rank)
    return None if ramp is None else tuple(zip(ramp.low, ramp.high, strict=True))


def by_recurrence(trace: Trace, cut: Ref, rank: int) -> Field | None:
    """The field by the recurrence alone."""
    states: dict[int, State] = {}
    for i in trace.needed():
        if i > cut.step:
            break
        step = trace.steps[i]
        if step.op is None:
            spatial = tuple(range(2, len(step.shapes[0])))
            states[i] = Field(spatial, (0.0,) * rank, (1.0,) * rank, (1.0,) * rank) if len(spatial) == rank else POOLED
        else:
            states[i] = _after(trace, step, states)
    state = states.get(cut.step)
    return state if isinstance(state, Field) else None


def _after(trace: Trace, step: Step, states: dict[int, State]) -> State:
    parents = [(states[ref.step], trace.shape(ref)) for ref in step.parents]
    if any(state is None for state, _ in parents):
        return None
    fields = [(s, shape) for s, shape in parents if isinstance(s, Field)]
    if not fields:
        return POOLED
    if any(field.rows for field, _ in fields) and step.name in _RULES and step.name not in _ROWS:
        return None
    if step.name in _RULES:
        live = isinstance(step.args[step.name == "addmm"], Ref) if step.args else False
        return _RULES[step.name](step, fields[0][0], fields[0][1]) if live and len(parents) == 1 else None
    if step.name == "cat":
        return _joined(step, parents)
    pointwise = torch.Tag.pointwise in step.op.tags or step.name in dirac.POINTWISE
    return _merge(parents, step.shapes[0]) if pointwise else None


def _merge(parents: Sequence[tuple[State, tuple[int, ...]]], shape: tuple[int, ...]) -> State:
    """Branches that meet place by place; a branch without places acts on all of them."""
    fields = [_aligned(s, len(shape) - len(own)) for s, own in parents if isinstance(s, Field)]
    first = fields[0]
    if any((f.axes, f.start, f.jump, f.rows) != (first.axes, first.start, first.jump, first.rows) for f in fields):
        return None
    size = tuple(max(values) for values in zip(*(_size(f) for f in fields), strict=True))
    whole = any(f.whole for f in fields) or any(s is POOLED for s, _ in parents)
    return replace(first, size=size, whole=whole, sized=any(f.sized for f in fields))


def _aligned(field: Field, missing: int) -> Field:
    return replace(field, axes=tuple(a + missing for a in field.axes))


def _joined(step: Step, parents: Sequence[tuple[State, tuple[int, ...]]]) -> State:
    merged = _merge(parents, step.shapes[0])
    along = step.argument("dim", 0) % len(step.shapes[0])
    return merged if isinstance(merged, Field) and not merged.rows and along not in merged.axes else None


def _size(field: Field) -> tuple[float, ...]:
    assert field.size is not None  # the recurrence always knows it
    return field.size


def _slide(field: Field, window: Window | None) -> State:
    if window is None:
        return None
    reach = [(k - 1) * d for k, d in zip(window.kernel, window.dilation, strict=True)]
    start = tuple(
        s + (r / 2 - q) * j for s, r, q, j in zip(field.start, reach, window.padding, field.jump, strict=True)
    )
    size = tuple(f + r * j for f, r, j in zip(_size(field), reach, field.jump, strict=True))
    return replace(
        field, start=start, size=size, jump=tuple(j * t for j, t in zip(field.jump, window.stride, strict=True))
    )


def _in_place(field: Field, shape: tuple[int, ...]) -> bool:
    """Whether the places are the last axes, where convolutions and poolings take them to be."""
    return field.axes == tuple(range(len(shape) - len(field.axes), len(shape)))


def _windowed(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    return _slide(field, dirac.window_of(step, len(field.axes))) if _in_place(field, shape) else None


def _adaptive(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    before, after = [shape[a] for a in field.axes], [step.shapes[0][a] for a in field.axes]
    if all(n == 1 for n in after):
        return POOLED
    slid = _slide(field, dirac.even_window(before, after))
    return replace(slid, sized=True) if isinstance(slid, Field) else None


def _reduce(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    dims = step.argument("dim", step.argument("dims"))
    given = list(range(len(shape))) if dims in (None, []) else list(dims) if isinstance(dims, list | tuple) else [dims]
    removed = sorted(d % len(shape) for d in given)
    if all(a in removed or shape[a] == 1 for a in field.axes):
        return POOLED
    if any(a in removed for a in field.axes):
        return None
    if step.argument("keepdim", False):
        return field
    return replace(field, axes=tuple(a - sum(r < a for r in removed) for a in field.axes))


def _normalised(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    """Layer normalisation over trailing axes; it sees the whole input where they are places."""
    over = range(len(shape) - len(step.argument("normalized_shape")), len(shape))
    return replace(field, whole=field.whole or any(a in over for a in field.axes))


def _grouped(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    return replace(field, whole=True)


def _batch_normalised(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    """With statistics of the batch at hand (instance normalisation is one of a single input) it sees all places."""
    return replace(field, whole=field.whole or bool(step.argument("training", False)))


def _softmax(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    over = step.argument("dim") % len(shape)
    return replace(field, whole=field.whole or over in field.axes)


def _view(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    """A reshape keeps an axis where it keeps its length and the number of elements behind it."""
    new = step.shapes[0]
    if field.rows:
        return replace(field, rows=()) if new[:-1] == field.rows else None
    behind = {(n, prod(new[i + 1 :])): i for i, n in enumerate(new) if n > 1}
    axes = [behind.get((shape[a], prod(shape[a + 1 :]))) for a in field.axes]
    if None not in axes:
        return replace(field, axes=tuple(a for a in axes if a is not None))
    in_rows = new == (prod(shape[:-1]), shape[-1]) and len(shape) - 1 not in field.axes
    return replace(field, rows=shape[:-1]) if in_rows else None


def _linear(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    """A matrix product with constants mixes the last axis."""
    return field if field.rows or len(shape) - 1 not in field.axes else None


def _permute(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    if step.name == "permute":
        order = [d % len(shape) for d in step.argument("dims")]
    else:
        order, pair = list(range(len(shape))), [step.argument(d) % len(shape) for d in ("dim0", "dim1")]
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
    axes = tuple(order.index(a) for a in field.axes)
    return replace(field, axes=axes) if list(axes) == sorted(axes) else None


def _unsqueeze(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    at = step.argument("dim") % (len(shape) + 1)
    return replace(field, axes=tuple(a + (a >= at) for a in field.axes))


def _select(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    at = step.argument("dim") % len(shape)
    return None if at in field.axes else replace(field, axes=tuple(a - (a > at) for a in field.axes))


def _slice(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    at = step.argument("dim", 0) % len(shape)
    if at not in field.axes:
        return field
    begin, pace = step.argument("start", 0), step.argument("step", 1)
    begin = begin + shape[at] if begin < 0 else begin
    k = field.axes.index(at)
    start = tuple(s + begin * j * (i == k) for i, (s, j) in enumerate(zip(field.start, field.jump, strict=True)))
    return replace(
        field, start=start, sized=True, jump=tuple(j * (pace if i == k else 1) for i, j in enumerate(field.jump))
    )


def _split(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    return None if step.argument("dim", 0) % len(shape) in field.axes else field


def _pad(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    pads = step.argument("pad", step.argument("padding"))
    before = {len(shape) - 1 - i: pads[2 * i] for i in range(len(pads) // 2)}
    start = tuple(s - before.get(a, 0) * j for s, a, j in zip(field.start, field.axes, field.jump, strict=True))
    return replace(field, start=start, sized=field.sized or step.name == "constant_pad_nd")


def _same(step: Step, field: Field, shape: tuple[int, ...]) -> State:
    return field


_ROWS = frozenset({"view", "_unsafe_view", "reshape", "mm", "addmm", "alias", "detach"})
_RULES: dict[str, Callable[[Step, Field, tuple[int, ...]], State]] = {
    "convolution": _windowed,
    **dict.fromkeys([f"{kind}_pool{n}d{tail}" for kind in ("max", "avg") for n in (1, 2, 3) for tail in ("", "_with_indices")], _windowed),
    **dict.fromkeys([f"{lead}adaptive_{kind}_pool{n}d" for lead in ("", "_") for kind in ("max", "avg") for n in (1, 2, 3)], _adaptive),
    **dict.fromkeys(["mean", "sum", "amax"], _reduce),
    **dict.fromkeys(["mm", "addmm"], _linear),
    "native_layer_norm": _normalised,
    "native_group_norm": _grouped,
    **dict.fromkeys(["native_batch_norm", "cudnn_batch_norm"], _batch_normalised),
    "_softmax": _softmax,
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "squeeze"], _view),
    **dict.fromkeys(["permute", "transpose"], _permute),
    "unsqueeze": _unsqueeze,
    "select": _select,
    "slice": _slice,
    **dict.fromkeys(["split", "split_with_sizes", "chunk"], _split),
    **dict.fromkeys([f"{kind}_pad{n}" for kind in ("reflection", "replication") for n in ("1d", "2d", "3d")] + ["constant_pad_nd"], _pad),
    **dict.fromkeys(["alias", "detach", "contiguous", "expand"], _same),
}  # fmt: skip
