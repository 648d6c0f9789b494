"""How many cells of a map count (effective complexity; Nguyen and Martinez 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import OptionError


def effective_cells(map: Float[Tensor, "batch *grid"], *, threshold: float = 0.05) -> dict[str, Float[Tensor, "batch"]]:
    """The number of cells whose size exceeds a share `threshold` of the largest, 0 to N; "share" is this number over N.

    Signs and scale do not matter. A map of zeros has none; one that is not finite gives nan. Few cells are easy to
    read, not right. Quantus counts above 1e-5 after dividing by the largest: nearly every cell of a map of floats.
    """
    if not 0 <= threshold < 1:
        raise OptionError(
            f"The threshold is {threshold}.",
            why="It is a share of the map's largest size.",
            hint="Give a number from 0 to below 1.",
        )
    sizes = map.detach().double().abs().flatten(1)
    count = (sizes > threshold * sizes.amax(1, keepdim=True)).sum(1).to(sizes)
    count = count.masked_fill(~sizes.isfinite().all(1), torch.nan)
    return {"": count, "share": count / sizes.shape[1]}
