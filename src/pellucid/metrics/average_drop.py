"""Average drop (Chattopadhay et al. 2018, section 4.1)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.metrics.removal import Baseline, confidence
from pellucid.targets import Target


def average_drop(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str = "multiclass",
    *,
    baseline: Baseline = 0.0,
    batch_size: int | None = None,
) -> Float[Tensor, "batch"]:
    """max(0, Y - O) / Y: the share of the answer's probability Y that is lost when the input is seen through its map (O).

    0 to 1 (the paper's is in percent), lower is better; the mean over inputs is the paper's average. The input is shown
    times the map's positive part over its largest value, so a map without a positive value shows nothing.
    pytorch-grad-cam's DropInConfidence leaves out the division: 0.6 for a fall from 0.8 to 0.2, which is 0.75 here.
    baseline: what stands where nothing is shown (see `inputs.baseline`). batch_size: inputs per pass.

    Rewards size: a map that is 1 everywhere loses nothing. Look at `adcc` or `sparseness` beside it. nan where the target
    has no probability (a regression) or the map is not finite.
    """
    whole, part = confidence(call, x, target, pixels, task, baseline=baseline, batch_size=batch_size)
    return (whole - part).clamp_min(0) / whole
