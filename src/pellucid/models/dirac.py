"""A Dirac ramp through a trace: every value carries where in the input it comes from, by itself.

Each element of the input starts as its own position. A convolution or pooling hands on what stands at the middle of its
window (the mean of the two middle taps where its width is even; beyond the border positions go on evenly), reshapes and
rolls move positions as they move values, activations and normalisations leave them alone. Sums, products and mixtures of
channels keep the lowest and the highest position that meet, so a cell whose ways disagree ends up with an interval
instead of an average that depends on weights. What draws on all places at once (global means, token mixing) has no place
and adds none; attention alone cannot vouch for a place either, only a way around it (a residual sum) can.

Never a centroid of gradients: the border of the input bends it by pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid.models.trace import Ref, Step, Trace

TOLERANCE = 1e-6  # samples; positions are sums of halves, so what is not equal differs by far more


class Window(NamedTuple):
    """Of a convolution or pooling, per axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def window_of(step: Step, axes: int) -> Window | None:
    """The window of a convolution or pooling step over its last `axes` axes; None where it slides over other axes."""
    if step.name == "convolution":
        if step.argument("transposed", False):
            return None
        kernel, stride = tuple(step.argument("weight").shape[2:]), step.argument("stride")
    else:
        kernel = _per_axis(step.argument("kernel_size"), axes)
        stride = step.argument("stride") or kernel
    rest = (step.argument("padding", 0) or 0, step.argument("dilation", 1))
    values = [_per_axis(v, axes) for v in (kernel, stride, *rest)]
    if len(kernel) > axes and all(k == 1 for k in kernel[:-axes]):  # 1D poolings run as 2D ones of height 1
        values = [v[-axes:] for v in values]
    return Window(*values) if all(len(v) == axes for v in values) else None


