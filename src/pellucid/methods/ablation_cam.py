"""Ablation-CAM (Desai and Ramaswamy 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid import inputs, spatial
from pellucid.call import Call
from pellucid.errors import TargetError
from pellucid.explanation import Attribution
from pellucid.feature_map import FeatureMap, observe
from pellucid.methods.cam import Head, linear_head
from pellucid.tail import Tail
from pellucid.targets import Target


def ablation_cam(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    relative: bool = True,
    rectify: bool = False,
    batch_size: int = 64,
) -> Attribution:
    """Channels weighted by how far the score falls when each is set to 0: sum_k w_k A_k, w_k = (y - y_k) / y.

    The paper's weight, and its map before the final ReLU (`rectify` gives that). Because of the division by y, a
    negative score turns the sign of the whole map; relative=False leaves it out, so that positive cells speak for the
    score whatever its sign, and w_k is in the score's units. A score of exactly 0 divides nothing.

    No gradient is needed. Where the logits are a linear layer of the mean over the feature map, which is checked on the
    numbers of this pass, nothing runs again: y - y_k is w_kc mean(A_k). Elsewhere only what follows the layer runs
    again, for batch_size channels at a time (see `pellucid.tail`).
    layer: its name or the module; by default the last spatial layer.

    Raises `LayerError` for a layer that runs more than once or has no positions, `OptionError` for an impossible size.
    """
    inputs.check_counts(batch_size=batch_size)
    seen = observe(call, x, target, layer)
    score = seen.target(seen.output).to(seen.activation)
    weights = _drops(call, x, seen, score, batch_size)
    if relative:
        weights = weights / torch.where(score == 0, 1, score)[:, None]
    return seen.attribution(spatial.combine(seen.activation, weights), rectify)


def _drops(
    call: Call, x: Tensor, seen: FeatureMap, score: Float[Tensor, "batch"], batch_size: int
) -> Float[Tensor, "batch channels"]:
    """By how much the score of every input falls without each of the channels."""
    head = None
    if isinstance(seen.output, Tensor):
        head = linear_head(seen.activation, call.model.modules(), seen.output.reshape(len(x), -1))
    classes = _class_weights(seen)
    if head is not None and classes is not None:
        return (classes.to(head.weight) @ head.weight) * head.features.to(head.weight).flatten(2).mean(2)
    found = seen.activation.new_empty(seen.activation.shape[:2])
    for i in range(len(x)):
        without = _rerun(call, x, seen, i) if head is None else _ablated_logits(head, seen, i)
        for channels in torch.split(torch.arange(found.shape[1], device=x.device), batch_size):
            found[i, channels] = score[i] - without(channels).to(found)
    return found


def _class_weights(seen: FeatureMap) -> Float[Tensor, "batch classes"] | None:
    """With which weights the logits enter the score; None for a score that is not linear in them, or only near these."""
    if hasattr(seen.target, "offset"):  # see `targets.offset`
        return None
    try:
        return seen.target.weights(seen.output)
    except TargetError:
        return None


Without = Callable[[Int[Tensor, "some"]], Float[Tensor, "some"]]


def _score(seen: FeatureMap, i: int) -> Callable[[object, int], Tensor]:
    """What is explained of input i, for an output of any number of its copies."""
    return lambda output, copies: seen.target.rows(torch.full((copies,), i))(output)


def _ablated_logits(head: Head, seen: FeatureMap, i: int) -> Without:
    """logits - W_k mean(A_k) are the logits without channel k."""
    logits = seen.output[i].reshape(-1).to(head.weight)
    parts = head.weight.T * head.features[i].flatten(1).mean(1).to(head.weight)[:, None]

    def without(channels: Tensor) -> Tensor:
        made = (logits - parts[channels]).view(len(channels), *seen.output.shape[1:])
        return _score(seen, i)(made, len(channels))

    return without


def _rerun(call: Call, x: Tensor, seen: FeatureMap, i: int) -> Without:
    """What follows the layer, run again on feature maps that lack one channel each."""
    tail = Tail(call.rows(torch.tensor([i])), x[i : i + 1], seen.module, _score(seen, i))

    def without(channels: Tensor) -> Tensor:
        maps = seen.activation[i].repeat(len(channels), *(1,) * (seen.activation.ndim - 1))
        maps[torch.arange(len(channels)), channels] = 0
        return tail(maps)

    return without
