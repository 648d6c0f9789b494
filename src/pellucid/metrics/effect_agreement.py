"""Do the parts of an input count in the map for what they do to the answer?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.metrics.counterfactual import Parts, cannot_render, placed, taken_out
from pellucid.metrics.ranking import spearman
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from pellucid.targets import Target

MOMENTS = ("regions", "attributed", "measured", "attributed_squared", "product")
FEWEST = 3  # of two regions the order is a coin


def effect_agreement(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    samples: Sequence[Sample],
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
) -> dict[str, Float[Tensor, "batch"]]:
    """The rank correlation, over the regions of an input, of the map's sum in a region with the region's measured effect.

    A region is a part that the sample can be rendered without (an alternative "without NAME" whose NAME is a zone: lesions,
    a marker, distractors, patches of background). Its place is where the two renderings differ, its effect how far the
    target's score falls without it; nothing is imputed. -1 to 1, higher is better; nan with fewer than three regions.

    The mask is no upper bound here: a network may rest on other things, and the regions say on which.

    The other parts are what `attribution_effect_agreement` pools: the number of regions, and over them the means of
    sum ("attributed"), effect ("measured"), squared sum, and sum times effect.

    Raises `BadInput` where no sample has such alternatives.
    """
    names = [placed(sample) for sample in samples]
    if not any(names):
        raise cannot_render(samples[0].name, "any of its parts")
    found = [
        dict.fromkeys(("", *MOMENTS), torch.tensor(torch.nan, dtype=torch.float64)) if parts is None else _agreement(parts, cells, geometry)
        for parts, cells in zip(taken_out(call, x, target, samples, names), map, strict=True)
    ]  # fmt: skip
    return {part: torch.stack([values[part] for values in found]) for part in ("", *MOMENTS)}


def _agreement(parts: Parts, cells: Float[Tensor, "*grid"], geometry: Geometry) -> dict[str, Tensor]:
    kept = parts.shown
    sums, effects = parts.sums(cells, geometry)[kept], parts.effects[kept]
    agreement = (
        spearman(sums[None], effects[None])[0] if len(sums) >= FEWEST else torch.full_like(sums.sum(), torch.nan)
    )
    means = (sums.mean(), effects.mean(), sums.square().mean(), (sums * effects).mean())
    return dict(zip(("", *MOMENTS), (agreement, kept.sum().to(sums), *means), strict=True))
