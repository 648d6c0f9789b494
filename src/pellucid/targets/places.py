"""One number out of what a network says of places: a region of a map of logits, a box of a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.errors import TargetError
from pellucid.targets.protocol import name_of, not_linear


@dataclass(frozen=True)
class RegionTarget:
    """The mean logit of a class inside a region of a map of logits (batch, classes, *spatial): segmentation.

    region: `(*spatial)` for all inputs or `(batch, *spatial)`; None takes where the class is predicted.
    picked: which inputs of the region's batch are meant, noted by `rows` until the output's axes tell whether it has one.
    """

    index: int
    region: Bool[Tensor, "..."] | None = None
    picked: Int[Tensor, "rows"] | None = None

    def resolve(self, output: Any) -> RegionTarget:
        if not isinstance(output, Tensor) or output.ndim < 3:
            raise TargetError(
                "RegionTarget needs a map of logits (batch, classes, *spatial).",
                hint="Use ClassTarget for (batch, classes).",
            )
        if not 0 <= self.index < output.shape[1]:
            raise TargetError(
                f"There is no class {self.index}.",
                why=f"The network has {output.shape[1]}.",
                hint=f"Choose 0 to {output.shape[1] - 1}.",
            )
        region = output.detach().argmax(1) == self.index if self.region is None else self.region.to(output.device)
        if region.shape == output.shape[2:]:
            region = region.expand(len(output), *region.shape)
        elif self.picked is not None and self.region is not None:
            region = region[self.picked.to(region.device)]
        if region.shape != (len(output), *output.shape[2:]):
            raise TargetError(
                f"The region has shape {tuple(region.shape)}.",
                why=f"The map of logits has positions {tuple(output.shape[2:])}.",
                hint="Give a mask of the output's size.",
            )
        if not bool(region.flatten(1).any(1).all()):
            raise TargetError(
                "The region is empty for at least one input.",
                hint="Give a region that contains something, or another class.",
            )
        return RegionTarget(self.index, region)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        region = self.resolve(output).region
        assert region is not None
        inside = region.flatten(1).to(output)
        mean: Tensor = (output[:, self.index].flatten(1) * inside).sum(1) / inside.sum(1)
        return mean

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        raise not_linear("the mean over a region")

    def rows(self, index: Tensor) -> RegionTarget:
        if self.region is None:
            return self
        return replace(self, picked=index if self.picked is None else self.picked[index.to(self.picked.device)])

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return f"{name_of(self.index, classes, row)} in a region"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "region", "index": self.index}


@dataclass(frozen=True)
class BoxTarget:
    """The class score of the detection that lies best on a box, found again on every call.

    The output is a list with one dict per image: `boxes` (n, 4), `scores` (n,) or `logits` (n, classes), and `labels`
    (n,) with `scores`, as torchvision's detectors give it. Only detections of the wanted class count where scores are
    given. A box that no detection overlaps scores 0. boxes: (4,) for all inputs or (batch, 4), as x0, y0, x1, y1.
    """

    boxes: Float[Tensor, "..."]
    index: int

    def resolve(self, output: Any) -> BoxTarget:
        if not isinstance(output, Sequence) or not all(isinstance(o, Mapping) and "boxes" in o for o in output):
            raise TargetError(
                "BoxTarget needs one dict with 'boxes' per image.",
                why=f"The output is a {type(output).__name__}.",
                hint="Pass output= to pick the detections.",
            )
        boxes = self.boxes.expand(len(output), 4) if self.boxes.ndim == 1 else self.boxes
        if boxes.shape != (len(output), 4):
            raise TargetError(
                f"There are {len(boxes)} boxes for {len(output)} inputs.", hint="Give one box for all, or one for each."
            )
        return BoxTarget(boxes, self.index)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        boxes = self.resolve(output).boxes
        return torch.stack([self._score(found, box) for found, box in zip(output, boxes, strict=True)])

    def _score(self, found: Mapping[str, Tensor], box: Tensor) -> Tensor:
        overlap = _iou(found["boxes"].detach(), box.to(found["boxes"]))
        scores = found["logits"][:, self.index] if "logits" in found else found["scores"]
        if "logits" not in found and "labels" in found:
            overlap = torch.where(found["labels"] == self.index, overlap, torch.zeros_like(overlap))
        if len(overlap) == 0 or float(overlap.max()) == 0:
            return scores.sum() * 0
        return scores[overlap.argmax()]

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        raise not_linear("the score of a box")

    def rows(self, index: Tensor) -> BoxTarget:
        return self if self.boxes.ndim == 1 else replace(self, boxes=self.boxes[index.to(self.boxes.device)])

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return f"{name_of(self.index, classes, row)} in a box"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "box", "index": self.index, "boxes": self.boxes.tolist()}


def _iou(boxes: Float[Tensor, "n 4"], box: Float[Tensor, "4"]) -> Float[Tensor, "n"]:
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    shared = (high - low).clamp_min(0).prod(1)
    return shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared).clamp_min(1e-12)
