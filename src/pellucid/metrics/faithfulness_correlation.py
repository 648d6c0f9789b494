"""Faithfulness correlation (Bhatt et al. 2020, section 4.1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import inputs
from pellucid.call import Call
from pellucid.metrics.removal import Baseline, check_shares, contributions, copied, effects, pearson, where_defined
from pellucid.spatial import Geometry
from pellucid.targets import Target


def faithfulness_correlation(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
    task: str = "multiclass",
    *,
    subsets: int = 100,
    share: float = 0.1,
    baseline: Baseline = 0.0,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """Pearson's correlation, over random subsets S, of the map's sum over S with f(x) - f(x with S on the baseline).

    -1 to 1, higher is better; exactly 1 for weight x input on a linear network and a baseline of 0. f is the target's own
    score ("score"), the answer's "probability" (the paper's) or its "log_odds" (nan where the target has no probability).
    A cell's value is shared evenly among its own samples.
    subsets: how many, one pass each, the same for all inputs. share: of the samples that a subset has.
    baseline: what stands in a subset (see `inputs.baseline`). batch_size: changed inputs per pass.
    generator: by default a new one with seed 0; it is read but not moved on.

    Sums over many scattered samples are nearly the same for all subsets, and removing scattered samples harms the texture
    of an image wherever they lie: on large inputs the value is small and noisy, about 1 / sqrt(subsets) by chance.
    nan where the map is flat (no two subsets differ) or not finite, and where the answer never changes.
    Raises `OptionError` for impossible options, `BadInput` for a map of another size.
    """
    inputs.check_counts(subsets=subsets)
    check_shares((share,))
    source = copied(generator)
    seeds = torch.randint(2**62, (subsets,), generator=source, device=source.device).tolist()

    def cover(part: Tensor) -> Bool[Tensor, "part *size"]:
        return torch.stack([_subset(x.shape[2:], share, seeds[k]) for k in part.tolist()])

    values = contributions(map, geometry, x)
    told, whole, changed = effects(
        call, x, target, task, values, cover, subsets, baseline=baseline, batch_size=batch_size
    )
    names = ("score", "probability", "log_odds")
    found = {name: pearson(told, whole.of(name)[:, None] - changed.of(name)) for name in names}
    flat = values.flatten(1).amax(1) == values.flatten(1).amin(1)  # whose sums differ by rounding alone
    return where_defined({name: value.masked_fill(flat, torch.nan) for name, value in found.items()}, map)


def _subset(size: torch.Size, share: float, seed: int) -> Bool[Tensor, "*size"]:
    n = size.numel()
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: max(1, round(share * n))]
    return torch.zeros(n, dtype=torch.bool).index_fill_(0, chosen, True).view(size)
