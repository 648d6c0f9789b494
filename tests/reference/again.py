"""Explanations that are made anew, for metrics that ask for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.contracts import Case
from pellucid.explanation import Explanation
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget, Target


def case(model: nn.Module, x: Tensor, target: Any, method: str, labels: Any = None, **options: Any) -> Case:
    """A case of a network's own explanation; its own `again` explains in the same way."""
    explanation = pl.explain(model, x, target, method=method, **options)
    own = explanation.target

    def again(*, x: Tensor = x, model: nn.Module = model, target: Target = own) -> Explanation:
        with torch.enable_grad():
            return pl.explain(model, x, target, method=method, **options)

    samples = [Sample(v, label=None if labels is None else labels[i]) for i, v in enumerate(x)]
    call = Call(model, batch=len(x))
    return Case(explanation, samples, x, call, own, torch.Generator().manual_seed(0), again=again)


def score(metric: Callable[..., Any], given: Case, **options: Any) -> Any:
    """The metric with what it asks for, with chance of its own and under no_grad as in `evaluate`."""
    given = replace(given, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return metric(**{**given.arguments(metric), **options})


def shown(map: Tensor, *, logits: Tensor | None = None, target: Target | None = None) -> Explanation:
    """An explanation with one cell per sample that is made up."""
    logits = torch.zeros(len(map), 3) if logits is None else logits
    target = ClassTarget(torch.zeros(len(map), dtype=torch.long)) if target is None else target
    return Explanation(map, Geometry.of_samples(map.shape[1:]), target, target(logits), logits, "made_up")
