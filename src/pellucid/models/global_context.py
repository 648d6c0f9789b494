"""Which layers let every cell see the whole input: gates of squeeze-excitation, attention, normalisation over places."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from pellucid.models import dirac
from pellucid.models.trace import Ref, Step, Trace

_ATTENTION = ("_softmax", "_safe_softmax")


def global_context(trace: Trace, cut: Ref, model: nn.Module, rank: int) -> tuple[str, ...]:
    """The layers before `cut` that mix the whole input into every place, as "name (Type)", in the order they run.

    A layer is named where a tensor with places first meets what was drawn from all places at once: at the product with
    a gate, the softmax over places, the normalisation over places, the sum with mixed tokens. After an operation whose
    places are not known only attention is noticed.
    """
    needed = [i for i in trace.needed() if i <= cut.step]
    last = {ref.step: i for i in needed for ref in trace.steps[i].parents}
    seen: dict[Ref, dirac._Seen | None] = {}
    found: dict[str, None] = {}
    for i in needed:
        step = trace.steps[i]
        values = dirac._after(trace, step, seen, rank)
        if any(_mixes(step, value) for value in values):
            found[_named(step, model)] = None
        for output, value in enumerate(values):
            seen[Ref(i, output)] = None if value is None else replace(value, whole=False)
        for ref in [r for r in seen if last.get(r.step, cut.step) <= i]:
            del seen[ref]
    return tuple(found)


def _mixes(step: Step, value: dirac._Seen | None) -> bool:
    if value is None:
        return step.name in _ATTENTION or step.name.startswith("_scaled_dot_product")
    return value.whole and value.placed()


def _named(step: Step, model: nn.Module) -> str:
    if not step.layer:
        return f"the forward method ({type(model).__name__})"
    return f"{step.layer} ({type(model.get_submodule(step.layer)).__name__})"
