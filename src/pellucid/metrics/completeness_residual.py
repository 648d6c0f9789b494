"""Do the parts of an explanation add up to the score?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.explanation import Explanation


def completeness_residual(explanation: Explanation) -> Float[Tensor, "batch"]:
    """|score - (cells + constant + common)| / max(1, |score|), for methods that promise to add up.

    The score comes from the network's forward pass and the parts from the evidence, so this is a measurement. Methods
    whose maps rank places only make no such promise and give nan.
    """
    score = explanation.score.detach().double()
    if not explanation.complete:
        return torch.full_like(score, torch.nan)
    return explanation.contributions().residual.detach().double().abs() / score.abs().clamp_min(1)
