"""Local Lipschitz estimate (Alvarez-Melis and Jaakkola 2018, equation 1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.contracts import Again
from pellucid.explanation import Explanation
from pellucid.metrics.perturbed import perturbed


def local_lipschitz(
    explanation: Explanation,
    x: Float[Tensor, "batch channels *size"],
    again: Again,
    generator: torch.Generator,
    task: str = "multiclass",
    *,
    radius: float = 0.02,
    draws: int = 10,
) -> dict[str, Float[Tensor, "batch"]]:
    """max |E(x + d) - E(x)| / |d| over `draws` changes d of at most `radius` per value. 0 or more, lower is better.

    In the map's units per unit of the input, so methods of different units (logits, ranks) cannot be compared by it:
    halving a map halves its score. `max_sensitivity` is relative to the map. "same_answer" leaves out changes that change
    the network's answer (nan if all do). radius: in the network's normalised input. Costs one explanation per draw.
    """
    found = perturbed(explanation, x, again, task, generator, radius, draws)
    return found.largest(found.changes / found.sizes)
