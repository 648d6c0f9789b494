"""What a detector says of every candidate box, before overlapping ones are suppressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.errors import ConversionError

_PARTS = ("transform", "backbone", "head", "anchor_generator", "box_coder")


class BeforeSuppression(nn.Module):
    """A one-stage detector of torchvision (RetinaNet, FCOS, SSD) as a network that answers for every candidate box.

    Suppression keeps one box of many and drops the rest: a score behind it jumps when another box wins, and methods that
    change the input lose the object they explain. Here `forward(images)`, images `(batch, 3, height, width)` in 0 to 1,
    gives one dict per image: `boxes` (candidates, 4) in pixels of the input and `logits` (candidates, classes), raw.
    `BoxTarget` finds the candidate on its box again in every pass.

    spatial_layer: the layer that is explained by default, the last of the backbone's body.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        missing = [name for name in _PARTS if not hasattr(detector, name)]
        if missing:
            raise ConversionError(
                f"{type(detector).__name__} is not a one-stage detector as torchvision builds them.",
                why=f"It has no {missing[0]}.",
                hint="Give a network whose output is one dict per image with 'boxes' (n, 4) and 'logits' (n, classes), taken before suppression.",
            )
        self.detector = detector
        body = getattr(detector.backbone, "body", None)
        names = list(body._modules) if isinstance(body, nn.Module) else []
        self.spatial_layer = f"detector.backbone.body.{names[-1]}" if names else None

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> list[dict[str, Tensor]]:
        found: Any = self.detector
        resized, _ = found.transform(list(images))
        features = found.backbone(resized.tensors)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        answers = found.head(maps)
        anchors = found.anchor_generator(resized, maps)
        size = images.shape[-2:]
        return [
            {"boxes": self._boxes(moves, own, seen, size), "logits": logits}
            for moves, own, seen, logits in zip(
                answers["bbox_regression"], anchors, resized.image_sizes, answers["cls_logits"], strict=True
            )
        ]

    def _boxes(self, moves: Tensor, anchors: Tensor, seen: Sequence[int], size: Sequence[int]) -> Tensor:
        """Candidates in pixels of the input, from what the head says of anchors in the resized image."""
        coder: Any = self.detector.box_coder
        boxes = coder.decode_single(moves, anchors) if hasattr(coder, "decode_single") else coder.decode(moves, anchors)
        limits = torch.tensor([seen[1], seen[0], seen[1], seen[0]], dtype=boxes.dtype, device=boxes.device)
        scale = torch.tensor([size[1], size[0], size[1], size[0]], dtype=boxes.dtype, device=boxes.device) / limits
        inside: Tensor = torch.minimum(boxes.clamp_min(0), limits) * scale
        return inside


def before_suppression(detector: nn.Module) -> BeforeSuppression:
    """The detector's answers for every candidate box; it shares the weights and is not changed.

    Explain one of its detections with `explain(before_suppression(detector), x, BoxTarget(box, label))`.
    Raises `ConversionError` for what is not a one-stage detector of torchvision.
    """
    return BeforeSuppression(detector).train(detector.training)
