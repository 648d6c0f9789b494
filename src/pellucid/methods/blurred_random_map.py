"""The control: noise as smooth as maps usually are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid import inputs, spatial
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.explanation import Attribution
from pellucid.spatial import Geometry
from pellucid.targets import Target


def blurred_random_map(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    share: float = 0.1,
    generator: torch.Generator | None = None,
) -> Attribution:
    """Gaussian noise on the input's samples, blurred; each map has mean 0 and standard deviation 1.

    Removal in large smooth pieces changes an input otherwise than removal of scattered samples, whatever the pieces
    are. A method that does not beat this map may owe its score to smoothness alone (arXiv:2304.13836).
    share: the blur's standard deviation as a share of each side. generator: by default a new one with seed 0.
    Raises `OptionError` for a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise OptionError(f"share={share} is not possible.", hint="Give a share of the side between 0 and 1.")
    seen = inputs.observe(call, x, target)
    generator = generator or torch.Generator().manual_seed(0)
    noise = torch.randn((len(x), 1, *x.shape[2:]), generator=generator, device=generator.device)
    smooth = spatial.blur(noise.double(), share)[:, 0]
    flat = smooth.flatten(1)
    spread = flat.std(1, correction=0).clamp_min(torch.finfo(torch.float64).tiny)
    cells = (smooth - spatial.expand(flat.mean(1), smooth)) / spatial.expand(spread, smooth)
    cells = cells.to(x.device, torch.promote_types(x.dtype, torch.float32))
    return Attribution(cells, Geometry.of_samples(x.shape[2:]), seen.output, seen.target)
