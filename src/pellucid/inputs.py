"""Explaining at the input itself: the score's gradient there, one value per place, and changed copies of the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid import hooks, spatial
from pellucid.call import Call
from pellucid.errors import OptionError, nearest
from pellucid.explanation import Attribution
from pellucid.feature_map import full_precision
from pellucid.spatial import Geometry
from pellucid.targets import Target

Reduce: TypeAlias = Literal["abs_max", "sum", "none"]
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs_max": lambda values: values.abs().amax(1),
    "sum": lambda values: values.sum(1),
    "none": lambda values: values,
}

Baseline: TypeAlias = "Literal['zero', 'mean', 'blur'] | float | Float[Tensor, '...']"
BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "mean": lambda x: x.flatten(2).mean(2).view(*x.shape[:2], *(1,) * (x.ndim - 2)).expand_as(x),
    "blur": spatial.blur,
}


def check_reduction(reduce: str) -> None:
    """Raise `OptionError` for a way to make one value of the channels that does not exist."""
    if reduce not in REDUCTIONS:
        raise OptionError(f"There is no reduction '{reduce}'.", hint=nearest(reduce, REDUCTIONS))


def check_counts(**counts: int) -> None:
    """Raise `OptionError` for a number of steps, samples or rows that is not a positive whole number."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise OptionError(f"{name}={value} is not possible.", hint=f"Give {name} as a whole number from 1 up.")


@dataclass(frozen=True)
class SeenInput:
    """What the network made of the inputs as they are: its output, without a graph, and what is explained of it."""

    output: Any
    target: Target

    def attribution(
        self, values: Float[Tensor, "batch channels *spatial"], reduce: str, constant: Tensor | None = None
    ) -> Attribution:
        """The map of one value per channel and place, reduced to one per place (none: as it is)."""
        cells = REDUCTIONS[reduce](full_precision(values.detach()))
        return Attribution(cells, Geometry.of_samples(values.shape[2:]), self.output, self.target, constant=constant)


@dataclass(frozen=True)
class SlopedInput(SeenInput):
    """`slope`: the gradient of each input's score with respect to the input, in float32 at least."""

    slope: Float[Tensor, "batch channels *spatial"]


def observe(call: Call, x: Tensor, target: Target) -> SeenInput:
    """One forward pass without a graph."""
    with torch.inference_mode(False), torch.no_grad():
        output = hooks.detached(call(x.clone()))  # a copy, since the network may work on its input in place
        return SeenInput(output, target.resolve(output))


def differentiate(call: Callable[[Tensor], Any], x: Tensor, target: Target) -> SlopedInput:
    """One forward pass and one backward pass down to the input; no parameter gets a gradient. `call`: what runs it.

    Raises `LayerError` where the score does not depend on the input.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        output = call(leaf.clone())
        decided = target.resolve(output)
        slope = hooks.gradient(decided(output), leaf, "the input")
    return SlopedInput(hooks.detached(output), decided, full_precision(slope))


def pass_size(x: Float[Tensor, "batch channels *spatial"], batch_size: int | None) -> int:
    """How many changed inputs run through the network at a time: `batch_size`, or a number that suits the machine.

    On a CPU that is about 2.5 MB of inputs, 32 at most (4 colour images of 224 x 224): the feature maps of more are
    allocated anew in every pass and cost more than they save. Elsewhere it is 64.
    Raises `OptionError` for an impossible size.
    """
    if batch_size is None:
        size = x[0].numel() * x.element_size()
        return min(32, max(1, round(2.5e6 / size))) if x.device.type == "cpu" else 64
    check_counts(batch_size=batch_size)
    return batch_size


def passes(
    copies: int, batch: int, batch_size: int
) -> Iterator[tuple[Int[Tensor, "rows"], tuple[Int[Tensor, "part"], ...]]]:
    """How `copies` changed versions of each of `batch` inputs go through the network, at most `batch_size` at a time.

    Gives, for some of the inputs (rows), the numbers of their copies in parts, in order. Each part is one pass.
    """
    check_counts(batch_size=batch_size)
    for rows in torch.split(torch.arange(batch), batch_size):
        yield rows, torch.split(torch.arange(copies), max(1, batch_size // len(rows)))


def scores(
    call: Call, changed: Float[Tensor, "copies rows channels *spatial"], target: Target, rows: Int[Tensor, "rows"]
) -> Float[Tensor, "copies rows"]:
    """The scores of changed inputs in one forward pass; `rows` says of which inputs they are versions."""
    index = rows.repeat(len(changed))
    with torch.no_grad():
        found = target.rows(index)(call.rows(index)(changed.flatten(0, 1)))
    return full_precision(found).view(changed.shape[:2])


def slopes(
    call: Call, changed: Float[Tensor, "copies rows channels *spatial"], target: Target, rows: Int[Tensor, "rows"]
) -> Float[Tensor, "copies rows channels *spatial"]:
    """The gradients of the scores of changed inputs at these, in one forward and one backward pass."""
    with torch.inference_mode(False):
        index = rows.repeat(len(changed))
        seen = differentiate(call.rows(index), changed.flatten(0, 1), target.rows(index))
    return seen.slope.view(changed.shape)


def baseline(x: Float[Tensor, "batch channels *spatial"], kind: Baseline) -> Float[Tensor, "batch channels *spatial"]:
    """What stands for "nothing there", for every input.

    "zero": 0 in the network's own units, the data's mean where inputs are normalised. "mean": each channel's mean over
    the input. "blur": the input blurred with a standard deviation of a twentieth of each side. A number: that number. A
    tensor: one value per channel, or anything that broadcasts to (channels, *spatial).
    Raises `OptionError` for another word or shape.
    """
    if isinstance(kind, str):
        if kind not in BASELINES:
            raise OptionError(f"There is no baseline '{kind}'.", hint=nearest(kind, BASELINES))
        return BASELINES[kind](x)
    values = torch.as_tensor(kind).to(x)
    if values.shape == x.shape[1:2]:
        values = values.view(-1, *(1,) * (x.ndim - 2))
    try:
        return values.expand_as(x)
    except RuntimeError as error:
        raise OptionError(
            f"The baseline has shape {tuple(values.shape)}.",
            why=f"The inputs have {tuple(x.shape[1:])}.",
            hint="Give one value per channel, or a baseline of an input's shape for all of them.",
        ) from error
