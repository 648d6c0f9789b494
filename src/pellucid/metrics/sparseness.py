"""Gini index of a map (Hurley and Rickard 2009, table I; Chalasani et al. 2020 for explanations)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.metrics.ranking import ascending


def sparseness(map: Float[Tensor, "batch *grid"]) -> Float[Tensor, "batch"]:
    """How unevenly the sizes of the map's values are spread: 1 - 2 sum_k a_k / |a|_1 (N - k + 1/2) / N, a_k ascending.

    0 where all values have one size, (N - 1) / N where a single one differs from 0. Signs do not matter. The number of
    cells enters, so compare maps of one grid. A map of zeros has no spread and gives nan. Sparse is not right: one
    cell anywhere is as sparse as can be. Quantus adds 1e-7 to every value, which flattens small maps.
    """
    sizes = ascending(map.detach().abs().flatten(1)).double()
    n = sizes.shape[1]
    weights = (n - torch.arange(1, n + 1, device=sizes.device, dtype=sizes.dtype) + 0.5) / n
    return 1 - 2 * (sizes @ weights) / sizes.sum(1)
