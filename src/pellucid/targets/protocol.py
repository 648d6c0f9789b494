"""What every target owes, and what all of them need: axes, words, picking rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from pellucid.errors import TargetError

Task: TypeAlias = Literal["multiclass", "multilabel", "binary", "regression"]
TASKS: tuple[Task, ...] = ("multiclass", "multilabel", "binary", "regression")
AGAINST = " against "


@runtime_checkable
class Target(Protocol):
    """One scalar per input. Frozen; knows how to follow the inputs (`rows`) and how to say what it is."""

    def resolve(self, output: Any) -> Target:
        """The same target with everything decided that waited for the output (the predicted class)."""

    def __call__(self, output: Any) -> Float[Tensor, "batch"]: ...

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        """With which weights the outputs enter the score; `TargetError` where the score is not linear in them."""

    def rows(self, index: Tensor) -> Target: ...

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str: ...

    def as_dict(self) -> dict[str, Any]: ...


def two_axes(output: Any) -> Float[Tensor, "batch classes"]:
    """The output, once it is known to be logits of classes. Raises `TargetError`."""
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TargetError(
            f"The network's output is {shape}; classes need (batch, classes).",
            why="A class target picks one column of logits.",
            hint="Use RegionTarget for maps of logits, BoxTarget for detections, or pass output= to pick the logits.",
        )
    return output


def one_value(output: Any) -> Float[Tensor, "batch"]:
    """The output, once it is known to hold one value per input. Raises `TargetError`."""
    if isinstance(output, Tensor) and (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
        return output.reshape(-1)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise TargetError(
        "A single-logit target needs one output per input.",
        why=f"The output is {shape}.",
        hint="Use ClassTarget, or pass output=.",
    )


def not_linear(what: str) -> TargetError:
    """Why a score has no weights per class."""
    return TargetError(
        f"Evidence maps cannot be combined into {what}.",
        why="It is not a weighted sum of class logits.",
        hint="Use a method that needs no linear target, such as grad_cam.",
    )


def pick(value: Any, index: Tensor) -> Any:
    """The rows of what is given per input; what is given once stays."""
    if isinstance(value, list | tuple):
        return [value[i] for i in index.tolist()]
    return value[index.to(value.device)] if isinstance(value, Tensor) and value.ndim else value


def plain(value: Any) -> Any:
    """A value that JSON can hold."""
    return value.tolist() if isinstance(value, Tensor) else value


def name_of(index: int | Tensor, classes: Sequence[str] | None, row: int) -> str:
    """What a class is called, for one of the inputs."""
    number = int(index.reshape(-1)[row if index.ndim else 0]) if isinstance(index, Tensor) else index
    return classes[number] if classes is not None and number < len(classes) else f"class {number}"
