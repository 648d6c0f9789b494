"""The insertion curve (Petsiuk et al. 2018, section 4.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid import backends
from pellucid.call import Call
from pellucid.metrics.removal import Baseline, areas
from pellucid.targets import Target


def insertion(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str = "multiclass",
    *,
    steps: int = 10,
    points: bool = False,
    baseline: Baseline = "blur",
    batch_size: int | None = None,
    backend: backends.Backend | None = None,
    precision: backends.Precision | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """Areas under the curves of the answer while the samples highest in the map are shown first.

    "probability" is bounded but saturates; "log_odds" does not saturate (see `removal.log_odds` for what they mean for
    each target; nan where the target has no probability). The target is what is scored, whatever the map explains.
    steps: points on the curve besides the first, as far as the number of samples allows; each is one pass.
    points: give the curve's points too, as parts "probability_at_0.1" (the share dealt with so far), to be drawn.
    baseline: what the samples are shown on (see `inputs.baseline`): "blur" for a blurred copy of the input, or a number in
    the network's normalised input (0 is the mean of the training data).
    batch_size: changed inputs per pass, which bounds the memory; by default a few megabytes of them. backend, precision: a
    fast way to run them ("compile", "onnxruntime"; "bf16"; see `backends.fast`).
    generator: draws the order of equal samples, so a flat map scores as a random one; without it they go in the order of
    the array, as in torch-cam and the authors' code.

    A high area means that little of what the map named suffices for the answer. Partly shown inputs are new to the network,
    so compare with the random control. nan where the map is not finite.
    """
    return areas(
        call, x, target, pixels, task, reveal=True, steps=steps, points=points, baseline=baseline, batch_size=batch_size,
        backend=backend, precision=precision, generator=generator,
    )  # fmt: skip
