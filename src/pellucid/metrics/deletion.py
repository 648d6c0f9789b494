"""The deletion curve (Petsiuk et al. 2018, section 4.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid import backends
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
    points: bool = False,
    baseline: Baseline = 0.0,
    batch_size: int | None = None,
    backend: backends.Backend | None = None,
    precision: backends.Precision | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """Areas under the curves of the answer while the samples highest in the map are removed first.

    "probability" is bounded but saturates; "log_odds" does not saturate (see `removal.log_odds` for what they mean for
    each target; nan where the target has no probability). The target is what is scored, whatever the map explains.
    steps: points on the curve besides the first, as far as the number of samples allows; each is one pass.
    points: give the curve's points too, as parts "probability_at_0.1" (the share dealt with so far), to be drawn.
    baseline: what is put in place of what is removed (see `inputs.baseline`): a number in the network's normalised input (0
    is the mean of the training data), or "blur" for a blurred copy of the input.
    batch_size: changed inputs per pass, which bounds the memory; by default a few megabytes of them. backend, precision: a
    fast way to run them ("compile", "onnxruntime"; "bf16"; see `backends.fast`).
    generator: draws the order of equal samples, so a flat map scores as a random one; without it they go in the order of
    the array, as in torch-cam and the authors' code.

    A low area means that the map named what the answer rests on. Removal leaves inputs that the network never saw, so
    compare with the random control. nan where the map is not finite.
    """
    return areas(
        call, x, target, pixels, task, reveal=False, steps=steps, points=points, baseline=baseline, batch_size=batch_size,
        backend=backend, precision=precision, generator=generator,
    )  # fmt: skip