def _per_axis(value: Any, count: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * count if len(values) == 1 else values


@dataclass(frozen=True)
class Ramp:
    """Where the cells of a tensor look, as found by the ramp: per input axis, cell i lies between `low + jump i` and
    `high + jump i` samples. axes: of the tensor, on which the cells are (one where they stand in a row). whole:
    something on the way sees the whole input.
    """

    axes: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    jump: tuple[float, ...]
    whole: bool

    @property
    def settled(self) -> bool:
        """Whether all ways to a cell agree on its centre."""
        return all(b - a < TOLERANCE for a, b in zip(self.low, self.high, strict=True))


@dataclass(frozen=True)
class _Seen:
    """Per input axis the lowest and highest position (samples) at every element; +inf and -inf where there is none.

    pitch: how far neighbours lay apart where values were last computed; moving them about does not change it.
    loose: the places are those of the queries of an attention, for which nothing else vouches.
    """

    low: tuple[Tensor, ...]
    high: tuple[Tensor, ...]
    pitch: tuple[float, ...]
    whole: bool = False
    loose: bool = False

    def placed(self) -> bool:
        return any(bool(torch.isfinite(_thin(t)).any()) for t in self.low)

    def map(self, change: Callable[[Tensor, float], Tensor]) -> _Seen:
        """`change(positions, value that stands for none)` for both ends on every axis."""
        low = tuple(change(t, torch.inf) for t in self.low)
        return replace(self, low=low, high=tuple(change(t, -torch.inf) for t in self.high))


def ramp(trace: Trace, cut: Ref, rank: int) -> Ramp | None:
    """Where the cells of the tensor at `cut` look on an input with `rank` spatial axes.

    None where an operation is not known, where positions do not rise evenly over the cells (to 1e-6 samples), or where
    a cell's place rests on attention alone.
    """
    needed = [i for i in trace.needed() if i <= cut.step]
    last = {ref.step: i for i in needed for ref in trace.steps[i].parents}
    seen: dict[Ref, _Seen | None] = {}
    for i in needed:
        step = trace.steps[i]
        for output, value in enumerate(_after(trace, step, seen, rank)):
            seen[Ref(i, output)] = value
        for ref in [r for r in seen if last.get(r.step, cut.step) <= i and r != cut]:
            del seen[ref]
    found = seen.get(cut)
    return None if found is None or found.loose else _read(found, trace.shape(cut), rank)


def _after(trace: Trace, step: Step, seen: dict[Ref, _Seen | None], rank: int) -> Sequence[_Seen | None]:
    if step.op is None:
        return [_start(step.shapes[0], rank)]
    parents = {ref: seen.get(ref) for ref in step.parents}
    if any(value is None for value in parents.values()):
        return [None]
    known = {ref: value for ref, value in parents.items() if value is not None}
    if step.name in _MOVES:
        return _moved(step, known)
    if step.name in _RULES:
        return [_RULES[step.name](step, known, trace)]
    if torch.Tag.pointwise in step.op.tags or step.name in POINTWISE:
        return [_met(list(known.values()), step.shapes[0])]
    return [None]


def _start(shape: tuple[int, ...], rank: int) -> _Seen:
    axes = range(2, 2 + rank)
    if len(shape) != 2 + rank:
        none = torch.full((1,) * len(shape), torch.inf, dtype=torch.float64).expand(shape)
        return _Seen((none,) * rank, (-none,) * rank, (1.0,) * rank)
    places = tuple(
        torch.arange(shape[a], dtype=torch.float64).view(-1, *(1,) * (len(shape) - 1 - a)).expand(shape) for a in axes
    )
    return _Seen(places, places, (1.0,) * rank)


# --- tensors that repeat along an axis are kept as views of stride 0, and worked on once ---------------------------------


def _thin(t: Tensor, keep: Sequence[int] = ()) -> Tensor:
    """One entry of every axis along which the tensor only repeats itself, but for the axes to keep."""
    for axis in range(t.ndim):
        if t.stride(axis) == 0 and t.shape[axis] > 1 and axis not in keep:
            t = t.narrow(axis, 0, 1)
    return t


def _met(members: Sequence[_Seen], shape: tuple[int, ...]) -> _Seen:
    """What meets place by place: the lowest and the highest position."""

    def lowest(tensors: Sequence[Tensor]) -> Tensor:
        found = _thin(tensors[0])
        for t in tensors[1:]:
            found = torch.minimum(found, _thin(t))
        return found.expand(shape)

    placed = [m for m in members if m.placed()]
    return _Seen(
        tuple(lowest(ts) for ts in zip(*(m.low for m in members), strict=True)),
        tuple(-lowest([-t for t in ts]) for ts in zip(*(m.high for m in members), strict=True)),
        _coarsest(placed or members),
        whole=any(m.whole for m in members) or len(placed) < len(members),
        loose=bool(placed) and all(m.loose for m in placed),
    )


def _coarsest(members: Sequence[_Seen]) -> tuple[float, ...]:
    return tuple(max(values) for values in zip(*(m.pitch for m in members), strict=True))


def _mixed(seen: _Seen, dims: Sequence[int]) -> _Seen:
    """What a mixture over `dims` (kept with length 1) sees: one position, an interval, or everything and so no place."""
    pairs, pitches, whole = [], [], seen.whole
    for low, high, pitch in zip(seen.low, seen.high, seen.pitch, strict=True):
        least, most = _thin(low).amin(list(dims), keepdim=True), _thin(high).amax(list(dims), keepdim=True)
        wide = float((most - least).nan_to_num(nan=0, neginf=0).max()) >= TOLERANCE
        tile = _middle_of_tile(low, high, dims, pitch) if wide else None
        pitches.append(pitch if tile is None else tile[1])
        if tile is not None:
            least = most = tile[0]
        elif wide:
            extent = (most.max() - least.min()).clamp_min(TOLERANCE)
            everything = (most - least) >= extent - TOLERANCE
            least, most = least.masked_fill(everything, torch.inf), most.masked_fill(everything, -torch.inf)
            whole = whole or bool(everything.any())
        shape = tuple(1 if a in dims else n for a, n in enumerate(low.shape))
        pairs.append((least.expand(shape), most.expand(shape)))
    return _Seen(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), tuple(pitches), whole, seen.loose)


