"""Why a head is not linear in a pooled feature map, in words: which layer stands in the way, and what can be done."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import nn

from pellucid.errors import ConversionError
from pellucid.models.capture import CapturePoint
from pellucid.models.head import Reading
from pellucid.models.trace import Ref, Step, Trace


class TokenHead(ConversionError):
    """Single tokens carry the decision; there is nothing that a map could show."""


def refuse_curved(reading: Reading, reason: Callable[[], tuple[str, str]], place: str) -> None:
    """Raise for a tail that is curved, reads single tokens, or weighs places differently."""
    if reading.affine and reading.used <= 2 and reading.places >= 4 and reading.channel_axis is None:
        which = "a class token reads the map by attention" if reading.used else "the output does not depend on it"
        raise TokenHead(
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


def place_of(point: CapturePoint | None, step: Step) -> str:
    """Words for where a tensor comes by."""
    return str(point) if point is not None else f"the result of {step.name} in '{step.layer or 'forward'}'"


def reason_of(traced: Trace, cut: Ref, model: nn.Module) -> tuple[str, str]:
    """Which layer stands in the way, and what can be done."""
    steps = traced.after(cut)
    curved = next((s for s in steps if is_curved(s)), None)
    if curved is None:
        return (
            "The head weighs places differently, so there is no evidence layer that fits every place.",
            "Use average pooling over the whole map before the classifier.",
        )
    hint = "Only heads that are linear after pooling convert exactly."
    if prod(traced.shape(cut)[2:]) == 1 and any(s.name == "mean" or "avg_pool" in s.name for s in steps):
        hint = "At this input size the map has a single cell even before the pooling: give a larger example."
    return (
        f"The head is not linear: {curved.name} in {layer_of(model, curved.layer)} lies between the feature map and the logits.",
        hint,
    )


def layer_of(model: nn.Module, name: str) -> str:
    """Words for a layer: its name and type."""
    return (
        f"'{name}' ({type(model.get_submodule(name)).__name__})"
        if name
        else f"the forward method of {type(model).__name__}"
    )


def refuse_flattened(traced: Trace, cut: Ref, model: nn.Module) -> None:
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
                f"{layer_of(model, reader.layer)} reads the whole {' x '.join(map(str, before[2:]))} grid, flattened.",
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


def is_curved(step: Step) -> bool:
    """Whether an operation is not linear in what stems from the feature map."""
    if step.name in ("mul", "bmm", "mm", "matmul", "addmm", "convolution"):
        return len(step.parents) > 1
    if step.name == "div":
        return len(step.args) > 1 and isinstance(step.args[1], Ref)
    return step.name not in _STRAIGHT and "avg_pool" not in step.name
