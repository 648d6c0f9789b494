"""Class evidence of a SoftCAM: the map that the logit is made of."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid import hooks, spatial, targets
from pellucid.call import Call
from pellucid.errors import OptionError, nearest
from pellucid.explanation import Attribution
from pellucid.targets import ClassTarget, SeveralTargets, Target, Task

GAUGES = ("free", "raw")


def evidence(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    gauge: Literal["free", "raw"] = "free",
    task: Task | None = None,
) -> Attribution:
    """What each cell adds to the score, in its units (logits): cells + constant + common = score.

    With raw evidence A_c, bias b_c and n cells the network computes logit_c = sum(A_c) / n + b_c; a cell adds A_c / n.
    (Djoumessi and Berens 2025: class-evidence layer followed by average pooling.)

    gauge: softmax ignores what is added to all classes alike, so the sign of one class's raw map is arbitrary. "free"
    explains one of two classes as the contrast with the other, and one of more by its evidence minus the mean over
    classes; what was taken out is `common`, the mean logit. "raw" leaves the class's own map. Both add up.
    Contrasts, one class against the rest, single logits, labels that do not exclude each other and regressions have no
    common part; one against the rest has minus the entropy of the rest in its constant.
    task: what the logits mean, where the network does not say.

    Raises `OptionError` for a network without evidence, `TargetError` for a target that is not linear in the logits.
    """
    if gauge not in GAUGES:
        raise OptionError(f"There is no gauge '{gauge}'.", hint=nearest(gauge, GAUGES))
    with torch.no_grad():
        found = call.evidence(x)
    output = call.select(found.output)
    _check_logits(output, found.logits)
    task = task or getattr(target, "task", None) or getattr(call.model, "task", None) or "multiclass"
    decided = target.resolve(output)
    decided = targets.gauge_free(decided, output, task) if gauge == "free" else decided
    maps, bias = found.maps, found.bias.to(torch.promote_types(found.bias.dtype, torch.float32))
    weights = decided.weights(output).to(bias)
    common = None
    shared = _shared(decided).to(bias)
    if gauge == "free" and task == "multiclass" and maps.shape[1] > 1 and bool(shared.any()):
        weights = weights - shared[..., None] / maps.shape[1]
        mean = maps.new_full(maps.shape[:2], 1 / maps.shape[1])
        average = spatial.combine(maps, mean).flatten(1).mean(1) + bias.mean(-1)
        common = average.view(-1, *(1,) * shared.ndim) * shared
    cells = spatial.combine(maps, weights) / found.positions
    constant = torch.einsum("b...c,bc->b...", weights, bias.expand(len(x), -1))
    constant = constant + targets.offset(decided, output).to(bias)
    return Attribution(cells, found.geometry, hooks.detached(output), decided, found.complete, constant, common)


def _shared(target: Target) -> Float[Tensor, "*targets"]:
    """1 for each target that is a class of its own, from which the mean over classes is taken, else 0."""
    if isinstance(target, SeveralTargets):
        return torch.stack([_shared(member) for member in target.each()])
    return torch.tensor(float(isinstance(target, ClassTarget)))


def _check_logits(output: Any, logits: Tensor) -> None:
    """The evidence makes up the logits; a selected output that is something else cannot be explained by it."""
    alike = isinstance(output, Tensor) and output.numel() == logits.numel()
    if not alike or not torch.allclose(output.view_as(logits).to(logits), logits, rtol=1e-2, atol=1e-3, equal_nan=True):
        raise OptionError(
            "The selected output is not the logits that the evidence adds up to.",
            why="`output` picks another part of what the network returns, or changes it.",
            hint="Leave out output=, or use a gradient method such as grad_cam.",
        )
