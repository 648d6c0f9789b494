"""The architecture on one page: what meets what, and what it is called.

    Sample ── collate ──> x ── Call(model)(x) ──> output ── Target(output) ──> score
    method(call, x, target, **options) ──> Attribution ── explain adds provenance ──> Explanation
    metric(argument names out of a Case) ──> one number per input ──> Record rows ──> Table

Tensor names: x `(batch, channels, *spatial)` is what the network sees; a map `(batch, *grid)` has one value per cell;
`pixels` `(batch, *spatial)` is a map at the input's size; a mask `(batch, *spatial)` is truth.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.explanation import Attribution, Explanation
from pellucid.sample import Dataset, Facts, Sample, Subset
from pellucid.spatial import Geometry
from pellucid.targets import Target


class AttributionMethod(Protocol):
    """A pure function; options are keyword arguments with defaults, `layer` and `generator` among them where needed."""

    def __call__(self, call: Call, x: Tensor, target: Target, **options: Any) -> Attribution: ...


class Evidence(Protocol):
    """What a self-explaining network tells about one pass: `model.evidence(x)`.

    output: what the network returns. logits (batch, classes). maps (batch, classes, *grid): raw evidence without bias;
    its mean over the grid plus `bias`, (classes,) or (batch, classes), is the logit. positions: the number of cells.
    complete: False where that mean is near the logit only (a finer map).
    """

    output: Any
    logits: Tensor
    maps: Tensor
    bias: Tensor
    positions: int
    geometry: Geometry
    complete: bool


class Again(Protocol):
    """Explains other inputs, another network or another target in the way of the case: same method, options and seed.

    What is left out is that of the case. x has as many inputs as the case, or goes through `rows` of a target of its own.
    """

    def __call__(
        self, *, x: Tensor | None = None, model: nn.Module | None = None, target: Target | None = None
    ) -> Explanation: ...


# Per input one number, or named parts of one.
Values = Float[Tensor, "batch"] | Mapping[str, Float[Tensor, "batch"]]


@dataclass(frozen=True)
class Case:
    """Everything a metric may ask for, by argument name.

    explanation: the explained batch. x: its inputs. call: the network that is scored. target: what is scored of it.
    mask (batch, *spatial): truth. generator: the only source of chance. `map`, `pixels` and `geometry` are the
    explanation's. task: how logits become probabilities. again: explains anew, for metrics that ask whether the
    explanation stays or changes as it should.
    """

    explanation: Explanation
    samples: Sequence[Sample]
    x: Tensor
    call: Call
    target: Target
    generator: torch.Generator
    task: str = "multiclass"
    options: Mapping[str, Any] = field(default_factory=dict)
    again: Again | None = None

    @property
    def map(self) -> Tensor:
        return self.explanation.map

    @property
    def geometry(self) -> Geometry:
        return self.explanation.geometry

    @cached_property
    def pixels(self) -> Tensor:
        return self.explanation.at_input_size()

    @cached_property
    def mask(self) -> Bool[Tensor, "batch *spatial"]:
        """The truth of every input; empty where it is not known, which localisation metrics answer with "undefined".

        Raises `BadInput` for one of another size than the input.
        """
        for s in self.samples:
            s.check_mask()
        size = self.x.shape[2:]
        masks = [torch.zeros(size, dtype=torch.bool) if s.mask is None else s.mask for s in self.samples]
        return torch.stack(masks).to(self.x.device)

    def arguments(self, metric: Callable[..., Values]) -> dict[str, Any]:
        """The arguments a metric names in its signature: options where given, else what the case has of that name."""
        given = {}
        for name, parameter in inspect.signature(metric).parameters.items():
            if name in self.options:
                given[name] = self.options[name]
            elif parameter.default is inspect.Parameter.empty or name in _FIELDS:
                given[name] = getattr(self, name)
        return given


# Arguments with a default that the case fills all the same, because it knows better.
_FIELDS = frozenset({"generator", "task"})


__all__ = [
    "Again", "Attribution", "AttributionMethod", "Call", "Case", "Dataset", "Evidence", "Explanation", "Facts", "Geometry", "Sample", "Subset", "Target", "Values",
]  # fmt: skip
