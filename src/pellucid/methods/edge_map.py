"""The control that shows the input's edges."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid import inputs
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.feature_map import full_precision
from pellucid.spatial import Geometry
from pellucid.targets import Target


def edge_map(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
) -> Attribution:
    """How steep the input is at each sample, whatever the network makes of it. Never negative.

    The length of the Sobel gradient over all axes and channels, in input units per sample: half the difference of the
    two neighbours along an axis, smoothed by (1, 2, 1) / 4 along the others; the border values are continued outwards.
    Maps that look convincing because they follow edges look like this one (Adebayo et al. 2018).
    """
    seen = inputs.observe(call, x, target)
    slopes = torch.cat([_sobel(full_precision(x.detach()), axis) for axis in range(2, x.ndim)], 1)
    return Attribution(slopes.norm(dim=1), Geometry.of_samples(x.shape[2:]), seen.output, seen.target)


def _sobel(values: Tensor, along: int) -> Tensor:
    for axis in range(2, values.ndim):
        before, after = _shifted(values, axis, -1), _shifted(values, axis, 1)
        values = (after - before) / 2 if axis == along else (before + 2 * values + after) / 4
    return values


def _shifted(values: Tensor, axis: int, step: int) -> Tensor:
    n = values.shape[axis]
    return values.index_select(axis, (torch.arange(n, device=values.device) + step).clamp(0, n - 1))