def _middle_of_tile(low: Tensor, high: Tensor, dims: Sequence[int], pitch: float) -> tuple[Tensor, float] | None:
    """The mean of the positions that are mixed and the distance of such means, where neighbours were moved together.

    That is a window in another guise: patches moved into channels (space to depth, patch merging) and then mixed are a
    strided convolution, whose centre is the middle of the patch. Known by positions one pitch apart, equally frequent,
    that tile the axis. Branches that look beside each other are less than a pitch apart.
    """
    if not torch.equal(_thin(low), _thin(high)):
        return None
    values = _thin(low, keep=dims)
    values = values.movedim(tuple(dims), tuple(range(-len(dims), 0))).flatten(-len(dims))
    means = values.mean(-1, keepdim=True)
    offsets = (values - means).flatten(0, -2)
    if not bool(torch.isfinite(offsets).all()) or float((offsets - offsets[:1]).abs().max()) > TOLERANCE:
        return None
    places, counts = torch.unique(offsets[0].round(decimals=6), return_counts=True)
    spacing = torch.unique(means.round(decimals=6)).diff()
    if len(spacing) == 0 or bool((counts != counts[0]).any()) or float((places.diff() - pitch).abs().max()) > TOLERANCE:
        return None
    wide = float(spacing.min())
    if abs(wide - len(places) * pitch) > TOLERANCE:
        return None
    return _thin(low, keep=dims).mean(tuple(dims), keepdim=True), wide


def _tap(t: Tensor, axis: int, index: Tensor, none: float) -> Tensor:
    """Positions at the given indices of an axis, going on evenly beyond both ends."""
    n, shape = t.shape[axis], list(t.shape)
    shape[axis] = len(index)
    t = _thin(t, keep=(axis,))
    inside = index.clamp(0, n - 1)
    found, over = t.index_select(axis, inside), (index - inside).to(t.dtype)
    if bool(over.any()):
        # A single cell does not tell how far the next one is.
        first = t.narrow(axis, min(1, n - 1), 1) - t.narrow(axis, 0, 1) if n > 1 else torch.full_like(found, torch.nan)
        final = t.narrow(axis, n - 1, 1) - t.narrow(axis, n - 2, 1) if n > 1 else first
        along = over.view(-1, *(1,) * (t.ndim - 1 - axis))
        beyond = torch.where(along < 0, first, final) * along
        found = torch.where(along == 0, found, found + beyond).masked_fill(t.narrow(axis, 0, 1) == none, none)
    return found.expand(shape)


