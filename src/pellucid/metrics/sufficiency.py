"""Sufficiency (DeYoung et al. 2020, ERASER, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.metrics.removal import Baseline, fall
from pellucid.targets import Target


def sufficiency(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str = "multiclass",
    *,
    shares: Sequence[float] = (0.01, 0.05, 0.1, 0.2, 0.5),
    baseline: Baseline = "blur",
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """Mean over shares k of f(x) - f(the k highest samples alone): how much the answer falls when only these are seen.

    0 where they suffice, negative where the answer grows without the rest. Lower is better.
    "probability" is ERASER's, from -1 to 1; "log_odds" does not saturate (nan where the target has no probability).
    shares: of the samples, as in the paper (which divides by one more than their number, for k = 0; this is the mean).
    baseline: what stands where nothing is shown (see `inputs.baseline`), by default a blurred copy as for `insertion`:
    samples alone on one colour are a sight of their own, and even random ones can then "suffice".
    batch_size: changed inputs per pass. generator: draws the order of equal samples; without it that of the array.

    A blurred or large map shows a connected piece of the input, which networks read more easily than scattered samples:
    compare with the blurred random control. nan where the map is not finite.
    """
    return fall(
        call, x, target, pixels, task,
        reveal=True, shares=shares, baseline=baseline, batch_size=batch_size, generator=generator,
    )  # fmt: skip
