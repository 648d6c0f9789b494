"""Several questions about every input at once, answered from the same passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.errors import TargetError
from pellucid.targets.classes import ClassTarget, RegressionTarget, SingleLogitTarget, gauge_free, offset
from pellucid.targets.protocol import Target, Task, two_axes


@dataclass(frozen=True)
class SeveralTargets:
    """Several targets of every input: scores `(batch, targets)`, maps `(batch, targets, *grid)`.

    members: targets, class numbers or names, each for all inputs or with one per input; None takes every class (every
    value of a regression). task: what the outputs mean, where their shape does not tell.
    """

    members: tuple[Any, ...] | None = None
    task: Task | None = None

    def __post_init__(self) -> None:
        if self.members is not None:
            object.__setattr__(self, "members", tuple(self.members))
            if not self.members:
                raise TargetError(
                    "There is no target among several.", hint="Give at least one, or SeveralTargets() for every class."
                )

    def resolve(self, output: Any) -> SeveralTargets:
        members: Sequence[Any] = self._every(output) if self.members is None else self.members
        targets = [member if hasattr(member, "resolve") else ClassTarget(member) for member in members]
        return replace(self, members=tuple(target.resolve(output) for target in targets))

    def _every(self, output: Any) -> list[Target]:
        if self.task == "regression":
            return [RegressionTarget(k) for k in range(1 if output.ndim == 1 else two_axes(output).shape[1])]
        if isinstance(output, Tensor) and (output.ndim == 1 or output.shape[1:] == (1,)):
            return [SingleLogitTarget()]
        return [ClassTarget(k) for k in range(two_axes(output).shape[1])]

    def each(self) -> tuple[Any, ...]:
        """The members, once they are known. Raises `TargetError` for every class of an output not seen yet."""
        if self.members is None:
            raise TargetError("Every class is meant, but not seen yet.", hint="Call resolve(output) first.")
        return self.members

    def _stacked(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values), dim=1)

    def _classes(self) -> Int[Tensor, "batch targets"] | None:
        """The class numbers where all members are plain classes, which can be looked up together."""
        found = [m.classes for m in self.each() if isinstance(m, ClassTarget) and isinstance(m.classes, Tensor)]
        return torch.stack(found, dim=1) if len(found) == len(self.each()) else None

    def __call__(self, output: Any) -> Float[Tensor, "batch targets"]:
        resolved = self.resolve(output)
        index = resolved._classes()
        if index is not None:
            return two_axes(output).gather(1, index.to(output.device))
        return self._stacked([member(output) for member in resolved.each()])

    def weights(self, output: Tensor) -> Float[Tensor, "batch targets classes"]:
        resolved = self.resolve(output)
        index = resolved._classes()
        if index is not None:
            return torch.nn.functional.one_hot(index.to(output.device), two_axes(output).shape[1]).to(output)
        return self._stacked([member.weights(output) for member in resolved.each()])

    def offset(self, output: Tensor) -> Float[Tensor, "batch targets"]:
        """What each member adds to its weighted outputs (see `targets.offset`)."""
        return self._stacked([offset(member, output) for member in self.resolve(output).each()])

    def gauge_free(self, output: Any, task: Task | None = None) -> SeveralTargets:
        """Each member in the question that a softmax head answers (see `targets.gauge_free`)."""
        members = self.resolve(output).each()
        return replace(self, members=tuple(gauge_free(member, output, task) for member in members))

    def rows(self, index: Tensor) -> SeveralTargets:
        if self.members is None:
            return self
        targets = [member if hasattr(member, "rows") else ClassTarget(member) for member in self.members]
        return replace(self, members=tuple(target.rows(index) for target in targets))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        if self.members is None:
            return "every class"
        targets = [member if hasattr(member, "describe") else ClassTarget(member) for member in self.members]
        return "; ".join(target.describe(classes, row) for target in targets)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "several", "members": [member.as_dict() for member in self.each()], "task": self.task}
