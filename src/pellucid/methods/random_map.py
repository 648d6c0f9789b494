"""The control: a map that knows nothing."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks
from pellucid.call import Call, has_evidence
from pellucid.explanation import Attribution
from pellucid.spatial import Geometry
from pellucid.targets import Target


def random_map(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    generator: torch.Generator | None = None,
) -> Attribution:
    """Uniform noise between -1 and 1 on the cells that the other methods use, placed and interpolated as theirs are.

    The values depend on the generator and the grid alone, never on the network's weights or the input: what a metric
    gives this map is what it gives to no knowledge. generator: by default a new one with seed 0.
    """
    with torch.no_grad():
        if has_evidence(call.model) and layer is None:
            found = call.evidence(x)
            output, geometry, name = call.select(found.output), found.geometry, ""
        else:
            chosen = hooks.spatial_layer(call.model, call, x, layer)
            with hooks.tap(call.model, chosen, gradient=False) as taken:
                output = call(x)
            geometry, name = Geometry.unregistered(taken.feature_map(x).shape[2:], x.shape[2:]), taken.name
    generator = generator or torch.Generator().manual_seed(0)
    noise = torch.rand((len(x), *geometry.grid), generator=generator, device=generator.device) * 2 - 1
    return Attribution(noise.to(x.device), geometry, hooks.detached(output), target.resolve(output), layer=name)
