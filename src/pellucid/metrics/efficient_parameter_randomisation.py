"""Efficient model parameter randomisation test (Hedstrom et al. 2024, equation 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.contracts import Again
from pellucid.errors import OptionError
from pellucid.metrics.perturbed import needed
from pellucid.metrics.randomised import randomised


def efficient_parameter_randomisation(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    map: Float[Tensor, "batch *grid"],
    again: Again,
    generator: torch.Generator,
    *,
    bins: int = 100,
) -> Float[Tensor, "batch"]:
    """(H(random) - H(own)) / H(own): the relative rise of the entropy of the map's histogram when all weights are random.
    Higher is better: a map that depends on what was learned gets less orderly without it.

    H is taken over `bins` equal bins from the lowest to the highest value. Places do not enter, so a map that only moves
    has a rise of 0, and a method whose random maps are orderly for other reasons (coarse grids, dead rectifiers) falls. A flat
    map, whose entropy is 0, gives nan. The network itself is not touched. Costs one explanation.
    """
    again = needed(again)
    if bins < 2:
        raise OptionError(f"bins={bins}.", why="A histogram of one bin has no entropy.", hint="Give 2 or more.")
    (model,) = randomised(call, x, generator, points=1)
    own, other = _entropy(map, bins), _entropy(again(model=model).map, bins)
    return (other - own) / torch.where(own > 0, own, torch.nan)


def _entropy(map: Tensor, bins: int) -> Float[Tensor, "batch"]:
    """Entropy in nats of each map's histogram; nan where the map is not finite."""
    values = map.detach().double().flatten(1)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    places = ((values - low) / torch.where(high > low, high - low, 1) * bins).nan_to_num(0).long().clamp(0, bins - 1)
    counts = torch.zeros(len(values), bins, dtype=values.dtype, device=values.device)
    counts.scatter_add_(1, places, torch.ones_like(values))
    shares = counts / values.shape[1]
    found: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return found.masked_fill(~values.isfinite().all(1), torch.nan)
