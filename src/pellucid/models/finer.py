"""A finer map without retraining: the network's evidence between the cells of its map.

The last strides are taken out of the network and every later layer works on the grids that lie between
(`pellucid.models.interleaved`). One of these grids is the network's own, so its map and its logits stay what they are;
the others are the same network, evaluated half a cell (a quarter) further on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pellucid.errors import BadInput, ConversionError, OptionError
from pellucid.models import head as heads
from pellucid.models.capture import Sightings, capture
from pellucid.models.certificate import Certificate
from pellucid.models.interleaved import Counts, Interleaved, stitched, stride_on
from pellucid.models.softcam import Evidence, SoftCAM
from pellucid.models.trace import as_logits
from pellucid.spatial import Geometry

TOLERANCE = 1e-9  # of the spread, in double precision: the network's own map and logits among the finer ones
_ROUNDING = 1e-4  # the same in the network's own precision; beyond it, double precision decides


class FinerSoftCAM(nn.Module):
    """A SoftCAM whose map has `factor` times the cells on every axis; for inference. Made by `finer`, not by hand.

    Calling it is calling the SoftCAM, whose weights it shares. Cells 0, factor, 2 factor, ... of its map are the
    SoftCAM's, and their mean plus the bias is the logit. The cells between are true evaluations of the network that the
    logit does not read: the mean over all cells is near the logit and not equal to it, so the map is not `complete`.

    grids: how many times finer on each axis; an axis along which the network has no stride stays as it is.
    spacing: input samples between the finer cells. error: the largest difference between the two maps' common cells, and
    between the logits, over their spread, in double precision. checked: the map's cells and the input's size there.
    """

    def __init__(
        self,
        softcam: SoftCAM,
        factor: int,
        grids: Counts,
        spacing: Counts,
        error: float,
        checked: tuple[Counts, Counts],
    ) -> None:
        super().__init__()
        self.softcam = softcam
        self.factor, self.grids, self.spacing, self.error, self.checked = factor, grids, spacing, error, checked
        self.training = softcam.training
        self._tried: set[tuple[Any, ...]] = set()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The SoftCAM's."""
        return self.softcam.classes

    @property
    def task(self) -> Any:
        """The SoftCAM's."""
        return self.softcam.task

    @property
    def output(self) -> Any:
        """Which part of the network's output the logits are."""
        return self.softcam.output

    @property
    def certificate(self) -> Certificate:
        """The SoftCAM's, with the finer map's spacing."""
        own = self.softcam.certificate
        note = (
            f"finer by {self.factor}: every {self.factor}th cell is the network's own (within {self.error:.1g} of the "
            "spread, double precision) and their mean the logit; the mean over all cells is not"
        )
        return replace(
            own,
            grid=self.checked[0],
            input_size=self.checked[1],
            stride=_divided(own.stride, self.grids),
            jump=None if own.jump is None else _divided(own.jump, self.grids),
            notes=(*own.notes, note),
        )

    def forward(self, *args: Any, return_evidence: bool = False, **kwargs: Any) -> Any:
        """What the network returns; with `return_evidence`, `(output, maps)`, the maps as in `evidence_maps`."""
        if not return_evidence:
            return self.softcam(*args, **kwargs)
        found = self.evidence(*args, **kwargs)
        return found.output, _with_bias(found)

    def evidence_maps(self, *args: Any, **kwargs: Any) -> Float[Tensor, "batch classes *grid"]:
        """Raw evidence per class and cell, bias included: the mean of the network's own cells is the logit."""
        return _with_bias(self.evidence(*args, **kwargs))

    def evidence(self, *args: Any, **kwargs: Any) -> Evidence:
        """Everything one pass tells, without gradients. The first input of each size is compared with the SoftCAM's own
        evidence, which takes a pass more (where rounding hides the answer, two in double precision).

        Raises `OptionError` in training mode and for inputs that want a gradient, `ConversionError` where the network's
        own map is not among the finer cells.
        """
        self._check_use(args, kwargs)
        with torch.inference_mode(False), torch.no_grad():
            args, kwargs = tree_map(_ordinary, (args, kwargs))
            found, _ = _run(self.softcam, args, kwargs, self.spacing)
            key = tuple(
                (tuple(v.shape[2:]), len(v) > 1)
                for v in tree_leaves((args, kwargs))
                if isinstance(v, Tensor) and v.ndim
            )
            if key not in self._tried:
                self._compare(found, args, kwargs)
                self._tried.add(key)
        return found

    def select(self, output: Any) -> Tensor:
        """The logits in what the network returned."""
        return self.softcam.select(output)

    def geometry(self, grid: tuple[int, ...], size: tuple[int, ...]) -> Geometry:
        """Where the cells of a map lie in an input of this size: of the finer map, or of one with the SoftCAM's spacing."""
        own, axes = self.softcam.certificate, []
        for g, f, n, m, s, c in zip(grid, self.grids, size, own.input_size, own.stride, own.grid, strict=True):
            cells = c + (n - m) / s
            axes.append(f > 1 and abs(g - f * cells) < abs(g - cells))
        return _geometry(self.softcam, tuple(grid), size, self.grids if any(axes) else (1,) * len(grid))

    def extra_repr(self) -> str:
        return f"factor={self.factor}, spacing={' x '.join(map(str, self.spacing))}"

    def _check_use(self, args: Any, kwargs: Any) -> None:
        if any(module.training for module in self.softcam.model.modules()):
            raise OptionError(
                "A finer map is for inference.",
                why="In training mode layers draw chances and statistics over the batch, which the grids between would change.",
                hint="Call eval() first; train the SoftCAM itself.",
            )
        if torch.is_grad_enabled() and any(
            isinstance(v, Tensor) and v.requires_grad for v in tree_leaves((args, kwargs))
        ):
            raise OptionError(
                "A finer map has no gradient.",
                why="The input wants one.",
                hint="Use the SoftCAM itself, or x.detach().",
            )

    def _compare(self, found: Evidence, args: Any, kwargs: Any) -> None:
        """With the SoftCAM's own evidence; where rounding may be what differs, both again in double precision."""
        own = self.softcam.evidence(*args, **kwargs)
        if not _departure(found, own, self.grids) <= _ROUNDING:
            with _doubled(self.softcam, args, kwargs) as (wide, more, named):
                found, _ = _run(wide, more, named, self.spacing)
                _check(found, wide.evidence(*more, **named), self.grids)


