"""Layer-CAM (Jiang et al. 2021)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.feature_map import differentiate
from pellucid.targets import Target


def layer_cam(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    rectify: bool = False,
) -> Attribution:
    """Activations weighted by what is positive of their own gradient: sum_k relu(d score / d A_k) * A_k.

    The paper drops what is negative of the sum; here only `rectify` does. Behind a ReLU the two are the
    same, since nothing negative is left. As only positive gradients count, the map cannot speak against the class.
    The paper's tanh scaling of early layers is a matter of display and is not applied.
    layer: its name or the module; by default the last spatial layer. The method is meant for earlier layers too.

    Raises `LayerError` for a layer that runs more than once, has no positions, or does not reach the score.
    """
    seen = differentiate(call, x, target, layer)
    return seen.attribution((seen.slope.relu() * seen.activation).sum(1), rectify)
