"""From what a user writes to a target: a number, a name, one per input, two of them against each other, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import TargetError, nearest
from pellucid.targets.classes import ClassTarget, ContrastTarget, OneVsRestTarget, RegressionTarget, SingleLogitTarget
from pellucid.targets.protocol import AGAINST, TASKS, Target, Task, pick, plain
from pellucid.targets.several import SeveralTargets

_REST = ("the rest", "rest")


def parse(target: Any, *, task: Task | None = None, classes: Sequence[str] | None = None) -> PendingTarget | Target:
    """What the user means by a class number, a class name, a list of them, a Target, or nothing.

    "A against B" is the contrast of two classes, "A against the rest" one of them against all others; A and B are
    names or numbers. A class whose own name reads like that is that class.
    """
    if isinstance(target, OneVsRestTarget) and task in ("multilabel", "regression"):
        raise _no_rest(task)
    if isinstance(target, SeveralTargets):
        members = target.members
        each = None if members is None else tuple(parse(member, task=task, classes=classes) for member in members)
        return SeveralTargets(each, target.task or task)
    if hasattr(target, "resolve"):
        return target  # type: ignore[no-any-return]
    return PendingTarget(target, task, tuple(classes) if classes is not None else None)


@dataclass(frozen=True)
class PendingTarget:
    """A class, name or nothing, to be understood once the output's shape is known."""

    wanted: Any = None
    task: Task | None = None
    names: tuple[str, ...] | None = None

    def resolve(self, output: Any) -> Target:
        task = self.task or default_task(output)
        if task not in TASKS:
            raise TargetError(f"There is no task '{task}'.", hint=nearest(task, TASKS))
        against = self._against(task)
        if against is not None:
            return against.resolve(output)
        if task == "regression":
            return RegressionTarget(int(self._index(self.wanted) or 0)).resolve(output)
        if task == "binary" and not (isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1):
            return SingleLogitTarget(self._positive()).resolve(output)
        return ClassTarget(self._index(self.wanted)).resolve(output)

    def _against(self, task: Task) -> ContrastTarget | OneVsRestTarget | None:
        """The two sides of "A against B" or "A against the rest"; None for a target in other words."""
        names = self.names or ()
        if not isinstance(self.wanted, str) or AGAINST not in self.wanted or self.wanted in names:
            return None
        a, b = self._sides(self.wanted)
        if b in _REST and b not in names:
            if task in ("multilabel", "regression"):
                raise _no_rest(task)
            return OneVsRestTarget(self._by_name(a))
        return ContrastTarget(self._by_name(a), self._by_name(b))

    def _sides(self, wanted: str) -> tuple[str, str]:
        """Where the words part; a class's name may hold the word between them itself."""
        pieces = wanted.split(AGAINST)
        ways = [(AGAINST.join(pieces[:k]), AGAINST.join(pieces[k:])) for k in range(1, len(pieces))]
        known = {*(self.names or ()), *_REST}
        return max(ways, key=lambda sides: sum(side in known for side in sides))

    def _index(self, wanted: Any) -> Any:
        if wanted is None or isinstance(wanted, Tensor):
            return wanted
        if isinstance(wanted, Integral):
            return int(wanted)
        if isinstance(wanted, str):
            return self._by_name(wanted)
        return torch.tensor([self._by_name(w) if isinstance(w, str) else int(w) for w in wanted])

    def _positive(self) -> Any:
        """For a single logit, 1 or the second (or only) name is the positive answer and 0 or the first the negative."""
        if isinstance(self.wanted, str) and self.names is not None and len(self.names) == 1:
            return self._by_name(self.wanted) == 0
        index = self._index(self.wanted)
        if index is None:
            return None
        wrong = torch.as_tensor(index).reshape(-1)
        if bool(((wrong != 0) & (wrong != 1)).any()):
            raise TargetError(
                f"There is no class {self.wanted}.",
                why="The network has a single logit.",
                hint="1 is its positive answer, 0 its negative one.",
            )
        return torch.as_tensor(index).bool() if isinstance(index, Tensor) and index.ndim else bool(index)

    def _by_name(self, name: str) -> int:
        if name.lstrip("-").isdecimal() and (self.names is None or name not in self.names):
            return int(name)
        if self.names is None:
            raise TargetError(
                f"The class '{name}' cannot be found.",
                why="The network's class names are not known.",
                hint="Pass classes=[...], or the class number.",
            )
        if name not in self.names:
            raise TargetError(f"There is no class '{name}'.", hint=nearest(name, self.names))
        return self.names.index(name)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        return self.resolve(output)(output)

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        return self.resolve(output).weights(output)

    def rows(self, index: Tensor) -> PendingTarget:
        if isinstance(self.wanted, list | tuple):
            return replace(self, wanted=[self.wanted[int(i)] for i in index])
        return replace(self, wanted=pick(self.wanted, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return "predicted class" if self.wanted is None else str(self.wanted)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "pending", "wanted": plain(self.wanted)}


def default_task(output: Any) -> Task:
    """One output column is a single logit, more are classes that exclude each other. Anything else must be said."""
    if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1:
        return "multiclass"
    if isinstance(output, Tensor) and (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
        return "binary"
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise TargetError(
        f"It is not clear what to explain in an output of {shape}.",
        why="Logits (batch, classes) or one value per input explain themselves; this does not.",
        hint="Pass target=RegionTarget(...) for maps of logits, BoxTarget(...) for detections, or output= to pick the logits.",
    )


def default_task_or_none(output: Any) -> Task | None:
    """What an output explains by itself; None where that must be said."""
    try:
        return default_task(output)
    except TargetError:
        return None


def _no_rest(task: str) -> TargetError:
    return TargetError(
        f"A {task} output has no rest to be against.",
        why="Its outputs do not share one probability: labels answer one by one, values are no classes.",
        hint="Explain the output itself: its number or name.",
    )


def check_count(target: Target, count: int) -> None:
    """Raise `TargetError` for a target that is given per input, but for another number of inputs."""
    if isinstance(target, SeveralTargets):
        for member in target.members or ():
            check_count(member, count)
        return
    for name, value in vars(target).items():
        given = (
            len(value) if isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.ndim > 0) else count
        )
        if name in ("wanted", "classes", "a", "b", "positive") and given != count:
            raise TargetError(
                f"There are {given} targets for {count} inputs.",
                why="One target for all inputs or one for each is needed.",
                hint="Give a single target, or as many as there are inputs.",
            )
