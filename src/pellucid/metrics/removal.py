"""What deletion and insertion share: the network's answer while places are taken from the input one share at a time."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid import spatial
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.targets import ClassTarget, ContrastTarget, OneVsRestTarget, SingleLogitTarget, Target

Baseline: TypeAlias = float | Literal["blur"]


def areas(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str,
    *,
    reveal: bool,
    steps: int,
    baseline: Baseline,
    batch_size: int,
) -> dict[str, Float[Tensor, "batch"]]:
    """Areas under the curves of the answer's probability and log-odds against the share of samples dealt with.

    Samples are dealt with from the highest value of the map downwards, equal ones in the order of the array: removed
    from the input, or shown on the baseline (`reveal`). The trapezoid rule runs over the actual shares, so steps that
    do not divide the number of samples are no distortion. What is followed is the target's answer on the whole input,
    decided once. Images and steps run through the network together, `batch_size` at a time.
    """
    spatial.check_same_size(pixels, x[:, 0], "input")
    if steps < 1 or batch_size < 1:
        raise OptionError(
            "steps and batch_size must be at least 1.",
            why=f"They are {steps} and {batch_size}.",
            hint="Give positive numbers.",
        )
    counts = _counts(pixels[0].numel(), steps)
    rank, other = _ranks(pixels), _baseline(x, baseline)
    with torch.no_grad():
        target = target.resolve(call(x))
        image = torch.arange(len(x)).repeat_interleave(len(counts))
        count = counts.repeat(len(x)).to(x.device)
        followed = []
        for part in torch.split(torch.arange(len(image)), batch_size):
            rows = image[part]
            dealt = rank[rows] < spatial.expand(count[part], pixels)
            shown = (dealt if reveal else ~dealt)[:, None]
            output = call.rows(rows)(torch.where(shown, x[rows], other[rows]))
            followed.append(log_odds(target.rows(rows), output, task))
        curve = torch.cat(followed).view(len(x), len(counts))
    share = (counts / counts[-1]).to(curve)
    undefined = ~pixels.flatten(1).isfinite().all(1)
    found = {"probability": curve.sigmoid(), "log_odds": curve}
    return {name: torch.trapezoid(y, share, dim=1).masked_fill(undefined, torch.nan) for name, y in found.items()}


def log_odds(target: Target, output: Tensor, task: str) -> Float[Tensor, "batch"]:
    """The log-odds of the answer that the target speaks of; its sigmoid is the answer's probability.

    One of several classes, or one against the rest: against all others together (softmax). A contrast: class a, given that it is a or b.
    A single logit or one of several labels: the logit itself, with the sign of the answer. Other targets have no
    probability: nan.
    """
    score = target(output).double()
    if isinstance(target, ClassTarget) and task != "multilabel":
        chosen = target.weights(output).bool()
        return score - output.double().masked_fill(chosen, -torch.inf).logsumexp(1)
    known = isinstance(target, ClassTarget | ContrastTarget | OneVsRestTarget | SingleLogitTarget)
    return score if known else torch.full_like(score, torch.nan)


def _counts(n: int, steps: int) -> Int[Tensor, "points"]:
    """How many samples are dealt with at each point: none, then equal steps, all of them at last."""
    return torch.tensor([*range(0, n, -(-n // steps)), n])


def _ranks(pixels: Float[Tensor, "batch *size"]) -> Int[Tensor, "batch *size"]:
    """0 for the highest value of each map, 1 for the next."""
    order = pixels.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(pixels.shape)


def _baseline(x: Tensor, baseline: Baseline) -> Tensor:
    if baseline == "blur":
        return spatial.blur(x)
    if isinstance(baseline, int | float):
        return torch.full_like(x, baseline)
    raise OptionError(f"There is no baseline {baseline!r}.", hint="Give a number, or 'blur'.")
