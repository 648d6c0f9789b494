"""What a view of a network's inside gives: raw numbers, signed and unnormalised. `render.sheet` makes the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.explanation import Explanation
from pellucid.spatial import Geometry
from pellucid.targets import Target

ROUNDING = 1e-5  # of a score, or of 1 where it is smaller: what float32 may leave over


@dataclass(frozen=True)
class Filters:
    """The kernels of one convolution, a row per output channel.

    kernels: in the network's own units. A filter sees the channels of its group alone (`seen`).
    transposed: a kernel is what one input value paints, arranged in the same way. colour: the inputs are red, green and
    blue.
    """

    layer: str
    kernels: Float[Tensor, "filters inputs *size"]
    groups: int = 1
    transposed: bool = False
    colour: bool = False

    @property
    def norms(self) -> Float[Tensor, "filters"]:
        """The Euclidean length of every kernel. A normalisation behind the layer may scale it to any other."""
        norms: Tensor = torch.linalg.vector_norm(self.kernels.flatten(1), dim=1)
        return norms

    @property
    def order(self) -> Int[Tensor, "filters"]:
        """The filters, longest kernel first."""
        return self.norms.argsort(descending=True, stable=True)

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.kernels.shape[2:])

    @property
    def pointwise(self) -> bool:
        """Whether a kernel covers one place only: it mixes channels, and there is no picture of space in it."""
        return self.kernels[0, 0].numel() == 1

    def seen(self, filter: int) -> range:
        """The input channels that a filter sees."""
        inputs = self.kernels.shape[1]
        first = filter // (len(self.kernels) // self.groups) * inputs
        return range(first, first + inputs)

    def __str__(self) -> str:
        count, inputs = self.kernels.shape[:2]
        sees = f"{inputs} channel{'s'[: inputs != 1]}"
        kind = "colour (red, green, blue)" if self.colour else f"{sees} each" if self.groups > 1 else sees
        shape = " x ".join(map(str, self.size)) + (
            " (no picture of space: it mixes channels)" if self.pointwise else ""
        )
        strongest = ", ".join(f"{int(k)} ({float(self.norms[k]):.2f})" for k in self.order[:5])
        return f"{self.layer}: {count} filters over {kind}, kernel {shape}; longest {strongest}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "layer": self.layer, "filters": len(self.kernels), "inputs": self.kernels.shape[1], "size": list(self.size), "groups": self.groups,
            "transposed": self.transposed, "colour": self.colour, "pointwise": self.pointwise, "order": self.order.tolist(), "norms": self.norms.tolist(),
        }  # fmt: skip


@dataclass(frozen=True)
class FeatureMaps:
    """What a layer answers to a batch of inputs, and what each of its channels adds to the score.

    maps: the layer's output. slopes: how the score changes with it. constant: the score when the layer gives zeros.
    input, classes, preprocessing: for drawing and naming only.
    """

    layer: str
    maps: Float[Tensor, "batch channels *grid"]
    slopes: Float[Tensor, "batch channels *grid"]
    target: Target
    score: Float[Tensor, "batch"]
    logits: Any
    constant: Float[Tensor, "batch"]
    geometry: Geometry
    input: Tensor
    classes: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None

    @cached_property
    def cells(self) -> Float[Tensor, "batch channels *grid"]:
        """Slope times response, place by place, in the score's units."""
        return self.slopes * self.maps

    @cached_property
    def contributions(self) -> Float[Tensor, "batch channels"]:
        """The cells of each channel added up, in float64."""
        return self.cells.flatten(2).sum(2, dtype=torch.float64)

    @property
    def order(self) -> Int[Tensor, "batch channels"]:
        """The channels from what speaks most for the target to what speaks most against it."""
        return self.contributions.argsort(dim=1, descending=True, stable=True)

    @property
    def residual(self) -> Float[Tensor, "batch"]:
        """What contributions and constant leave of the score: measured, since all three are computed."""
        return self.score.to(self.contributions) - self.contributions.sum(1) - self.constant.to(self.contributions)

    @property
    def complete(self) -> bool:
        """Whether contributions and constant add up to the score, but for rounding, for every input."""
        return bool((self.residual.abs() <= ROUNDING * self.score.abs().clamp_min(1)).all())

    def contribution(self, channel: int, row: int = 0) -> Explanation:
        """What one channel adds to the score of one input, place by place, as a map that can be drawn."""
        at = torch.tensor([row])
        return Explanation(
            self.cells[row, channel][None], self.geometry, self.target.rows(at), self.score[row : row + 1], None, "feature_maps",
            provenance={"preprocessing": self.preprocessing}, classes=self.classes, input=self.input[row : row + 1],
        )  # fmt: skip

    def __str__(self) -> str:
        return "\n\n".join(self._told(row) for row in range(len(self.maps)))

    def _told(self, row: int) -> str:
        values, order = self.contributions[row], self.order[row].tolist()
        name = self.target.describe(self.classes, row)
        shown = order if len(order) <= 10 else [*order[:7], *order[-3:]]
        parts = {f"channel {k}": values[k] for k in shown}
        if shown != order:
            parts[f"{len(order) - len(shown)} others"] = values.sum() - values[shown].sum()
        parts |= {"constant": self.constant[row], "residual": self.residual[row], "score": self.score[row]}
        head = f"channels of {self.layer} for {name}" + ("" if self.complete else " (they do not add up to the score)")
        return "\n".join([head, *(f"{what:<13} {float(value):+9.4f}" for what, value in parts.items())])

    def as_dict(self) -> dict[str, Any]:
        means = self.maps.flatten(2).mean(2)
        return {
            "layer": self.layer, "grid": list(self.maps.shape[2:]), "complete": self.complete,
            "inputs": [
                {"target": self.target.describe(self.classes, i), "score": float(self.score[i]), "constant": float(self.constant[i]), "residual": float(self.residual[i]),
                 "channels": [{"channel": k, "contribution": float(self.contributions[i, k]), "mean_response": float(means[i, k])} for k in self.order[i].tolist()]}
                for i in range(len(self.maps))
            ],
        }  # fmt: skip


@dataclass(frozen=True)
class Maximised:
    """Inputs made to excite one channel of a layer, or one class, each as strongly as it could be done.

    layer: empty for the network's own output. names: of what was excited. inputs: in the network's units.
    reached: the score or mean activation of the inputs as they are; start: of what the ascent began with; noise: the mean
    over independent noise of each input's own mean and spread per channel, so that a figure reached can be judged.
    bounds: the lowest and highest value per channel that was allowed, None where nothing was.
    """

    layer: str
    names: tuple[str, ...]
    inputs: Float[Tensor, "wanted channels *spatial"]
    reached: Float[Tensor, "wanted"]
    start: Float[Tensor, "wanted"]
    noise: Float[Tensor, "wanted"]
    bounds: tuple[Float[Tensor, "channels"], Float[Tensor, "channels"]] | None = None

    def __str__(self) -> str:
        rows = zip(self.names, self.reached.tolist(), self.start.tolist(), self.noise.tolist(), strict=True)
        width = max(len(name) for name in self.names)
        return "\n".join(f"{name:<{width}}  {r:+9.3f}  (start {s:+.3f}, noise {n:+.3f})" for name, r, s, n in rows)

    def as_dict(self) -> dict[str, Any]:
        rows = zip(self.names, self.reached.tolist(), self.start.tolist(), self.noise.tolist(), strict=True)
        return {
            "layer": self.layer,
            "maximised": [{"name": name, "reached": r, "start": s, "noise": n} for name, r, s, n in rows],
        }
