"""One concrete trace of a network, for analysis only: which tensor operations lead from the input to the output.

The network runs once, as it is, under a dispatch mode that sees every operation below autograd with real tensors, so
functional activations, reshapes and Python control flow are seen alike. Inference never uses the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from pellucid.models.capture import CapturePoint, Sightings


class Ref(NamedTuple):
    """A tensor of the trace: output number `output` of step `step`."""

    step: int
    output: int = 0


@dataclass(frozen=True)
class Step:
    """One operation. Tensors that depend on the input stand in `args` and `kwargs` as `Ref`; all else as it is.

    op: the aten operation, None for an input. layer: dotted name of the layer that ran it. shapes: of the outputs.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    parents: tuple[Ref, ...]
    shapes: tuple[tuple[int, ...], ...]
    floating: bool
    layer: str

    @property
    def name(self) -> str:
        """The operation's plain name: "convolution", "relu"; in-place variants have the name of the pure one."""
        return "input" if self.op is None else str(self.op._schema.name).removeprefix("aten::").rstrip("_")

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by the name it has in the operation's schema."""
        for position, known in enumerate(self.op._schema.arguments):
            if known.name == name:
                given = self.args[position] if position < len(self.args) else self.kwargs.get(name, known.default_value)
                return default if given is None else given
        return default


class Untraceable(Exception):
    """The run does something that a list of tensor operations cannot say."""


@dataclass(frozen=True)
class Trace:
    """The operations in the order in which they ran; `output` is the network's (selected) output.

    points: where each tensor can be captured in an ordinary run.
    """

    steps: tuple[Step, ...]
    output: Ref
    points: dict[Ref, list[CapturePoint]]
    inputs: int

    def shape(self, ref: Ref) -> tuple[int, ...]:
        return self.steps[ref.step].shapes[ref.output]

    def needed(self) -> list[int]:
        """The steps on some path from an input to the output, in order."""
        wanted, stack = set(), [self.output.step]
        while stack:
            step = stack.pop()
            if step not in wanted:
                wanted.add(step)
                stack.extend(ref.step for ref in self.steps[step].parents)
        return sorted(wanted)

    def cuts(self) -> Iterator[Ref]:
        """Tensors through which every path from the inputs to the output passes, the last first."""
        needed = self.needed()
        uses: dict[int, dict[int, int]] = {step: {} for step in needed}  # step -> output index -> last reader
        for step in needed:
            for ref in self.steps[step].parents:
                uses[ref.step][ref.output] = step
        uses[self.output.step][self.output.output] = len(self.steps)
        found, reach = [], self.inputs - 1
        for step in needed:
            if reach <= step and len(uses[step]) == 1:
                found.append(Ref(step, next(iter(uses[step]))))
            reach = max(reach, *uses[step].values())
        return reversed(found)

    def after(self, cut: Ref) -> list[Step]:
        """The operations between a cut and the output."""
        return [self.steps[i] for i in self.needed() if i > cut.step]

    def tail(self, cut: Ref) -> Callable[[Tensor], Tensor]:
        """What the network makes of the tensor at `cut`, as a function in double precision `(shape) -> (batch, classes)`."""
        needed = [i for i in self.needed() if i > cut.step]
        wide: dict[int, Tensor] = {}

        def run(features: Tensor) -> Tensor:
            values: dict[Ref, Any] = {cut: features}
            for i in needed:
                result = _replay(self.steps[i], values, wide)
                for k, value in enumerate(result if isinstance(result, tuple | list) else (result,)):
                    values[Ref(i, k)] = value
            return as_logits(values[self.output])

        return run


def as_logits(output: Tensor) -> Tensor:
    """`(batch,)` of a single logit becomes `(batch, 1)`."""
    return output[:, None] if output.ndim == 1 else output


def _replay(step: Step, values: dict[Ref, Any], wide: dict[int, Tensor]) -> Any:
    """Run a step again in double precision; `wide` keeps what constants become."""

    def resolve(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value]
        if isinstance(value, torch.dtype):
            return torch.float64 if value.is_floating_point else value
        if isinstance(value, Tensor) and value.is_floating_point():
            if id(value) not in wide:
                wide[id(value)] = value.detach().double()
            return wide[id(value)]
        return [resolve(v) for v in value] if isinstance(value, list | tuple) else value

    args = tuple(resolve(v) for v in step.args)
    kwargs = {k: resolve(v) for k, v in step.kwargs.items()}
    args = tuple(v.clone() if w and isinstance(v, Tensor) else v for v, w in zip(args, _writes(step.op), strict=False))
    return step.op(*args, **kwargs)


