"""The deletion curve (Petsiuk et al. 2018, section 4.1)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.metrics.removal import Baseline, areas
from pellucid.targets import Target


def deletion(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str = "multiclass",
    *,
    steps: int = 10,
    baseline: Baseline = 0.0,
    batch_size: int = 32,
) -> dict[str, Float[Tensor, "batch"]]:
    """Areas under the curves of the answer while the samples highest in the map are removed first.

    "probability" is bounded but saturates; "log_odds" does not saturate (see `removal.log_odds` for what they mean for
    each target; nan where the target has no probability). The target is what is scored, whatever the map explains.
    steps: points on the curve besides the first, as far as the number of samples allows.
    baseline: the value put in place of what is removed, in the network's normalised input (0 is the mean of the training
    data), or "blur" for a blurred copy of the input.
    batch_size: inputs per pass; an image takes steps + 1 of them.

    A low area means that the map named what the answer rests on. Removal leaves inputs that the network never saw, so
    compare with the random control.
    """
    return areas(call, x, target, pixels, task, reveal=False, steps=steps, baseline=baseline, batch_size=batch_size)
