"""Gated attention laid open: how much each cell counts, what it would say, and what it adds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks
from pellucid.api import explain
from pellucid.call import weights_device
from pellucid.errors import LayerError
from pellucid.explanation import Explanation
from pellucid.models.pooling import EvidenceHead
from pellucid.render.grid import grid
from pellucid.render.overlay import overlay, scale

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Attention:
    """A decision pooled by gated attention, cell by cell: weights x evidence = what the explanation's cells hold.

    weights: positive, with sum 1 per input, alike for all classes. evidence: what the score would be, less the constant, were
    all the weight on that cell. Both `(batch, *grid)`.
    """

    weights: Float[Tensor, "batch *grid"]
    evidence: Float[Tensor, "batch *grid"]
    explanation: Explanation

    def picture(self, image: Any = None) -> Image:
        """The three maps of one input side by side: weights, evidence, and their product at the explanation's scale."""
        e = self.explanation
        weights = replace(e, map=self.weights, method="attention weight", complete=False)
        evidence = replace(e, map=self.evidence, method="evidence of each cell")
        shown = [(weights, "weights, sum 1"), (evidence, "evidence"), (e, "weight x evidence: adds up to the score")]
        return grid(
            [[overlay(map, image, title="", limit=scale([map])) for map, _ in shown]], [title for _, title in shown]
        )


def attention(model: nn.Module, x: Float[Tensor, "batch channels *spatial"], target: Any = None, **how: Any) -> Attention:  # fmt: skip
    """The attention and the evidence behind an explanation of a network that pools by gated attention.

    target, how: as for `explain`. Raises `LayerError` for a network without such a pooling, or with several.
    """
    heads = gated_heads(model)
    if len(heads) != 1:
        raise LayerError(
            f"The network has {len(heads)} heads with gated attention.",
            why="One is needed to say how much each cell counts.",
            hint="Train with pooling=gated_attention, or see what each scale adds: network.scales(x).",
        )
    e = explain(model, x, target, **how)
    weights = _weights(model, heads[0], x).reshape(e.map.shape).to(e.map)
    return Attention(weights, e.contributions().cells / weights, e)


def gated_heads(model: nn.Module) -> list[EvidenceHead]:
    """The heads of a network that pool by gated attention."""
    return [m for m in model.modules() if isinstance(m, EvidenceHead) and m.gate is not None]


def _weights(model: nn.Module, head: EvidenceHead, x: Tensor) -> Float[Tensor, "batch places"]:
    """What the gate gave in one pass."""
    assert head.gate is not None
    found: list[Tensor] = []
    with torch.no_grad(), hooks.untouched(model):
        handle = head.gate.register_forward_hook(lambda module, args, weights: found.append(weights[:, 0].detach()))
        try:
            model(x.detach().to(weights_device(model)))
        finally:
            handle.remove()
    return found[-1]
