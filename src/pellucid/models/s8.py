"""S8: a small network with a fine map (one cell per 8 samples), for demonstrations and tests, of any rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.errors import OptionError
from pellucid.models.pooling import EvidenceHead, PoolingName

_LAYERS = {
    1: (nn.Conv1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.BatchNorm3d),
}


class S8(nn.Module):
    """Blocks of 3-wide convolution, BatchNorm and ReLU, then mean pooling and one linear layer.

    channels, strides: of each block. local: the last two blocks look at one place only (width 1), which brings the
    receptive field from 55 to 23 samples at the default strides. pooling and its options: see `EvidenceHead`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        rank: int = 2,
        channels: Sequence[int] = (16, 32, 32, 64, 64, 64),
        strides: Sequence[int] = (2, 2, 1, 2, 1, 1),
        local: bool = False,
        pooling: PoolingName = "mean",
        **options: Any,
    ) -> None:
        super().__init__()
        if rank not in _LAYERS:
            raise OptionError(f"s8 has no rank {rank}.", hint="Choose 1 (signals), 2 (images) or 3 (volumes).")
        if len(channels) != len(strides) or not channels:
            raise OptionError(
                f"s8 got {len(channels)} channels and {len(strides)} strides.", hint="Give one of each per block."
            )
        conv, norm = _LAYERS[rank]
        kernels = [1 if local and i >= len(channels) - 2 else 3 for i in range(len(channels))]
        blocks: list[nn.Module] = []
        for before, after, stride, kernel in zip((in_channels, *channels), channels, strides, kernels, strict=False):
            blocks.append(
                nn.Sequential(
                    conv(before, after, kernel, stride, kernel // 2, bias=False), norm(after), nn.ReLU(inplace=True)
                )
            )
        self.features = nn.Sequential(*blocks)
        head = EvidenceHead(channels[-1], num_classes, pooling, **options)
        self.head = head.evidence if pooling == "mean" else head

    def forward(self, x: Float[Tensor, "batch channels *spatial"]) -> Float[Tensor, "batch classes"]:
        features = self.features(x)
        logits: Tensor = self.head(features if isinstance(self.head, EvidenceHead) else features.flatten(2).mean(2))
        return logits
