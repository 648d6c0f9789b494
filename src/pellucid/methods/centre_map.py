"""The control that looks at the middle."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid import inputs
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.explanation import Attribution
from pellucid.spatial import Geometry
from pellucid.targets import Target


def centre_map(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    share: float = 0.25,
) -> Attribution:
    """A Gaussian in the middle of the input, the same for every input, class and network. Never negative; 1 at its peak.

    What people photograph is in the middle of the picture: a method that does not beat this map may have learnt no
    more than that. share: the standard deviation as a share of each side.
    Raises `OptionError` for a share that is not positive.
    """
    if share <= 0:
        raise OptionError(f"share={share} is not possible.", hint="Give a share of the side above 0, such as 0.25.")
    seen = inputs.observe(call, x, target)
    size = x.shape[2:]
    bell = torch.ones(size, dtype=torch.float64)
    for axis, n in enumerate(size):
        distance = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / (share * n)
        bell = bell * torch.exp(-0.5 * distance**2).view(-1, *(1,) * (len(size) - 1 - axis))
    cells = bell.to(x.device, torch.promote_types(x.dtype, torch.float32)).repeat(len(x), *(1,) * len(size))
    return Attribution(cells, Geometry.of_samples(size), seen.output, seen.target)