def _through(seen: _Seen, window: Window, sizes: Sequence[int]) -> _Seen | None:
    """The middle of every window over the last axes, of which `sizes` are there.

    None for windows over positions that do not rise evenly (a map enlarged by repetition): what stands at the middle
    of such a window is not the middle of what it sees.
    """
    first = seen.low[0].ndim - len(sizes)
    for k, size in enumerate(sizes):
        if window.kernel[k] > 1 and not all(_rises_evenly(t, first + k) for t in (*seen.low, *seen.high)):
            return None
        reach = (window.kernel[k] - 1) * window.dilation[k]
        begin = torch.arange(size) * window.stride[k] - window.padding[k]
        taps = [begin + reach // 2]
        if window.kernel[k] % 2 == 0:
            before = window.dilation[k] * (window.kernel[k] // 2 - 1)
            taps = [begin + before, begin + before + window.dilation[k]]
        strides = [window.stride[k] if _varies(_thin(t, keep=(first + k,)), first + k) else 1 for t in seen.low]
        seen = seen.map(lambda t, none, a=first + k, at=taps: _mean([_tap(t, a, i, none) for i in at]))  # type: ignore[misc]
        seen = replace(seen, pitch=tuple(p * s for p, s in zip(seen.pitch, strides, strict=True)))
    return seen


def _rises_evenly(t: Tensor, axis: int) -> bool:
    bend = _thin(t, keep=(axis,)).diff(n=2, dim=axis)
    return float(bend.nan_to_num(nan=0, posinf=0, neginf=0).abs().sum()) < TOLERANCE


def _varies(t: Tensor, axis: int) -> bool:
    return t.shape[axis] > 1 and not torch.equal(t.narrow(axis, 0, 1), t.narrow(axis, 1, 1))


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    return ((_thin(tensors[0]) + _thin(tensors[1])) / 2).expand(tensors[0].shape)


# --- rules, by the name of the operation ---------------------------------------------------------------------------------

_Known = dict[Ref, _Seen]


def _only(step: Step, known: _Known) -> _Seen | None:
    """The one live argument, where it is the first one."""
    return known[step.args[0]] if len(known) == 1 and step.args and isinstance(step.args[0], Ref) else None


def _convolution(step: Step, known: _Known, trace: Trace) -> _Seen | None:
    seen, weight = _only(step, known), step.argument("weight")
    window = window_of(step, weight.ndim - 2) if isinstance(weight, Tensor) else None
    if seen is None or window is None:
        return None
    groups, out = step.argument("groups", 1), step.shapes[0]
    split = seen.map(lambda t, none: torch.unflatten(t, 1, (groups, -1)))
    mixed = _mixed(split, [2]).map(lambda t, none: t.squeeze(2))
    through = _through(mixed, window, out[2:])
    if through is None:
        return None
    if groups == 1:
        return through.map(lambda t, none: t.expand(out))
    return through.map(lambda t, none: t.unsqueeze(2).expand(-1, -1, out[1] // groups, *out[2:]).reshape(out))


def _pool(step: Step, known: _Known, trace: Trace) -> _Seen | None:
    seen = _only(step, known)
    axes = len(_per_axis(step.argument("kernel_size"), int(step.name.split("_pool")[1][0])))
    window = window_of(step, axes)
    return None if seen is None or window is None else _through(seen, window, step.shapes[0][-axes:])


def even_window(before: Sequence[int], after: Sequence[int]) -> Window | None:
    """What an adaptive pooling does where it divides its axes evenly."""
    if any(n % m for n, m in zip(before, after, strict=True)):
        return None
    stride = tuple(n // m for n, m in zip(before, after, strict=True))
    return Window(stride, stride, (0,) * len(stride), (1,) * len(stride))


def _adaptive(step: Step, known: _Known, trace: Trace) -> _Seen | None:
    seen, axes = _only(step, known), int(step.name.split("_pool")[1][0])
    if seen is None:
        return None
    before, after = trace.shape(step.parents[0])[-axes:], step.shapes[0][-axes:]
    if all(n == 1 for n in after):
        return _mixed(seen, [a % len(step.shapes[0]) for a in range(-axes, 0)])
    window = even_window(before, after)
    return None if window is None else _through(seen, window, after)


def _reduce(step: Step, known: _Known, trace: Trace) -> _Seen | None:
    seen = _only(step, known)
    if seen is None:
        return None
    shape = trace.shape(step.parents[0])
    dims = step.argument("dim", step.argument("dims"))
    given = sorted({d % len(shape) for d in _per_axis(dims, 1)}) if dims not in (None, [], ()) else [*range(len(shape))]
    mixed = _mixed(seen, given)
    return mixed.map(lambda t, none: t.reshape(step.shapes[0]))


def _pad(step: Step, known: _Known, trace: Trace) -> _Seen | None:
    seen, pads = _only(step, known), step.argument("pad", step.argument("padding"))
    if seen is None:
        return None
    for k in range(len(pads) // 2):
        axis = len(step.shapes[0]) - 1 - k
        index = torch.arange(step.shapes[0][axis]) - pads[2 * k]
        seen = seen.map(lambda t, none, a=axis, i=index: _tap(t, a, i, none))  # type: ignore[misc]
    return seen


def _normalised(step: Step, known: _Known, trace: Trace) -> _Seen | None:
    """A normalisation or softmax: positions stay; it sees the whole input where it runs over places."""
    seen = _only(step, known)
    if seen is None:
        return None
    ndim = len(trace.shape(step.parents[0]))
    if step.name == "native_group_norm":
        return replace(seen, whole=True)
    over = (
        [step.argument("dim") % ndim]
        if "softmax" in step.name
        else range(ndim - len(step.argument("normalized_shape")), ndim)
    )
    return replace(seen, whole=seen.whole or _mixed(seen, list(over)).whole)


def _batch_normalised(step: Step, known: _Known, trace: Trace) -> _Seen | None:
    """With statistics of the batch at hand (instance normalisation is one of a single input) it sees all places."""
    seen = _only(step, known)
    return seen and replace(seen, whole=seen.whole or bool(step.argument("training", False)))


def _product(step: Step, known: _Known, trace: Trace) -> _Seen | None:
    """A matrix product. With constants it mixes channels (or tokens). Of two live matrices that both know places it is
    attention: rows are the queries', for which the product alone does not vouch.
    """
    left, right = (step.args[-2], step.args[-1]) if step.name in ("addmm", "baddbmm") else step.args[:2]
    if step.name in ("addmm", "baddbmm") and isinstance(step.args[0], Ref):
        return None
    rows = _mixed(known[left], [len(trace.shape(left)) - 1]) if isinstance(left, Ref) else None
    columns = _mixed(known[right], [len(trace.shape(right)) - 2]) if isinstance(right, Ref) else None
    found = _attended(rows, columns)
    return None if found is None else found.map(lambda t, none: t.expand(step.shapes[0]))


def _attended(rows: _Seen | None, columns: _Seen | None) -> _Seen | None:
    if rows is None or columns is None:
        return rows or columns
    if rows.placed():
        return replace(rows, whole=True, loose=rows.loose or columns.placed())
    return replace(columns, whole=True)


def _attention(step: Step, known: _Known, trace: Trace) -> _Seen | None:
    """Fused attention: as the two products that it stands for."""
    refs = step.args[:3]
    if not all(isinstance(ref, Ref) for ref in refs):
        return None
    last = len(step.shapes[0]) - 1
    query, key = (_mixed(known[ref], [last]) for ref in refs[:2])
    key = key.map(lambda t, none: t.transpose(-1, -2))
    scores = _attended(query, key)
    assert scores is not None
    if scores.placed():
        return replace(query, whole=True, loose=True).map(lambda t, none: t.expand(step.shapes[0]))
    value = _mixed(known[refs[2]], [last - 1])
    return replace(value, whole=True).map(lambda t, none: t.expand(step.shapes[0]))


def _moved(step: Step, known: _Known) -> list[_Seen | None]:
    """Run the operation itself on the positions; constants have none."""

    def run(axis: int, end: str, none: float) -> list[Tensor]:
        def resolve(value: Any) -> Any:
            if isinstance(value, Ref):
                return getattr(known[value], end)[axis]
            if isinstance(value, Tensor):
                given = torch.full((1,) * value.ndim, none, dtype=torch.float64).expand(value.shape)
                return given if value.is_floating_point() else value.cpu()
            return [resolve(v) for v in value] if isinstance(value, list | tuple) else value

        args = [resolve(v) for v in step.args]
        if step.name in ("view", "_unsafe_view", "reshape"):
            return [args[0].reshape(step.shapes[0])]
        if step.name == "expand":
            return [args[0].expand(step.shapes[0])]
        given = args[0].clone() if isinstance(args[0], Tensor) and str(step.op._schema.name).endswith("_") else args[0]
        made = step.op(given, *args[1:], **{k: resolve(v) for k, v in step.kwargs.items()})
        return list(made) if isinstance(made, list | tuple) else [made]

    axes = range(len(next(iter(known.values())).low))
    low, high = ([run(a, end, none) for a in axes] for end, none in (("low", torch.inf), ("high", -torch.inf)))
    members = list(known.values())
    whole, loose = any(m.whole for m in members), any(m.loose for m in members)
    return [
        _Seen(tuple(low[a][k] for a in axes), tuple(high[a][k] for a in axes), _coarsest(members), whole, loose)
        for k in range(len(low[0]))
    ]


POINTWISE = frozenset({
    "clone", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "native_dropout",
    "_to_copy", "hardswish", "hardtanh",
})  # fmt: skip
_MOVES = frozenset({
    "view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "t", "movedim", "expand", "repeat",
    "select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind", "cat", "stack", "roll", "flip",
    "index", "index_select", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "alias", "detach",
    "contiguous",
})  # fmt: skip
_RULES: dict[str, Callable[[Step, _Known, Trace], _Seen | None]] = {
    "convolution": _convolution,
    **dict.fromkeys([f"{kind}_pool{n}d{tail}" for kind in ("max", "avg") for n in (1, 2, 3) for tail in ("", "_with_indices")], _pool),
    **dict.fromkeys([f"{lead}adaptive_{kind}_pool{n}d" for lead in ("", "_") for kind in ("max", "avg") for n in (1, 2, 3)], _adaptive),
    **dict.fromkeys(["mean", "sum", "amax", "var", "linalg_vector_norm", "logsumexp"], _reduce),
    **dict.fromkeys([f"{kind}_pad{n}" for kind in ("reflection", "replication") for n in ("1d", "2d", "3d")] + ["constant_pad_nd"], _pad),
    **dict.fromkeys(["native_layer_norm", "native_group_norm", "_softmax", "_safe_softmax"], _normalised),
    **dict.fromkeys(["native_batch_norm", "cudnn_batch_norm"], _batch_normalised),
    **dict.fromkeys(["mm", "addmm", "bmm", "baddbmm", "matmul"], _product),
    **dict.fromkeys(["_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention", "_scaled_dot_product_attention_math"], _attention),
}  # fmt: skip


# --- reading the cells -------------------------------------------------------------------------------------------------


def _read(seen: _Seen, shape: tuple[int, ...], rank: int) -> Ramp | None:
    """The ramp's start and jump per axis, with channels behind the batch or last, cells on axes of their own or in a row."""
    for axes in _layouts(shape, rank):
        others = [a for a in range(len(shape)) if a not in axes]
        low = [_thin(t, keep=axes).amin(others) for t in seen.low]
        high = [_thin(t, keep=axes).amax(others) for t in seen.high]
        lows, highs = _even(low, rank), _even(high, rank)
        if lows is None or highs is None:
            continue
        if all(abs(a[1] - b[1]) < TOLERANCE for a, b in zip(lows, highs, strict=True)):
            first, last = (tuple(start for start, _ in found) for found in (lows, highs))
            return Ramp(axes, first, last, tuple(jump for _, jump in lows), seen.whole)
    return None


def _layouts(shape: tuple[int, ...], rank: int) -> Iterator[tuple[int, ...]]:
    if len(shape) == rank + 2:
        yield tuple(range(2, rank + 2))
        yield tuple(range(1, rank + 1))
    if len(shape) == 3 and rank > 1:
        yield (1,)
        yield (2,)


def _even(cells: Sequence[Tensor], rank: int) -> list[tuple[float, float]] | None:
    """Start and jump per axis of positions `(*grid)`, or of a row of cells, where each rises evenly along its own axis."""
    if not all(bool(torch.isfinite(t).all()) for t in cells):
        return None
    sides = [len(torch.unique(t.round(decimals=6))) for t in cells]
    if prod(sides) != cells[0].numel() or min(sides) < 2:
        return None
    found = []
    for axis, positions in enumerate(cells):
        positions = positions.reshape(sides)
        line = positions.movedim(axis, -1).flatten(0, -2)[0] if rank > 1 else positions
        jump = float(line[1] - line[0])
        wanted = (line[0] + jump * torch.arange(len(line), dtype=line.dtype)).view(-1, *(1,) * (rank - 1 - axis))
        if jump < TOLERANCE or float((positions - wanted).abs().max()) > TOLERANCE:
            return None
        found.append((float(line[0]), jump))
    return found
