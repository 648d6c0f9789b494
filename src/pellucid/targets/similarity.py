"""How near an embedding lies to another: for networks whose output is no class but a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pellucid.errors import TargetError, nearest
from pellucid.targets.protocol import not_linear, two_axes

MEASURES = ("cosine", "dot")


@dataclass(frozen=True)
class SimilarityTarget:
    """The similarity of the output `(batch, features)` to a reference: what makes this input look like that one?

    reference: an embedding `(features,)` for all inputs, or one for each `(batch, features)`, for instance the network's
    output for another image. measure: "cosine", in -1 to 1, or "dot", which is linear in the output, so that evidence
    maps of a SoftCAM add up to it.
    """

    reference: Float[Tensor, "..."]
    measure: Literal["cosine", "dot"] = "cosine"

    def resolve(self, output: Any) -> SimilarityTarget:
        if self.measure not in MEASURES:
            raise TargetError(
                f"There is no measure of similarity '{self.measure}'.", hint=nearest(self.measure, MEASURES)
            )
        shape = tuple(two_axes(output).shape)
        given = tuple(self.reference.shape)
        if given != shape and given != shape[1:]:
            raise TargetError(
                f"The reference has shape {given}, the output {shape}.",
                why="They have to be embeddings of the same network.",
                hint="Give the network's own output for the input to compare with: (features,), or one row per input.",
            )
        return replace(self, reference=self.reference.detach().expand(shape))

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        reference = self.resolve(output).reference.to(output)
        if self.measure == "cosine":
            return functional.cosine_similarity(output, reference, dim=1)
        product: Tensor = (output * reference).sum(1)
        return product

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        if self.measure == "cosine":
            raise not_linear("a cosine")
        weights: Tensor = self.resolve(output).reference.to(output)
        return weights

    def rows(self, index: Tensor) -> SimilarityTarget:
        if self.reference.ndim == 1:
            return self
        return replace(self, reference=self.reference[index.to(self.reference.device)])

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return f"{self.measure} similarity to a reference"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "similarity", "reference": self.reference.tolist(), "measure": self.measure}
