"""High-resolution class activation mapping (Draelos and Carin 2020)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.feature_map import differentiate
from pellucid.targets import Target


def hires_cam(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
) -> Attribution:
    """Gradient times activation, added up over channels: sum_k (d score / d A_k) * A_k, place by place.

    The paper's definition of HiResCAM, signed as there: unlike in Grad-CAM the gradient is not averaged over places
    first. Where one linear layer follows, flattened or pooled, the cells add up to the score minus the bias, and with
    pooling the map is that of Grad-CAM. Behind further ReLU layers the cells add up to the score minus what the biases
    contribute at this input, which is not known here, so the map is not called complete.
    layer: its name or the module; by default the last spatial layer.

    Raises `LayerError` for a layer that runs more than once, has no positions, or does not reach the score.
    """
    seen = differentiate(call, x, target, layer)
    return seen.attribution((seen.slope * seen.activation).sum(1))
