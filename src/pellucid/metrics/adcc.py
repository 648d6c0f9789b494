"""ADCC: average drop, coherency and complexity in one number (Poppi et al. 2021)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.contracts import Again
from pellucid.errors import OptionError
from pellucid.metrics.removal import Baseline, confidence, pearson, seen_through, unit, where_defined
from pellucid.targets import Target


def adcc(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    again: Again | None,
    task: str = "multiclass",
    *,
    baseline: Baseline = 0.0,
    batch_size: int | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - average drop)): the harmonic mean of three, with the three.

    "": 0 to 1, higher is better; 0 where one of the three is. "coherency" (higher is better): (r + 1) / 2 with Pearson's r
    between the map and the map of the input seen through it, which is explained again for the same target; r is 0 where
    one of them is flat. "complexity" (lower is better): mean of the map, 0 to 1. "average_drop" (lower is better): see there.
    All work on the map's positive part over its largest value: the sign of a map is lost.

    Never read the sum alone: a random map that stays the same for every input is perfectly coherent, and a single cell
    has no complexity. (pytorch-grad-cam's ARCC calls its harmonic mean geometric.) nan where the map is
    not finite or the target has no probability.

    Raises `OptionError` without `again`, the way to explain anew.
    """
    if again is None:
        raise OptionError(
            "adcc explains every input a second time and needs `again`.",
            why="A map that was not made by a method cannot be made anew.",
            hint="Use evaluate, or pass again=lambda x: pellucid.explain(model, x, ...).",
        )
    seen = seen_through(x, pixels, baseline)
    first, second = unit(pixels).flatten(1), unit(again(x=seen).at_input_size().to(pixels.device)).flatten(1)
    coherency, complexity = (pearson(first, second).nan_to_num(0) + 1) / 2, first.mean(1)
    before, after = confidence(call, x, target, pixels, task, baseline=baseline, batch_size=batch_size)
    drop = (before - after).clamp_min(0) / before
    whole = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))
    return where_defined({"": whole, "coherency": coherency, "complexity": complexity, "average_drop": drop}, pixels)
