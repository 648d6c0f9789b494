"""One number out of logits: a class, one against another or against all others, a single logit, a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.errors import TargetError
from pellucid.targets.protocol import AGAINST, Target, Task, name_of, one_value, pick, plain, two_axes


@dataclass(frozen=True)
class ClassTarget:
    """The logit of a class per input. `classes`: one for all, one per input, or None for the predicted one."""

    classes: int | Int[Tensor, "batch"] | None = None

    def resolve(self, output: Any) -> ClassTarget:
        logits = two_axes(output)
        if self.classes is None:
            return ClassTarget(logits.detach().argmax(1).cpu())
        index = torch.as_tensor(self.classes).cpu().long()
        if index.ndim == 0:
            index = index.repeat(len(logits))
        if len(index) != len(logits):
            raise TargetError(
                f"There are {len(index)} targets for {len(logits)} inputs.",
                why="One target for all inputs or one for each is needed.",
                hint="Give a single class, or as many as there are inputs.",
            )
        wrong = index[(index < 0) | (index >= logits.shape[1])]
        if len(wrong):
            raise TargetError(
                f"There is no class {int(wrong[0])}.",
                why=f"The network has {logits.shape[1]} classes.",
                hint=f"Choose 0 to {logits.shape[1] - 1}.",
            )
        return ClassTarget(index)

    def index(self, output: Any) -> Int[Tensor, "batch"]:
        resolved = self.resolve(output).classes
        assert isinstance(resolved, Tensor)
        return resolved.to(output.device)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        return two_axes(output).gather(1, self.index(output)[:, None])[:, 0]

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        return torch.nn.functional.one_hot(self.index(output), two_axes(output).shape[1]).to(output)

    def rows(self, index: Tensor) -> ClassTarget:
        return ClassTarget(pick(self.classes, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return "predicted class" if self.classes is None else name_of(self.classes, classes, row)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "class", "classes": plain(self.classes)}


@dataclass(frozen=True)
class ContrastTarget:
    """The log-odds of class a against class b: logit a minus logit b. For two softmax classes, log(p_a / p_b)."""

    a: int | Int[Tensor, "batch"]
    b: int | Int[Tensor, "batch"]

    def resolve(self, output: Any) -> ContrastTarget:
        a, b = ClassTarget(self.a).resolve(output).classes, ClassTarget(self.b).resolve(output).classes
        assert a is not None
        assert b is not None
        return ContrastTarget(a, b)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        return ClassTarget(self.a)(output) - ClassTarget(self.b)(output)

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        return ClassTarget(self.a).weights(output) - ClassTarget(self.b).weights(output)

    def rows(self, index: Tensor) -> ContrastTarget:
        return ContrastTarget(pick(self.a, index), pick(self.b, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return f"{name_of(self.a, classes, row)}{AGAINST}{name_of(self.b, classes, row)}"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "contrast", "a": plain(self.a), "b": plain(self.b)}


@dataclass(frozen=True)
class OneVsRestTarget:
    """The log-odds of a class against all others together: log(p / (1 - p)) of its softmax probability p.

    With logits y and pi the softmax over the other classes alone, exactly

        log(p_c / (1 - p_c)) = y_c - sum_{k != c} pi_k y_k - H(pi)

    so the others enter with the weights pi, and `offset` is -H(pi), minus their entropy in nats. pi and H(pi) are those
    of the output at hand: as a statement on maps the score is linear at this input only. With two classes pi is 1 and
    the entropy 0: the contrast of the two. `classes`: one for all, one per input, or None for the predicted one.
    """

    classes: int | Int[Tensor, "batch"] | None = None

    def resolve(self, output: Any) -> OneVsRestTarget:
        if two_axes(output).shape[1] < 2:
            raise TargetError(
                "One class against the rest needs at least two classes.",
                why="The network has a single logit, which is a log-odds already.",
                hint="Use SingleLogitTarget.",
            )
        return OneVsRestTarget(ClassTarget(self.classes).resolve(output).classes)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        own, others = self._parted(output)
        return own - others.logsumexp(1)

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        weights: Tensor = ClassTarget(self.classes).weights(output) - self._parted(output)[1].softmax(1)
        return weights

    def offset(self, output: Tensor) -> Float[Tensor, "batch"]:
        """-H(pi) in nats."""
        rest = self._parted(output)[1].softmax(1)
        entropy: Tensor = -torch.special.xlogy(rest, rest).sum(1)
        return -entropy

    def _parted(self, output: Any) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch classes"]]:
        """The class's logit, and the logits with minus infinity in its place; in float32 at least."""
        chosen = ClassTarget(self.resolve(output).classes)
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        return chosen(output), output.masked_fill(chosen.weights(output).bool(), -torch.inf)

    def rows(self, index: Tensor) -> OneVsRestTarget:
        return OneVsRestTarget(pick(self.classes, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        name = "predicted class" if self.classes is None else name_of(self.classes, classes, row)
        return f"{name}{AGAINST}the rest"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "one_vs_rest", "classes": plain(self.classes)}


@dataclass(frozen=True)
class SingleLogitTarget:
    """The one output of a sigmoid head, as log-odds of what it decided.

    positive: True explains the positive answer, False the negative one (score = -logit), None what the network says,
    so that a confident "no" is explained as "no". One answer for all inputs, or one per input.
    """

    positive: bool | Bool[Tensor, "batch"] | None = None

    def resolve(self, output: Any) -> SingleLogitTarget:
        logits = one_value(output)
        if self.positive is None:
            return SingleLogitTarget((logits.detach() >= 0).cpu())
        positive = torch.as_tensor(self.positive).cpu()
        if positive.ndim == 0:
            positive = positive.repeat(len(logits))
        if len(positive) != len(logits):
            raise TargetError(
                f"There are {len(positive)} targets for {len(logits)} inputs.",
                hint="Give one for all, or one for each.",
            )
        return SingleLogitTarget(positive.bool())

    def _sign(self, output: Any) -> Float[Tensor, "batch"]:
        positive = self.resolve(output).positive
        assert isinstance(positive, Tensor)
        return positive.to(output) * 2 - 1

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        return one_value(output) * self._sign(output)

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        weights: Tensor = self._sign(output)[:, None]
        return weights

    def rows(self, index: Tensor) -> SingleLogitTarget:
        return SingleLogitTarget(pick(self.positive, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        if self.positive is None:
            return "the network's answer"
        positive = bool(torch.as_tensor(self.positive).reshape(-1)[row if isinstance(self.positive, Tensor) else 0])
        if classes is not None and len(classes) == 2:
            return classes[int(positive)]
        name = classes[0] if classes else "positive"
        return name if positive else f"not {name}"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "single_logit", "positive": plain(self.positive)}


@dataclass(frozen=True)
class RegressionTarget:
    """One output value of a regression, in its own unit."""

    index: int = 0

    def resolve(self, output: Any) -> RegressionTarget:
        columns = 1 if output.ndim == 1 else two_axes(output).shape[1]
        if not 0 <= self.index < columns:
            raise TargetError(
                f"There is no output {self.index}.",
                why=f"The network has {columns}.",
                hint=f"Choose 0 to {columns - 1}.",
            )
        return self

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        self.resolve(output)
        column: Tensor = output if output.ndim == 1 else output[:, self.index]
        return column

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        columns = output[:, None] if output.ndim == 1 else output
        weights = torch.zeros_like(columns)
        weights[:, self.index] = 1
        return weights

    def rows(self, index: Tensor) -> RegressionTarget:
        return self

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return classes[self.index] if classes else f"output {self.index}"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "regression", "index": self.index}


def offset(target: Target, output: Tensor) -> Float[Tensor, "batch"]:
    """What a target adds to the weighted outputs, in the score's units: sum_c weights_c output_c + offset = score.

    Zero for a target that is linear in the outputs; one against the rest has minus the entropy of the rest.
    """
    own = getattr(target, "offset", None)
    found: Tensor = output.new_zeros(len(output)) if own is None else own(output)
    return found


def gauge_free(target: Target, output: Any, task: Task | None = None) -> Target:
    """For one of two softmax classes the contrast with the other: the one question that a softmax head answers.

    Softmax ignores whatever is added to all classes, so the sign of one class's raw map means nothing; with two
    classes only the difference is seen by the network. All other targets stay as they are.
    """
    own = getattr(target, "gauge_free", None)
    if own is not None:
        several: Target = own(output, task)
        return several
    two = isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == 2
    if two and isinstance(target, ClassTarget) and (task or "multiclass") in ("multiclass", "binary"):
        index = target.resolve(output).classes
        assert isinstance(index, Tensor)
        return ContrastTarget(index, 1 - index)
    return target
