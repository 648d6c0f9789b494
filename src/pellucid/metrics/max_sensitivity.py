"""Max-sensitivity (Yeh et al. 2019, definition 3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.contracts import Again
from pellucid.explanation import Explanation
from pellucid.metrics.perturbed import perturbed


def max_sensitivity(
    explanation: Explanation,
    x: Float[Tensor, "batch channels *size"],
    again: Again,
    generator: torch.Generator,
    task: str = "multiclass",
    *,
    radius: float = 0.02,
    draws: int = 10,
) -> dict[str, Float[Tensor, "batch"]]:
    """max |E(x + d) - E(x)| / |E(x)| over `draws` changes d of at most `radius` per value. 0 or more, lower is better.

    E is the map on its own grid, of the same target. "same_answer" leaves out changes that change the network's answer,
    where another map is right (nan if all do). A map of zeros gives nan. radius: in the network's normalised input.
    Costs one explanation per draw; Captum and Quantus explain x again for every draw or call.

    A map that never changes scores best, so edges and other maps that ignore the network do well. More draws can only
    raise the value.
    """
    found = perturbed(explanation, x, again, task, generator, radius, draws)
    size = explanation.map.detach().double().flatten(1).norm(dim=1, keepdim=True)
    return found.largest(found.changes / torch.where(size > 0, size, torch.nan))
