"""Score-CAM (Wang et al. 2020)."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid import backends, inputs, spatial
from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.feature_map import FeatureMap, observe
from pellucid.spatial import Geometry
from pellucid.targets import Target


def score_cam(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    rectify: bool = False,
    batch_size: int | None = None,
    backend: backends.Backend | None = None,
    precision: backends.Precision | None = None,
) -> Attribution:
    """Channels weighted by the score of the input seen through them: sum_k a_k A_k, a = softmax over k of score(x * M_k).

    M_k is A_k brought to the input's size, then scaled to run from 0 to 1 (in this order, as in the paper; libraries
    differ in it and in the interpolation). The paper's weight is the gain over a baseline input, and its algorithm 1
    takes the softmax over channels, from which a baseline that is the same for all channels falls out: it is not run.
    Scores are logits, as everywhere here. All a_k are positive and add up to 1, so the map behind a ReLU has no negative
    cells and cannot speak against the class; elsewhere `rectify` gives the paper's final ReLU.

    A channel with one value everywhere has no scale and masks everything (M_k = 0). Masks that are equal run once.
    batch_size: how many masked inputs run at a time, which bounds the memory; by default a few megabytes of them.
    backend, precision: a fast way to run the masked inputs ("compile", "onnxruntime"; "bf16"; see `backends.fast`). The
    map is added up in float32 all the same. layer: by default the last spatial layer.

    Raises `LayerError` for a layer that runs more than once or has no positions, `OptionError` for an impossible size,
    and for a backend or precision that cannot be had or gives something else.
    """
    batch_size = inputs.pass_size(x, batch_size)
    seen = observe(call, x, target, layer)
    fast = backends.fast(call, x, seen.output, min(batch_size, seen.activation.shape[1]), backend, precision)
    weights = torch.stack([_masked_scores(fast.call, x, seen, i, batch_size).softmax(0) for i in range(len(x))])
    return replace(seen.attribution(spatial.combine(seen.activation, weights), rectify), notes=fast.notes)


def _masked_scores(call: Call, x: Tensor, seen: FeatureMap, i: int, batch_size: int) -> Float[Tensor, "channels"]:
    """The score of input i under the mask of each channel."""
    different, which = _different(seen.activation[i])
    found = []
    for part in torch.split(different, batch_size):
        rows = torch.full((len(part),), i)
        with torch.no_grad():
            output = call.rows(rows)(x[i] * _masks(part, seen.geometry).to(x)[:, None])
            found.append(seen.target.rows(rows)(output))
    return torch.cat(found).to(seen.activation)[which]


def _different(maps: Float[Tensor, "channels *grid"]) -> tuple[Float[Tensor, "masks *grid"], Int[Tensor, "channels"]]:
    """The feature maps that give different masks, and for each channel which of them is its own."""
    unique, which = torch.unique(_scaled(maps), dim=0, return_inverse=True)
    return unique, which


def _masks(maps: Float[Tensor, "masks *grid"], geometry: Geometry) -> Float[Tensor, "masks *size"]:
    with torch.autocast(maps.device.type, enabled=False):
        return _scaled(spatial.upsample(maps, geometry))


def _scaled(maps: Float[Tensor, "maps ..."]) -> Float[Tensor, "maps ..."]:
    """Each map from 0 to 1; all 0 for a map that is the same everywhere."""
    low, high = (spatial.expand(v, maps) for v in torch.aminmax(maps.flatten(1), dim=1))
    return (maps - low) / torch.where(high > low, high - low, 1)
