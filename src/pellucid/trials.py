"""What came of asking again: with the input mirrored or shifted, of networks trained alike, or without a region."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

AGREED = 0.9  # with fewer than ten members: all of them

Kind = Literal["views", "networks", "views of networks"]


@dataclass(frozen=True)
class Spread:
    """The maps of several members, cell on cell, and what each of them says of the decision.

    kind: the members are views of one input, networks trained alike, or each network with each view. names: of the members.
    maps: `(batch, members, *grid)`; nan for a cell that a member does not see. scores: `(batch, members)`; so are
    probabilities, nan where the score has none.

    Members of one kind tell of one source of doubt. Views of one input share the network with all its habits; networks
    trained alike share data and design.
    """

    kind: Kind
    names: tuple[str, ...]
    maps: Float[Tensor, "batch members *grid"]
    scores: Float[Tensor, "batch members"]
    probabilities: Float[Tensor, "batch members"]

    def rows(self, index: Tensor) -> Spread:
        """Those of some of the inputs."""
        return Spread(self.kind, self.names, self.maps[index], self.scores[index], self.probabilities[index])

    def mean(self) -> Float[Tensor, "batch *grid"]:
        """Per cell over the members that see it."""
        return self.maps.nanmean(1)

    def deviation(self) -> Float[Tensor, "batch *grid"]:
        """The standard deviation (n - 1) per cell over the members that see it; nan for a cell that one alone sees."""
        seen = self._seen()
        squares = (self.maps - self.mean()[:, None]).square().nansum(1)
        return torch.where(seen > 1, (squares / (seen - 1).clamp_min(1)).sqrt(), torch.nan)

    def agreement(self, cells: Float[Tensor, "batch *grid"]) -> Float[Tensor, "batch *grid"]:
        """The share of the members that see a cell and give it the sign that it has in `cells`."""
        return (self.maps.sign() == cells.sign()[:, None]).sum(1) / self._seen()

    def agreed(self, cells: Float[Tensor, "batch *grid"]) -> Bool[Tensor, "batch *grid"]:
        """The cells whose sign in `cells` nine of ten members share."""
        return self.agreement(cells) >= AGREED

    def share_agreed(self, cells: Float[Tensor, "batch *grid"]) -> Float[Tensor, "batch"]:
        """Of the size of each map, the share in cells that are agreed on; nan for a map of zeros."""
        size = cells.abs().double()
        agreed = size.where(self.agreed(cells), 0)
        return agreed.flatten(1).sum(1) / size.flatten(1).sum(1)

    def caption(self) -> str:
        """What is coloured in a picture."""
        return f"coloured: sign shared by at least {self.least} of {len(self.names)} {self.kind}"

    @property
    def least(self) -> int:
        """How many members have to share the sign of a cell that all of them see."""
        return ceil(round(AGREED * len(self.names), 6))

    def _seen(self) -> Tensor:
        return self.maps.isfinite().sum(1)


@dataclass(frozen=True)
class Erased:
    """What the network answers without a region: each of the strongest of `Explanation.regions` by itself, in their order.

    Both `(batch, regions)`: the score, and the probability where it has one; nan where an input has fewer regions. The
    region's samples were replaced by what lies around it.
    """

    score: Float[Tensor, "batch regions"]
    probability: Float[Tensor, "batch regions"]

    def rows(self, index: Tensor) -> Erased:
        """Those of some of the inputs."""
        return Erased(self.score[index], self.probability[index])
