"""Run a network with its last strides taken out and every layer otherwise as it is: the cells between are evaluated too.

An operation that would move the cells further apart than wanted runs with a smaller stride, and its result is dealt out
like cards: of two grids the first gets the even cells, the second the odd ones. The grids stand behind one another on the
batch axis, and the network goes on as ever, on more rows. Grid 0 is therefore what the network computes anyway, whatever its
layers do; the others are the same network begun some samples later. (Shift-and-stitch of Sermanet et al., OverFeat, 2014;
the numbers are those of dilated convolutions, Yu and Koltun 2016, with the padding dilated likewise.)

Two things make one map of the grids. Cells beyond the border, which the last grids have where a side is not a whole
number of strides, count as padding. And what a layer takes from all places at once (squeeze-excitation, statistics of a
group norm) is taken from grid 0 for all grids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from pellucid.errors import ConversionError
from pellucid.models.dirac import Window, window_of
from pellucid.models.trace import Step

Counts = tuple[int, ...]


@dataclass(frozen=True)
class Places:
    """Where the cells of a tensor lie; one number per axis of the input.

    stride: input samples between the cells of one grid. grids: how many are interleaved; they stand on the first axis of
    the tensor, row by row, before the batch. short: how many cells at the end of the interleaved map lie beyond the border.
    axes: of the tensor, on which the cells are; None where that is not known.
    """

    stride: Counts
    grids: Counts
    short: Counts
    axes: Counts | None

    @classmethod
    def of_input(cls, x: Tensor, rank: int) -> Places:
        """Of an input: `rank` axes of samples, or none at all."""
        ones = (1,) * rank
        return cls(ones, ones, (0,) * rank, tuple(range(2, x.ndim)) if x.ndim == rank + 2 else ())

    @property
    def rows(self) -> int:
        """How many grids there are in all."""
        return prod(self.grids)


def stride_on(places: Places, lengths: Sequence[int], size: Sequence[int]) -> Counts:
    """The stride of a tensor with `lengths` cells on an input of `size`, also where a reshape has hidden a part of it."""
    if places.axes is not None:
        return places.stride
    return tuple(s * max(1, round(m / (s * n))) for s, n, m in zip(places.stride, lengths, size, strict=True))


def stitched(maps: Float[Tensor, "rows classes *grid"], places: Places) -> Float[Tensor, "batch classes *finer"]:
    """The maps of all grids as one: cell i of grid k becomes cell `k + grids * i`; what lies beyond the border is left out."""
    rank = len(places.grids)
    cells: Tensor = torch.unflatten(maps, 0, (*places.grids, -1))
    order = [rank, rank + 1, *(a for k in range(rank) for a in (rank + 2 + k, k))]
    cells = cells.permute(order)
    for k, short in enumerate(places.short):
        cells = cells.flatten(2 + k, 3 + k)
        cells = cells.narrow(2 + k, 0, cells.shape[2 + k] - short)
    return cells.contiguous()


class Interleaved(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Open while the network runs. spacing: input samples between cells that are never exceeded; None: only look.

    size: spatial size of the input. layer: gives the name of the layer that is running, for messages.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled under this mode; shielding it from the compiler would load all of torch._dynamo."""
        return False

    def __init__(self, size: Counts, spacing: Counts | None, layer: Callable[[], str] = lambda: "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size, self.spacing, self.layer = size, spacing, layer
        self.at_cut: Places | None = None
        self._seen: Any = WeakTensorKeyDictionary()

    def enter(self, x: Tensor) -> None:
        """Make an input of the network known."""
        self._seen[x] = Places.of_input(x, len(self.size))

    def places(self, tensor: Tensor) -> Places | None:
        """None for a tensor that does not depend on the input."""
        found: Places | None = self._seen.get(tensor)
        return found

    def cut(self, features: Tensor) -> None:
        """The feature map has come by: strides behind it stay."""
        self.at_cut = self.places(features)

    def held(self, features: Tensor) -> Tensor:
        """The feature map with the network's own grid in the place of every grid."""
        known = self.places(features)
        if known is None or known.rows == 1:
            return features
        return features[: len(features) // known.rows].repeat(known.rows, *(1,) * (features.ndim - 1))

    def first_grid(self, value: Any) -> Any:
        """The rows of the network's own grid, of every tensor in a nest of them."""

        def own(v: Any) -> Any:
            known = self.places(v) if isinstance(v, Tensor) else None
            return v if known is None or known.rows == 1 else v[: len(v) // known.rows]

        return tree_map(own, value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [(v, p) for v in _tensors((*args, *kwargs.values())) if (p := self.places(v)) is not None]
        name = _plain_name(func)
        if not given or name.startswith("new_") or name.endswith("_like"):
            return func(*args, **kwargs)
        together, step = _together([p for _, p in given]), Step(func, tuple(args), kwargs, (), (), True, self.layer())
        if any(p.grids != together.grids for _, p in given):
            step = self._level(step, together)
            given = [(v, p) for v in _tensors((*step.args, *step.kwargs.values())) if (p := self.places(v)) is not None]
        first, places = given[0]
        together = together if together.axes == places.axes else replace(together, axes=places.axes)
        result, after = _RULES.get(name, _generic)(self, step, first, together)
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                axes = after.axes if after.axes is not None or name in _MOVING else _kept_axes(given, value)
                self._seen[value] = after if axes == after.axes else replace(after, axes=axes)
        return result

    def _level(self, step: Step, together: Places) -> Step:
        """Repeat what has no places for every grid, so that it meets the tensors that have several."""
        wanted = {
            len(v)
            for v in _tensors((*step.args, *step.kwargs.values()))
            if v.ndim and (p := self.places(v)) is not None and p.grids == together.grids
        }

        def level(value: Any) -> Any:
            known = self.places(value) if isinstance(value, Tensor) else None
            if known is None or known.grids == together.grids or not value.ndim:
                return value
            if known.rows > 1:
                self.refuse(step, "tensors of different strides meet")
            if len(value) * together.rows not in wanted:
                return value
            repeated = value.repeat(together.rows, *(1,) * (value.ndim - 1))
            self._seen[repeated] = replace(known, grids=together.grids)
            return repeated

        levelled = replace(step, args=tree_map(level, step.args), kwargs=tree_map(level, step.kwargs))
        if step.name != str(step.op._schema.name).removeprefix("aten::") and levelled.args[0] is not step.args[0]:
            self.refuse(step, "it writes into a tensor of a smaller stride")
        return levelled

    def dealt(self, stride: Counts, grids: Counts, step: Step) -> Counts:
        """Into how many grids more a result of this stride is to be dealt."""
        if self.spacing is None or self.at_cut is not None:
            return (1,) * len(stride)
        wanted = [max(s, r) for s, r in zip(stride, self.spacing, strict=True)]
        if any(w % (r * g) for w, r, g in zip(wanted, self.spacing, grids, strict=True)):
            self.refuse(step, f"its stride leads to {_by(stride)} samples, which {_by(self.spacing)} does not divide")
        return tuple(w // (r * g) for w, r, g in zip(wanted, self.spacing, grids, strict=True))

    def check(self, step: Step, places: Places) -> None:
        """Refuse cells that lie further apart than wanted, though nothing was seen to move them."""
        if self.spacing is None or self.at_cut is not None:
            return
        if any(s > r * g for s, r, g in zip(places.stride, self.spacing, places.grids, strict=True)):
            self.refuse(
                step, "before it, cells are moved apart by a reshape, which has no stride that could be taken out"
            )

    def refuse(self, step: Step, why: str) -> NoReturn:
        """Raise for an operation that the grids cannot pass."""
        where = f"'{step.layer}'" if step.layer else "the network's forward method"
        raise ConversionError(
            f"No finer map: {step.name} in {where} stands in the way.",
            why=f"{why[0].upper()}{why[1:]}.",
            hint="Use the map as it is, or a smaller factor.",
        )


Result = tuple[Any, Places]


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among arguments, also in lists: as far as operations nest them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _kept_axes(given: Sequence[tuple[Tensor, Places]], result: Tensor) -> Counts | None:
    """The axes that keep their lengths, of whichever argument has as many axes as the result."""
    for value, places in given:
        axes = places.axes
        if axes and value.ndim == result.ndim and all(value.shape[a] == result.shape[a] for a in (0, *axes)):
            return axes
    return None


def _together(known: Sequence[Places]) -> Places:
    """The largest stride, the most grids and cells beyond the border of several tensors that meet."""
    first = known[0]
    if all(p is first for p in known):
        return first
    stride = tuple(max(v) for v in zip(*(p.stride for p in known), strict=True))
    grids = tuple(max(v) for v in zip(*(p.grids for p in known), strict=True))
    return Places(stride, grids, tuple(max(v) for v in zip(*(p.short for p in known), strict=True)), first.axes)


@cache
def _plain_name(op: Any) -> str:
    return Step(op, (), {}, (), (), True, "").name


def _by(values: Sequence[int]) -> str:
    return " x ".join(map(str, values))


def _generic(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    result = step.op(*step.args, **step.kwargs)
    kept = isinstance(result, Tensor) and _kept_axes([(x, places)], result) is not None
    return result, places if kept and _plain_name(step.op) not in _MOVING else replace(places, axes=None)


def _call(step: Step, **changed: Any) -> Any:
    """Run the operation with some arguments replaced, by the names in its schema."""
    given = {known.name: step.argument(known.name) for known in step.op._schema.arguments}
    return step.op(**{**given, **changed})


# Windows that move over the places: convolutions, poolings, slices with a step.


def _windowed(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    rank = len(places.stride)
    window = window_of(step, rank)
    if window is None or x.ndim < rank + 1 or step.args[0] is not x:
        if step.argument("transposed", False) and x.ndim == rank + 2:
            mode.refuse(step, "a transposed convolution moves cells closer together")
        return _generic(mode, step, x, places)
    axes = tuple(range(x.ndim - rank, x.ndim))
    if places.axes not in (None, (), axes):
        return _generic(mode, step, x, places)
    lengths, ceil = x.shape[-rank:], bool(step.argument("ceil_mode", False))
    places = replace(places, stride=stride_on(places, lengths, mode.size))
    mode.check(step, places)
    counts = [_count(*v, ceil) for v in zip(lengths, *_parts(window), strict=True)]
    if all(c == 1 for c in counts) and prod(lengths) > 1:
        return _from_first(mode, step, x, replace(places, axes=axes), range(rank), axes)
    # An axis that ends in one cell has been read as a whole: no further stride.
    stride = tuple(
        s * (t if c > 1 or n == 1 else 1)
        for s, t, c, n in zip(places.stride, window.stride, counts, lengths, strict=True)
    )
    more = mode.dealt(stride, places.grids, step)
    if prod(more) == 1:
        return _unchanged(step, x, places, window), replace(places, stride=stride, axes=axes)
    if any(t % m for t, m in zip(window.stride, more, strict=True)):
        mode.refuse(step, f"a stride of {_by(window.stride)} cannot be taken as {_by(more)} grids")
    smaller = tuple(t // m for t, m in zip(window.stride, more, strict=True))
    wanted = [c * m for c, m in zip(counts, more, strict=True)]
    result = _slid(step, x, places, window, smaller, wanted)
    reach = zip(
        places.grids, lengths, places.short, window.kernel, smaller, window.padding, window.dilation, strict=True
    )
    found = [_count(f * n - short, k, t, p * f, d * f, ceil) for f, n, short, k, t, p, d in reach]
    after = _dealt_places(places, stride, more, counts, found, axes)
    dealt = tree_map(lambda v: _deal(v, places.grids, more, axes), result)
    return tree_map(lambda v: _cleared(v, after, 0), dealt) if "max" in step.name else dealt, after


def _parts(window: Window) -> tuple[Counts, Counts, Counts, Counts]:
    return window.kernel, window.stride, window.padding, window.dilation


def _count(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """How many cells a window makes of `n`; with `ceil` also those that stick out at the end, if they start inside."""
    free = n + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil:
        return free // stride + 1
    return min(-(-free // stride), (n - 1 + padding) // stride) + 1


def _dealt_places(
    places: Places, stride: Counts, more: Counts, counts: Sequence[int], found: Sequence[int], axes: Counts
) -> Places:
    """After dealing. found: as many cells of the interleaved map lie inside, by a window dilated like the grids."""
    grids = tuple(g * m for g, m in zip(places.grids, more, strict=True))
    short = tuple(min(max(g * c - v, 0), g - 1) for g, c, v in zip(grids, counts, found, strict=True))
    return Places(stride, grids, short, axes)


def _deal(values: Tensor, grids: Counts, more: Counts, axes: Counts) -> Tensor:
    """Deal the cells of every row out to `more` rows: first axis (more 1, grids 1, more 2, grids 2, ..., batch)."""
    rank = len(grids)
    for k in reversed(range(rank)):
        values = torch.unflatten(values, axes[k], (-1, more[k]))
    values = torch.unflatten(values, 0, (*grids, -1))
    # After these, axis a of the tensor stands rank places further on, and one more for every dealt axis before it.
    place = [rank + a + sum(b < a for b in axes) for a in axes]
    lead = [v for k in range(rank) for v in (place[k] + 1, k)] + [rank]
    return values.permute(lead + [a for a in range(values.ndim) if a not in lead]).flatten(0, 2 * rank).contiguous()


def _cleared(values: Tensor, places: Places, fill: float) -> Tensor:
    """Cells beyond the border become `fill`."""
    axes = places.axes
    if not any(places.short) or not axes or len(values) % places.rows:
        return values
    values = values.clone(memory_format=torch.contiguous_format)
    rows = torch.unflatten(values, 0, (*places.grids, -1))
    rank = len(places.grids)
    for k, short in enumerate(places.short):
        if short:
            rows.narrow(k, places.grids[k] - short, short).select(rank + axes[k], -1).fill_(fill)
    return values


def _unchanged(step: Step, x: Tensor, places: Places, window: Window) -> Any:
    """The operation as the network has it, on grids whose cells beyond the border are padding."""
    if not any(places.short) or not places.axes or all(k == 1 for k in window.kernel):
        return step.op(*step.args, **step.kwargs)
    ceil, lengths = bool(step.argument("ceil_mode", False)), x.shape[-len(places.axes) :]
    counts = [_count(*v, ceil) for v in zip(lengths, *_parts(window), strict=True)]
    result = _slid(step, x, places, window, window.stride, counts)
    return tree_map(lambda v: _cleared(v, places, 0), result) if "max" in step.name else result


def _slid(step: Step, x: Tensor, places: Places, window: Window, stride: Counts, wanted: Sequence[int]) -> Any:
    """The operation with another stride, padded at the end so far that it gives the wanted number of cells."""
    rank = len(stride)
    need = [
        max(0, (w - 1) * t + d * (k - 1) + 1 - n - 2 * p)
        for w, t, k, p, d, n in zip(
            wanted, stride, window.kernel, window.padding, window.dilation, x.shape[-rank:], strict=True
        )
    ]
    pads = [v for n in reversed(need) for v in (0, n)]
    if step.name == "convolution":
        x = F.pad(_cleared(x, places, 0), pads)
        result = step.op(x, step.args[1], step.argument("bias"), list(stride), *step.args[4:])
    elif "max" in step.name:
        lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x = F.pad(_cleared(x, places, lowest), pads, value=lowest)
        result = _call(step, self=x, stride=_lengthened(step, stride), ceil_mode=False)
    else:
        result = _average(step, x, places, window, _lengthened(step, stride), pads)
    return tree_map(lambda v: v[(..., *(slice(w) for w in wanted))], result)


def _lengthened(step: Step, stride: Counts) -> list[int]:
    """1D poolings run as 2D ones of height 1."""
    kernel = step.argument("kernel_size")
    return [1] * (len(kernel) - len(stride)) + list(stride)


def _average(step: Step, x: Tensor, places: Places, window: Window, stride: list[int], pads: list[int]) -> Tensor:
    """Average pooling as the sum over the window by the number of cells that count: those inside, and padding if the
    network counts it.
    """
    rank, counted = len(window.kernel), bool(step.argument("count_include_pad", True))
    around = [v for p in reversed(window.padding) for v in (p, p)]
    inside = torch.ones((places.rows, *(1,) * (x.ndim - rank - 1), *x.shape[-rank:]), dtype=x.dtype, device=x.device)
    inside = inside if counted else _cleared(inside, places, 0)
    inside = F.pad(F.pad(inside, around, value=float(counted)), pads)

    def mean(values: Tensor) -> Tensor:
        found: Tensor = _call(
            step,
            self=values,
            stride=stride,
            padding=[0],
            ceil_mode=False,
            count_include_pad=True,
            divisor_override=None,
        )
        return found

    total = mean(F.pad(F.pad(_cleared(x, places, 0), around), pads))
    cells = prod(window.kernel)
    if step.argument("divisor_override") is not None:
        return total * float(cells / step.argument("divisor_override"))
    share = mean(inside).clamp_min(0.5 / cells)
    return total / share.repeat_interleave(len(x) // len(share), 0)


def _sliced(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    """`x[:, :, ::2]` is a stride too."""
    plain, axes = step.op(*step.args, **step.kwargs), places.axes
    pace, dim = step.argument("step", 1), step.argument("dim", 0) % x.ndim
    if not axes or dim not in axes:
        return plain, replace(places, axes=None)
    paces = tuple(pace if a == dim else 1 for a in axes)
    stride = tuple(s * t for s, t in zip(places.stride, paces, strict=True))
    more = mode.dealt(stride, places.grids, step)
    if prod(more) == 1:
        return plain, replace(places, stride=stride)
    k = axes.index(dim)
    if pace % more[k]:
        mode.refuse(step, f"a step of {pace} cannot be taken as {more[k]} grids")
    smaller, count, n = pace // more[k], plain.shape[dim], x.shape[dim]
    begin = step.argument("start", 0)
    begin = begin + n if begin < 0 else begin
    result = x.movedim(dim, -1)[..., begin::smaller][..., : count * more[k]]
    result = F.pad(result, (0, count * more[k] - result.shape[-1])).movedim(-1, dim)
    found = [
        -(-(g * x.shape[a] - short - g * begin * (a == dim)) // (smaller if a == dim else 1))
        for g, short, a in zip(places.grids, places.short, axes, strict=True)
    ]
    counts = [plain.shape[a] for a in axes]
    return _deal(result, places.grids, more, axes), _dealt_places(places, stride, more, counts, found, axes)


def _padded(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    value = step.argument("value", 0.0) if step.name == "constant_pad_nd" else 0.0
    x = _cleared(x, places, value)
    return step.op(x, *step.args[1:], **step.kwargs), places


def _resized(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    """Interpolation brings cells closer together; where they need no further grids it reads grid 0."""
    rank = len(places.stride)
    plain = x[: len(x) // places.rows] if places.rows > 1 and mode.at_cut is None else x
    result = step.op(plain, *step.args[1:], **step.kwargs)
    before, after = x.shape[-rank:], result.shape[-rank:]
    stride = tuple(max(1, round(s * n / m)) for s, n, m in zip(places.stride, before, after, strict=True))
    axes = tuple(range(x.ndim - rank, x.ndim))
    if plain is x:
        return result, replace(places, stride=stride, axes=axes)
    assert mode.spacing is not None
    if any(s > r for s, r in zip(stride, mode.spacing, strict=True)):
        mode.refuse(step, "it interpolates between cells that are to be evaluated")
    return result, Places(stride, (1,) * rank, (0,) * rank, axes)


# What reads all places at once.


def _from_first(
    mode: Interleaved, step: Step, x: Tensor, places: Places, read: Sequence[int], axes: Counts | None
) -> Result:
    """Over the axes numbered in `read`, run on the first grid alone and give its result to all."""
    after = replace(places, axes=axes)
    if places.rows == 1 or len(x) % places.rows or step.args[0] is not x:
        return step.op(*step.args, **step.kwargs), after
    rows, rank = torch.unflatten(x, 0, (*places.grids, -1)), len(places.grids)
    for k in read:
        rows = rows.narrow(k, 0, 1)
    kept = rows.shape[:rank]
    result = step.op(rows.flatten(0, rank), *step.args[1:], **step.kwargs)

    def given(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        spread = torch.unflatten(value, 0, (*kept, -1))
        return spread.expand(*places.grids, *spread.shape[rank:]).flatten(0, rank).contiguous()

    return tree_map(given, result), after


def _reduced(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    dims = step.argument("dim")
    given = (
        set(range(x.ndim))
        if dims in (None, [])
        else {d % x.ndim for d in (dims if isinstance(dims, list | tuple) else [dims])}
    )
    if places.axes is None or 0 in given:
        return _generic(mode, step, x, places)
    axes: Counts | None = places.axes
    if not step.argument("keepdim", False):
        left = [a - sum(d < a for d in given) for a in places.axes if a not in given]
        axes = tuple(left) if len(left) == len(places.axes) else () if not left else None
    read = [k for k, a in enumerate(places.axes) if a in given]
    return _from_first(mode, step, x, places, read, axes)


def _adaptive(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    rank = len(places.stride)
    axes = tuple(range(x.ndim - rank, x.ndim))
    wanted = step.argument("output_size")
    before, after = x.shape[-rank:], tuple(wanted)[-rank:]
    if len(wanted) < rank or before == after or mode.at_cut is not None:
        return _generic(mode, step, x, places)
    if all(m == 1 for m in after):
        return _from_first(mode, step, x, places, range(rank), axes)
    stride = tuple(round(s * n / m) for s, n, m in zip(places.stride, before, after, strict=True))
    if mode.spacing is not None and any(s > r for s, r in zip(stride, mode.spacing, strict=True)):
        mode.refuse(step, "pooling to a fixed number of cells has no stride that could be taken out")
    return step.op(*step.args, **step.kwargs), replace(places, stride=stride, axes=axes)


def _grouped(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    """Group normalisation with the statistics of the first grid."""
    if places.rows == 1 or places.axes is None or len(x) % places.rows:
        return _generic(mode, step, x, places)
    batch, groups = len(x) // places.rows, step.argument("group")
    given = {"N": batch, "input": x[:batch].contiguous()}
    _, mean, rstd = _call(step, **given)
    shape = (-1, groups, *(1,) * (x.ndim - 1))
    scaled = (torch.unflatten(x, 1, (groups, -1)) - _again(mean, places).view(shape)) * _again(rstd, places).view(shape)
    weight, bias = step.argument("weight"), step.argument("bias")
    result, channel = scaled.flatten(1, 2), (-1, *(1,) * (x.ndim - 2))
    result = result if weight is None else result * weight.view(channel)
    result = result if bias is None else result + bias.view(channel)
    return (result, _again(mean, places), _again(rstd, places)), places


def _again(values: Tensor, places: Places) -> Tensor:
    return values.repeat(places.rows, *(1,) * (values.ndim - 1))


# What moves axes.


def _viewed(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    """A reshape keeps an axis where it keeps its length and the number of elements behind it."""
    result = step.op(*step.args, **step.kwargs)
    if places.axes is None or not result.ndim or len(result) != len(x):
        return result, replace(places, axes=None)
    behind = {(n, prod(result.shape[i + 1 :])): i for i, n in enumerate(result.shape) if i and n > 1}
    axes = [behind.get((x.shape[a], prod(x.shape[a + 1 :]))) for a in places.axes]
    return result, replace(places, axes=None if None in axes else tuple(a for a in axes if a is not None))


def _permuted(mode: Interleaved, step: Step, x: Tensor, places: Places) -> Result:
    result, order = step.op(*step.args, **step.kwargs), list(range(x.ndim))
    if step.name == "permute":
        order = [d % x.ndim for d in step.argument("dims")]
    else:
        a, b = (step.argument(name) % x.ndim for name in ("dim0", "dim1"))
        order[a], order[b] = order[b], order[a]
    if places.axes is None or order[0] != 0:
        return result, replace(places, axes=None)
    axes = tuple(order.index(a) for a in places.axes)
    return result, replace(places, axes=axes if list(axes) == sorted(axes) else None)


_MOVING = frozenset(
    {"view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "t", "unfold", "as_strided"}
)
_RULES: dict[str, Callable[[Interleaved, Step, Tensor, Places], Result]] = {
    "convolution": _windowed,
    **dict.fromkeys([f"{kind}_pool{n}d{tail}" for kind in ("max", "avg") for n in (1, 2, 3) for tail in ("", "_with_indices")], _windowed),
    **dict.fromkeys([f"{lead}adaptive_{kind}_pool{n}d" for lead in ("", "_") for kind in ("max", "avg") for n in (1, 2, 3)], _adaptive),
    **dict.fromkeys(["mean", "sum", "amax", "amin", "max", "var", "std", "var_mean", "std_mean", "logsumexp"], _reduced),
    "native_group_norm": _grouped,
    "slice": _sliced,
    **dict.fromkeys([f"{kind}_pad{n}" for kind in ("reflection", "replication") for n in ("1d", "2d", "3d")] + ["constant_pad_nd"], _padded),
    **dict.fromkeys([f"{lead}upsample_{kind}" for lead in ("", "_") for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d", "nearest_exact1d", "nearest_exact2d", "nearest_exact3d")], _resized),
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "squeeze", "unsqueeze"], _viewed),
    **dict.fromkeys(["permute", "transpose"], _permuted),
}  # fmt: skip