def trace(model: nn.Module, run: Callable[[], Any], inputs: tuple[Tensor, ...], select: Callable[[Any], Any]) -> Trace:
    """Trace one call of `run()`, which calls `model` on `inputs`; `select` picks the logits from what it returns.

    Raises `Untraceable` where values leave the tensors (`.item()`), or are written through a second view.
    """
    recorder = _Recorder(inputs)
    sightings = Sightings(model, recorder.ref)
    recorder.sightings = sightings
    with torch.no_grad(), sightings, recorder:
        output = select(run())
        ref = recorder.ref(output) if isinstance(output, Tensor) else None
    if ref is None:
        raise Untraceable("the output does not depend on the input through tensor operations")
    return Trace(tuple(recorder.steps), ref, sightings.points, len(inputs))


def _writes(op: Any) -> list[bool]:
    """Which arguments the operation writes into."""
    return [known.alias_info is not None and known.alias_info.is_write for known in op._schema.arguments]


def _is_new(op: Any) -> bool:
    """Whether the operation takes only shape and type from its argument (`zeros_like`, `new_zeros`)."""
    name = str(op._schema.name).removeprefix("aten::")
    return name.startswith("new_") or name.endswith("_like")


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the list of steps, and for every tensor that was seen when it got its value and which one."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled under this mode; shielding it from the compiler would load all of torch._dynamo."""
        return False

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sightings: Sightings | None = None
        self.steps: list[Step] = []
        self.seen: Any = WeakTensorKeyDictionary()  # tensor -> (clock, Ref or None)
        self.written: dict[int, int] = {}  # storage -> clock of the last write of something that depends on the input
        self.clock = 0
        for tensor in inputs:
            self.seen[tensor] = (0, Ref(len(self.steps)))
            self.steps.append(Step(None, (), {}, (), (tuple(tensor.shape),), tensor.is_floating_point(), ""))

    def ref(self, tensor: Tensor) -> Ref | None:
        known: Ref | None = self.seen.get(tensor, (0, None))[1]
        return known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        for tensor in given:
            self._check_current(tensor)
        parents = tuple(ref for ref in map(self.ref, given) if ref is not None and not _is_new(func))
        packed = tree_map(lambda v: (self.ref(v) or v) if isinstance(v, Tensor) else v, (args, kwargs))
        if parents:  # a constant that is written into is kept as it was before
            kept = tuple(
                v.clone() if w and isinstance(v, Tensor) else v for v, w in zip(packed[0], _writes(func), strict=False)
            )
            packed = (kept, packed[1])
        result = func(*args, **kwargs)
        self.clock += 1
        results = list(result) if isinstance(result, tuple | list) else [result]
        if parents:
            self._record(func, packed, parents, results, args)
        else:
            for value in results:
                if isinstance(value, Tensor) and self.ref(value) is None:
                    self.seen[value] = (self.clock, None)
        return result

    def _record(self, func: Any, packed: Any, parents: tuple[Ref, ...], results: list[Any], args: Any) -> None:
        layer = self.sightings.layer if self.sightings else ""
        where = f"in '{layer}'" if layer else "in the network's forward method"
        tags = getattr(func, "tags", ())
        if not all(v is None or isinstance(v, Tensor) for v in results) or torch.Tag.data_dependent_output in tags:
            raise Untraceable(f"{func._schema.name} reads values of the feature maps {where}")
        for value, write in zip(args, _writes(func), strict=False):
            if write and isinstance(value, Tensor):
                if not any(value is r for r in results):
                    raise Untraceable(f"{func._schema.name} writes into its argument {where}")
                self.written[value.untyped_storage().data_ptr()] = self.clock
        shapes = tuple(tuple(v.shape) if isinstance(v, Tensor) else () for v in results)
        floating = isinstance(results[0], Tensor) and results[0].is_floating_point()
        self.steps.append(Step(func, packed[0], packed[1], parents, shapes, floating, layer))
        for index, value in enumerate(results):
            if isinstance(value, Tensor):
                self.seen[value] = (self.clock, Ref(len(self.steps) - 1, index))

    def _check_current(self, tensor: Tensor) -> None:
        if not self.written or tensor.layout is not torch.strided:
            return
        clock = self.seen.get(tensor, (0, None))[0]
        if self.written.get(tensor.untyped_storage().data_ptr(), -1) > clock and prod(tensor.shape):
            layer = self.sightings.layer if self.sightings else ""
            raise Untraceable(f"a tensor is written through a second view of it in '{layer or 'the forward method'}'")
