"""How much of a map lies on a tag, beside how much of the answer rests on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.metrics.counterfactual import WITHOUT, Parts, cannot_render, taken_out
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from pellucid.targets import Target

PARTS = ("", "tag", "lesions", "tag_effect", "lesions_effect")


def tag_share(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    samples: Sequence[Sample],
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
    *,
    tag: str = "marker",
    lesions: str = "lesions",
) -> dict[str, Float[Tensor, "batch"]]:
    """The share of the map on the tag, of what lies on the tag and on the lesions; both by their size, whatever the sign.

    "tag" and "lesions" are these two sums; "tag_effect" and "lesions_effect" how far the target's score falls when the input
    is rendered without the one or the others. The place of each is where the renderings differ. What is right depends on
    the network: `tag_calibration` compares shares with effects over networks that rely on the tag more and less.

    tag, lesions: names of the parts. nan for inputs that do not show both, and for a tag that has no place (a change of
    the whole image). Raises `BadInput` where no sample can be rendered without the tag.
    """
    if not any(WITHOUT + tag in sample.alternatives for sample in samples):
        raise cannot_render(samples[0].name, tag)
    names = [
        [tag, lesions] if tag in s.zones and {WITHOUT + tag, WITHOUT + lesions} <= set(s.alternatives) else [] for s in samples
    ]  # fmt: skip
    found = [
        _shares(parts, cells, geometry)
        for parts, cells in zip(taken_out(call, x, target, samples, names), map, strict=True)
    ]
    return dict(zip(PARTS, torch.stack(found, 1), strict=True))


def _shares(parts: Parts | None, cells: Float[Tensor, "*grid"], geometry: Geometry) -> Float[Tensor, "values"]:
    if parts is None or not bool(parts.shown.all()):
        return torch.full((len(PARTS),), torch.nan, dtype=torch.float64)
    sums = parts.sums(cells.abs(), geometry)
    return torch.cat([sums[:1] / sums.sum(), sums, parts.effects])
