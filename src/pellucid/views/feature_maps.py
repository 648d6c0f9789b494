"""Which channels of a layer make up the network's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks, targets
from pellucid.call import Call, weights_device
from pellucid.errors import TargetError
from pellucid.feature_map import differentiate, full_precision
from pellucid.view import FeatureMaps


def feature_maps(
    model: nn.Module | Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Any = None,
    *,
    layer: str | nn.Module | None = None,
    task: targets.Task | None = None,
    classes: Sequence[str] | None = None,
) -> FeatureMaps:
    """A layer's responses to inputs, and what each channel adds to the target's score, in the score's units.

    Channel k adds sum over places of A_k * d score / d A_k. Where average pooling and one linear layer follow, this is
    w_kc mean(A_k): the channel's exact share of the logit (Zhou et al. 2016, equation 1), and of the evidence of a
    SoftCAM; shares and the constant, the score when the layer gives nothing but zeros, add up to the score. Whether they
    do is measured on these inputs and told by `complete`. They also do where what follows is made of ReLUs without
    biases, but there a share holds only while no ReLU changes sides. Elsewhere a contribution is first-order: how fast
    the score changes as the channel is scaled, which ranks channels and adds up to nothing.

    target: as for `explain`, one at a time. Of two softmax classes one is taken against the other, the one question that
    such a head answers; with more classes a logit holds what is common to all of them, which a target like "A against B"
    leaves out. layer: a name or module; by default the last spatial layer. model: the network, or a `Call` where it has
    several inputs or outputs. The network is left as it was.

    Raises `LayerError` for a layer that runs more than once, has no positions or does not reach the score, and
    `TargetError` for a target that does not fit.
    """
    call = Call.of(model)
    task = task or getattr(call.model, "task", None)
    classes = classes if classes is not None else getattr(call.model, "classes", None)
    wanted = targets.parse(target, task=task, classes=classes)
    if isinstance(wanted, targets.SeveralTargets):
        raise TargetError(
            "Channels are ranked for one target at a time.",
            hint="Call once for each target, or give each input its own.",
        )
    targets.check_count(wanted, len(x))
    with torch.inference_mode(False), hooks.untouched(call.model):
        x = x.detach().clone().to(weights_device(call.model))
        with torch.no_grad():
            output = call(x.clone())
        decided = targets.gauge_free(wanted.resolve(output), output, task)
        seen = differentiate(call, x, decided, layer)
        with torch.no_grad(), hooks.silent(call.model, seen.module):
            constant = decided(call(x.clone()))
    return FeatureMaps(
        seen.layer, seen.activation, seen.slope, seen.target, full_precision(decided(seen.output)), seen.output, full_precision(constant), seen.geometry, x,
        None if classes is None else tuple(classes), getattr(call.model, "preprocessing", None),
    )  # fmt: skip
