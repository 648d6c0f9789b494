"""A network that tells, for every class and place, how much that place adds to the logit, in the same forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import BadInput, LayerError, OptionError
from pellucid.models.capture import CapturePoint, capture
from pellucid.models.certificate import Certificate
from pellucid.models.frozen import Unfreezable, following
from pellucid.models.head import Pooling
from pellucid.models.trace import as_logits
from pellucid.spatial import Geometry
from pellucid.targets import TASKS, Task

if TYPE_CHECKING:
    from pellucid.models.finer import FinerSoftCAM


@dataclass(frozen=True)
class Evidence:
    """What one pass tells.

    output: what the network returned. logits: the selected logits. maps: raw evidence without bias; its mean over the
    grid plus `bias` is the logit. bias: what no cell adds, `(classes,)`; where gates were held at each input,
    `(batch, classes)`. positions: the number of cells. complete: False for a finer map, whose mean is near the logit only.
    """

    output: Any
    logits: Float[Tensor, "batch classes"]
    maps: Float[Tensor, "batch classes *grid"]
    bias: Float[Tensor, "*batch classes"]
    positions: int
    geometry: Geometry
    complete: bool = True


@dataclass(frozen=True)
class Plan:
    """How evidence is computed: from which tensor, with whose weights.

    layer: the linear layer or 1x1 convolution whose own weight and bias are used; None: the feature map is the
    evidence, or (fused) the SoftCAM has evidence parameters of its own. pooling: what the network does with the cells.
    channel_axis: of the feature map, 1 or -1. rank: spatial axes of the input. stride: where the places stand in one
    row (tokens), the input samples per cell that tell the grid. frozen: the head bends, so its gates are held at each
    input (`models.frozen`). prefix: tokens before those of the grid (class and register tokens); what stems from them
    belongs to the bias.
    """

    capture: CapturePoint
    layer: str | None
    fused: bool
    pooling: Pooling
    channel_axis: int
    rank: int
    stride: tuple[int, ...] | None = None
    frozen: bool = False
    prefix: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Plan:
        stride = value["stride"]
        return cls(
            **{**value, "capture": CapturePoint(**value["capture"]), "stride": tuple(stride) if stride else None}
        )


class SoftCAM(nn.Module):
    """A converted network. Calling it gives what the network gives; made by `convert`, not by hand.

    model: the network itself (a copy), complete; its head's parameters are also those of the evidence, so training one
    trains the other. certificate: what was checked. classes: names or None. task: "multiclass", "multilabel",
    "binary" or "regression".
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        certificate: Certificate,
        *,
        task: Task | None = None,
        classes: Sequence[str] | None = None,
        output: Any = None,
        fused: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self.certificate = certificate
        self.classes = _checked_names(classes, certificate.classes)
        self.task: Task = _checked_task(task, certificate.classes)
        self.output = output
        self.fused = fused
        self.training = model.training

    def forward(self, *args: Any, return_evidence: bool = False, **kwargs: Any) -> Any:
        """What the network returns; with `return_evidence`, `(output, maps)` from the same pass, as `evidence_maps`."""
        if not return_evidence and self.fused is None:
            return self.model(*args, **kwargs)
        output, maps, bias = self._run(args, kwargs)
        return (output, _with_bias(maps, bias)) if return_evidence else output

    def evidence_maps(self, *args: Any, **kwargs: Any) -> Float[Tensor, "batch classes *grid"]:
        """Evidence per class and cell in logit units times the number of cells, bias included: its mean is the logit."""
        _, maps, bias = self._run(args, kwargs)
        return _with_bias(maps, bias)

    def evidence(self, *args: Any, **kwargs: Any) -> Evidence:
        """Everything one pass tells. Maps are at least float32, also under autocast.

        Raises `LayerError` when the feature map did not come by, `BadInput` for an input without places.
        """
        output, maps, bias = self._run(args, kwargs)
        grid = maps.shape[2:]
        selected = output if self.fused is not None and isinstance(output, Tensor) else self.select(output)
        logits = as_logits(selected)
        return Evidence(
            output, logits, maps, bias, prod(grid), self.geometry(tuple(grid), self._input_size(args, kwargs))
        )

    def select(self, output: Any) -> Tensor:
        """The logits in what the network returned; in training mode the main ones come before auxiliary ones."""
        if self.output is None and not isinstance(output, Tensor):
            main = getattr(output, "logits", None)
            return cast(Tensor, main if isinstance(main, Tensor) else output[0])
        return cast(Tensor, Call(self.model, output=self.output).select(output))

    def finer(self, factor: int, example: Tensor | None = None) -> FinerSoftCAM:
        """The same network with a map that is 2 or 4 times finer, for inference (see `models.finer.finer`)."""
        from pellucid.models.finer import finer

        return finer(self, factor, example)

    def save(self, folder: str | Path) -> Path:
        """Write weights, description and manifest (see `pellucid.load`)."""
        from pellucid.models.storage import save_model

        return save_model(self, folder)

    def extra_repr(self) -> str:
        return f"kind={self.certificate.kind}, feature map={self.certificate.cut}, head={self.certificate.head}"

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
        """One pass: the output, the maps without bias `(batch, classes, *grid)`, the bias `(classes,)`."""
        size = self._input_size(args, kwargs)
        if self.plan.frozen:
            return self._run_frozen(args, kwargs, size)
        found: list[tuple[Tensor, Tensor]] = []
        with capture(self.model, self.plan.capture, lambda features: found.append(self._maps(features, size))):
            output = self.model(*args, **kwargs)
        if not found:
            raise self._another_way()
        maps, bias = found[-1]
        if self.fused is not None:
            output = _replaced(output, self.output, (maps.flatten(2).mean(2) + bias).to(self.fused.weight.dtype))
        return output, maps, bias

    def _run_frozen(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        size: tuple[int, ...],
        hold: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Any, Tensor, Tensor]:
        """One pass with the head's gates held: the bias is `(batch, classes)`. hold: see `frozen.following`."""
        with following(self.model, self.plan.capture, self.plan.channel_axis, hold=hold) as shares:
            try:
                output = self.model(*args, **kwargs)
                selected = self.select(output)
                if not shares.places:
                    raise self._another_way()
                rows, constant = shares.cells(selected)
            except Unfreezable as error:
                raise self._another_way(str(error)) from error
        maps, bias = grid_of_shares(rows, constant, self.plan.prefix)
        grid = shares.places
        if self.plan.stride is not None:
            grid = _rows_to_grid(maps.shape[2], size, self.plan.stride)
        return output, maps.reshape(*maps.shape[:2], *grid), bias

    def _another_way(self, why: str = "The network took another way than at conversion.") -> LayerError:
        return LayerError(
            f"The feature map did not come by as expected: {self.plan.capture}.",
            why=why,
            hint="Convert it again with an example and a mode like this call's.",
        )

    def _maps(self, features: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        cells = features.movedim(self.plan.channel_axis, 1)
        grid = (
            tuple(cells.shape[2:])
            if self.plan.stride is None
            else _rows_to_grid(cells.shape[2], size, self.plan.stride)
        )
        kind = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            # One row per place, since a single matrix product is the fastest. A copy under autograd: an in-place
            # operation may follow in training (dropout).
            rows = cells.flatten(2).transpose(1, 2)
            rows = rows.to(kind, copy=torch.is_grad_enabled(), memory_format=torch.contiguous_format)
            layer = self.fused if self.plan.layer is None else self.model.get_submodule(self.plan.layer)
            bias = None if layer is None else cast(Tensor | None, layer.bias)
            if layer is not None:
                weight = cast(Tensor, layer.weight).flatten(1).to(kind)
                rows = F.linear(rows.reshape(-1, rows.shape[2]), weight).view(*rows.shape[:2], -1)
            if self.plan.pooling == "sum":
                rows = rows * rows.shape[1]
            bias = torch.zeros(rows.shape[2], dtype=kind, device=rows.device) if bias is None else bias.to(kind)
        return rows.transpose(1, 2).reshape(rows.shape[0], -1, *grid), bias

    def _input_size(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
        axes = self.plan.rank + 2
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.ndim == axes:
                return tuple(value.shape[2:])
        raise BadInput(
            "There is no input with places to show evidence on.",
            why=f"A tensor with {axes} axes, (batch, channels, *spatial), was looked for.",
            hint="Give the input as at conversion; add the batch axis to a single one: x[None].",
        )

    def geometry(self, grid: tuple[int, ...], size: tuple[int, ...]) -> Geometry:
        """Where the cells of a map of this grid lie in an input of this size."""
        known = self.certificate
        if known.start is None or known.jump is None or (known.sized and not self._fits(size)):
            return Geometry.unregistered(grid, size)
        return Geometry(grid, size, known.start, known.jump, registered=True, receptive_field=known.receptive_field)

    def _fits(self, size: tuple[int, ...]) -> bool:
        """Whether the input is larger or smaller than the example by whole strides, so that it is padded alike."""
        known = self.certificate
        return all((n - m) % j == 0 for n, m, j in zip(size, known.input_size, known.jump or (), strict=True))


def _replaced(output: Any, selector: Any, logits: Tensor) -> Any:
    """What the network returned, with these logits in their place."""
    if isinstance(output, Mapping) and isinstance(selector, str):
        return {**output, selector: logits}
    if isinstance(output, tuple) and isinstance(selector, int | str):
        names = getattr(output, "_fields", ())
        at = names.index(selector) if isinstance(selector, str) else selector % len(output)
        parts = [logits if i == at else part for i, part in enumerate(output)]
        return type(output)(*parts) if names else tuple(parts)
    return logits


def grid_of_shares(rows: Tensor, constant: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Rows `(prefix + cells, batch[, classes])` as raw maps `(batch, classes, cells)`, whose mean plus the bias is the logit."""
    rows, constant = (rows[..., None], constant[..., None]) if constant.ndim == 1 else (rows, constant)
    cells = rows[prefix:]
    return cells.permute(1, 2, 0) * cells.shape[0], constant + rows[:prefix].sum(0)


def _with_bias(maps: Tensor, bias: Tensor) -> Tensor:
    return maps + bias.reshape(*bias.shape, *(1,) * (maps.ndim - 2))


def _rows_to_grid(places: int, size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    grid = tuple(n // s for n, s in zip(size, stride, strict=True))
    if prod(grid) != places:
        raise BadInput(
            f"{places} places do not form a grid on an input of {size}.",
            why=f"One cell per {stride} samples would be {grid}.",
            hint="Use input sizes that are multiples of the stride.",
        )
    return grid


def _checked_task(task: Task | None, width: int) -> Task:
    if task is None:
        return "binary" if width == 1 else "multiclass"
    if task not in TASKS:
        raise OptionError(f"There is no task '{task}'.", hint=f"Choose one of {', '.join(TASKS)}.")
    if task == "binary" and width != 1:
        raise OptionError(
            f"A binary task has one logit; this network has {width}.", hint="Use task='multiclass' or 'multilabel'."
        )
    if task == "multiclass" and width == 1:
        raise OptionError(
            "A multiclass task has several logits; this network has one.", hint="Use task='binary' or 'regression'."
        )
    return task


def _checked_names(classes: Sequence[str] | None, width: int) -> tuple[str, ...] | None:
    if classes is None:
        return None
    names = tuple(str(c) for c in classes)
    if len(names) != width and not (width == 1 and len(names) == 2):
        raise OptionError(
            f"There are {len(names)} class names for {width} logits.",
            why="Each logit has one name; a single logit may have two, negative and positive.",
            hint="Give one name per logit.",
        )
    return names
