"""What is being explained. A target turns the network's output into one number per input: the score.

Linear targets also say with which weights the classes enter the score, so that evidence maps, which exist for every
class, can be combined in the same way and add up to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.targets.classes import (
    ClassTarget,
    ContrastTarget,
    OneVsRestTarget,
    RegressionTarget,
    SingleLogitTarget,
    gauge_free,
    offset,
)
from pellucid.targets.parsing import PendingTarget, check_count, default_task, default_task_or_none, parse
from pellucid.targets.places import BoxTarget, RegionTarget
from pellucid.targets.protocol import TASKS, Target, Task
from pellucid.targets.several import SeveralTargets
from pellucid.targets.similarity import SimilarityTarget

_KINDS: dict[str, Any] = {
    "class": ClassTarget,
    "contrast": ContrastTarget,
    "one_vs_rest": OneVsRestTarget,
    "single_logit": SingleLogitTarget,
    "regression": RegressionTarget,
    "region": RegionTarget,
    "box": BoxTarget,
    "similarity": SimilarityTarget,
}


def from_dict(value: Mapping[str, Any]) -> Target:
    """The target that `as_dict` described (the mask of a region is not kept)."""
    if value["kind"] == "several":
        return SeveralTargets(tuple(from_dict(member) for member in value["members"]), value["task"])
    fields = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in value.items() if k != "kind"}
    target: Target = _KINDS[value["kind"]](**fields)
    return target


def join(parts: Sequence[Target]) -> Target:
    """One target for the inputs of several, in order. The parts are resolved and of one kind."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, SeveralTargets):
        members = zip(*(part.each() for part in parts if isinstance(part, SeveralTargets)), strict=True)
        return replace(first, members=tuple(join(each) for each in members))
    joined = {
        name: torch.cat([getattr(p, name) for p in parts])
        for name, value in vars(first).items()
        if isinstance(value, Tensor) and value.ndim > 0
    }
    return replace(first, **joined)  # type: ignore[type-var]


__all__ = [
    "TASKS", "BoxTarget", "ClassTarget", "ContrastTarget", "OneVsRestTarget", "PendingTarget", "RegionTarget", "RegressionTarget", "SeveralTargets", "SimilarityTarget",
    "SingleLogitTarget", "Target", "Task",
    "check_count", "default_task", "default_task_or_none", "from_dict", "gauge_free", "join", "offset", "parse",
]  # fmt: skip
