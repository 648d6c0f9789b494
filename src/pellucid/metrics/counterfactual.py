"""What metrics share that compare a map with measured effects: the same input rendered again without one of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import inputs, spatial
from pellucid.call import Call
from pellucid.errors import BadInput
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from pellucid.targets import Target

WITHOUT = "without "


@dataclass(frozen=True)
class Parts:
    """What was taken out of one input, part by part.

    places: where the input changes without the part. effects: how far the score falls without it.
    """

    places: Bool[Tensor, "parts *size"]
    effects: Float[Tensor, "parts"]

    @property
    def shown(self) -> Bool[Tensor, "parts"]:
        """Whether there was anything to take out."""
        return self.places.flatten(1).any(1)

    def sums(self, map: Float[Tensor, "*grid"], geometry: Geometry) -> Float[Tensor, "parts"]:
        """What the map adds up to where each part is."""
        return spatial.region_sums(map.cpu(), self.places, geometry)


def placed(sample: Sample) -> list[str]:
    """The parts that the sample can be rendered without and whose place is known."""
    named = (name.removeprefix(WITHOUT) for name in sample.alternatives if name.startswith(WITHOUT))
    return [name for name in named if name in sample.zones]


def taken_out(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    samples: Sequence[Sample],
    parts: Sequence[Sequence[str]],
) -> Iterator[Parts | None]:
    """For every input what it loses without each of its `parts`; None where it has none."""
    seen = inputs.observe(call, x, target)
    whole = seen.target(seen.output).double().cpu()
    for i, (sample, names) in enumerate(zip(samples, parts, strict=True)):
        if not names:
            yield None
            continue
        changed = torch.stack([sample.alternatives[WITHOUT + name]().input for name in names]).to(x)
        index = torch.full((len(names),), i)
        with torch.no_grad():
            left = seen.target.rows(index)(call.rows(index)(changed)).double().cpu()
        yield Parts((changed != x[i]).any(1).cpu(), whole[i] - left)


def cannot_render(name: str, what: str) -> BadInput:
    """A sample that has no counterfactuals of the kind that is asked for."""
    return BadInput(
        f"Sample '{name}' cannot be rendered without {what}.",
        why="Effects are measured by leaving a part out.",
        hint="Use data whose samples have alternatives named 'without ...', such as LesionLab's.",
    )
