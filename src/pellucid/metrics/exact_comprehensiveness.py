"""Comprehensiveness without made-up inputs: what is removed gives way to the same place of the same input without its lesions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.metrics.counterfactual import WITHOUT, cannot_render
from pellucid.metrics.removal import fall
from pellucid.sample import Sample
from pellucid.targets import Target


def exact_comprehensiveness(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    samples: Sequence[Sample],
    pixels: Float[Tensor, "batch *size"],
    task: str = "multiclass",
    *,
    part: str = "lesions",
    shares: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2),
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """Mean over shares k of how far the answer falls when the k highest samples come from the input rendered without `part`.

    Nothing is imputed: where the map is wrong nothing changes, and where it is right the lesion is gone and the tissue under
    it is seen. So scattered or large pieces do not fall for breaking the texture, as with other removals (see
    `comprehensiveness`). Higher is better; what all places together can bring is the effect of the part.

    part: a sample needs an alternative "without PART". shares, batch_size, generator: see `comprehensiveness`. nan for inputs that
    have nothing of the part. Raises `BadInput` where no sample can be rendered without it.
    """
    name = WITHOUT + part
    known = [name in sample.alternatives for sample in samples]
    if not any(known):
        raise cannot_render(samples[0].name, part)
    without = torch.stack([(s.alternatives[name]() if k else s).input for s, k in zip(samples, known, strict=True)])
    found = fall(
        call, x, target, pixels, task,
        reveal=False, shares=shares, baseline=without.to(x), batch_size=batch_size, generator=generator,
    )  # fmt: skip
    unknown = ~torch.tensor(known, device=x.device)
    return {name: values.masked_fill(unknown, torch.nan) for name, values in found.items()}