def finer(
    softcam: SoftCAM,
    factor: int,
    example: Float[Tensor, "batch channels *spatial"] | None = None,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> FinerSoftCAM:
    """The SoftCAM with a map that is `factor` times finer on every axis: 2 takes out the last stride, 4 the last two.

    It costs a pass through what then works on the finer map (ResNet-50: 1.5 passes for 2, 4.7 for 4). Checked here in
    double precision on an input like the conversion's: the network's own map must be every factor-th cell, and the
    logits the same, within 1e-9 of the spread.

    example: an input, where the network takes more than one image (args, kwargs: its other inputs).
    Raises `OptionError` for a factor below 2, `ConversionError` naming the operation and the reason where the network
    has no such map. Sources: Yu and Koltun 2016 (dilation), Sermanet et al. 2014 (shift and stitch).
    """
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 2:
        raise OptionError(f"A map cannot be finer by {factor!r}.", hint="Choose 2 or 4.")
    x = _like_the_example(softcam) if example is None else example.detach()
    with _doubled(softcam, (x, *args), kwargs or {}) as (wide, more, named):
        own = _own(wide, more, named)
        _, stride = _first_run(wide, more, named, None)
        grids = _grids(stride, factor)
        spacing = tuple(s // g for s, g in zip(stride, grids, strict=True))
        found, _ = _first_run(wide, more, named, spacing)
        error = _check(found, own, grids)
    return FinerSoftCAM(softcam, factor, grids, spacing, error, (found.geometry.grid, found.geometry.input_size))


def _own(softcam: SoftCAM, args: Any, kwargs: Any) -> Evidence:
    try:
        return softcam.evidence(*args, **kwargs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise BadInput(
            f"The network fails on an input of {tuple(args[0].shape)}.",
            why=f"{type(error).__name__}: {error}",
            hint="Pass an input as in use: finer(factor, example).",
        ) from error


def _run(
    softcam: SoftCAM, args: Any, kwargs: Any, spacing: Counts | None, layer: Callable[[], str] = lambda: ""
) -> tuple[Evidence, Counts]:
    """One pass with cells at most `spacing` samples apart (None: as the network has them), and the network's own stride."""
    size = _size(softcam, args, kwargs)
    mode = Interleaved(size, spacing, layer)
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, Tensor):
            mode.enter(value)
    with capture(softcam.model, softcam.plan.capture, mode.cut), mode:
        # Gates belong to the decision: cells between are weighed by those of the network's own grid.
        frozen = softcam.plan.frozen
        output, maps, bias = (
            softcam._run_frozen(args, kwargs, size, mode.held) if frozen else softcam._run(args, kwargs)
        )
        logits = as_logits(softcam.select(output))
    places = mode.at_cut
    if places is None:
        raise ConversionError(
            "No finer map: the feature map's cells cannot be followed back to the input.",
            why="Something on the way writes them into a tensor of its own.",
            hint="Use the map as it is.",
        )
    stride = stride_on(places, maps.shape[2:], size)
    if spacing is not None and any(s != r * g for s, r, g in zip(stride, spacing, places.grids, strict=True)):
        raise ConversionError(
            "No finer map: the last stride is made by reshaping or picking cells.",
            why="Only the strides of convolutions, poolings and slices can be taken out.",
            hint="Use the map as it is.",
        )
    output, logits, bias = mode.first_grid((output, logits, bias))
    whole = stitched(maps, places)
    grid = tuple(whole.shape[2:])
    return Evidence(
        output,
        logits,
        whole,
        bias,
        math.prod(grid),
        _geometry(softcam, grid, size, places.grids),
        complete=places.rows == 1,
    ), stride


def _first_run(softcam: SoftCAM, args: Any, kwargs: Any, spacing: Counts | None) -> tuple[Evidence, Counts]:
    """The first pass; whatever goes wrong names the layer."""
    sightings = Sightings(softcam.model, lambda tensor: None)
    try:
        with sightings:
            return _run(softcam, args, kwargs, spacing, lambda: sightings.layer)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ConversionError(
            "No finer map: the network cannot work on more rows than it was given.",
            why=f"In '{sightings.layer or 'the forward method'}': {error}",
            hint="Use the map as it is.",
        ) from error


def _grids(stride: Counts, factor: int) -> Counts:
    """How many times finer each axis can be made."""
    grids = tuple(factor if s % factor == 0 else 1 for s in stride)
    if all(g == 1 for g in grids) or any(s > 1 and g == 1 for s, g in zip(stride, grids, strict=True)):
        raise ConversionError(
            f"The map cannot be finer by {factor}.",
            why=f"Its cells are {' x '.join(map(str, stride))} samples apart.",
            hint="Choose a factor that divides this stride.",
        )
    return grids


def _departure(found: Evidence, own: Evidence, grids: Counts) -> float:
    """The largest difference of the common cells and of the logits, each over its spread."""
    steps: Any = (..., *(slice(None, None, g) for g in grids))
    among = found.maps[steps]
    if among.shape != own.maps.shape or found.logits.shape != own.logits.shape:
        return math.inf
    pairs = [(among, own.maps), (found.logits, own.logits)]
    return max(float((a - b).abs().max()) / heads.spread(b.flatten(1)) for a, b in pairs)


def _check(found: Evidence, own: Evidence, grids: Counts) -> float:
    error = _departure(found, own, grids)
    if error <= TOLERANCE:
        return error
    raise ConversionError(
        "No finer map: the network's own map is not among the finer cells.",
        why=f"They differ by {error:.1g} of the spread; {TOLERANCE:.0e} is allowed. Something mixes the rows of a batch.",
        hint="Use the map as it is.",
    )


def _with_bias(found: Evidence) -> Tensor:
    return found.maps + found.bias.reshape(-1, found.maps.shape[1], *(1,) * (found.maps.ndim - 2))


def _geometry(softcam: SoftCAM, grid: Counts, size: Counts, grids: Counts) -> Geometry:
    """The first cell is the network's own; the others lie between its cells."""
    own = softcam.geometry(tuple(-(-g // f) for g, f in zip(grid, grids, strict=True)), size)
    return replace(own, grid=grid, jump=_divided(own.jump, grids))


def _divided(values: Sequence[float], grids: Counts) -> tuple[float, ...]:
    return tuple(v / g for v, g in zip(values, grids, strict=True))


def _size(softcam: SoftCAM, args: Any, kwargs: Any) -> Counts:
    return softcam._input_size(args, kwargs)


def _ordinary(value: Any) -> Any:
    """Under inference mode operations come undivided, so the pass runs outside of it."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


@contextmanager
def _doubled(softcam: SoftCAM, args: Any, kwargs: Any) -> Iterator[tuple[SoftCAM, Any, Any]]:
    """A copy and its inputs in double precision, for as long as this is open."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(False), torch.no_grad():
            wide = copy.deepcopy(softcam).double().eval()
            yield wide, *tree_map(_wide, (tuple(args), dict(kwargs)))
    finally:
        torch.set_default_dtype(before)


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _like_the_example(softcam: SoftCAM) -> Tensor:
    """A random input of the conversion's size, with as many channels as the first convolution takes."""
    size = softcam.certificate.input_size
    for module in softcam.model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == len(size) + 2:
            channels = weight.shape[1] * int(getattr(module, "groups", 1))
            generator = torch.Generator().manual_seed(0)
            return torch.randn(1, channels, *size, generator=generator).to(weight)
    raise BadInput(
        "How many channels the network takes is not known.",
        why="It has no convolution to tell.",
        hint="Pass an input: finer(factor, example).",
    )
