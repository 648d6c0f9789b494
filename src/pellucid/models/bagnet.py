"""BagNet: a residual network whose cells each see a small square of the input and nothing else.

After Brendel and Bethge 2019 ("Approximating CNNs with bag-of-local-features models works surprisingly well on
ImageNet"): a bottleneck ResNet with most 3-wide convolutions made 1 wide. Which of them stay 3 wide decides how far a
cell sees: 9, 17 or 33 samples, one cell every 8.

This one differs from the published network: it is narrower by default and of any rank, and what goes around a block is
cropped on both sides, not on one, so that both ways into a cell are centred on the same sample. As published, nothing is
padded: no cell can tell how near the border it is, and the first cell sees samples 0 to field - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.errors import OptionError
from pellucid.models.pooling import EvidenceHead, PoolingName

# field -> the width of the first middle convolution of each stage; strides are 2, 2, 2, 1.
_KERNELS = {9: (3, 3, 1, 1), 17: (3, 3, 3, 1), 33: (3, 3, 3, 3)}
_STRIDES = (2, 2, 2, 1)
_WIDENING = 4


class BagNet(nn.Module):
    """Stem (1 wide, then 3 wide), four stages of bottleneck blocks, mean pooling, one linear layer.

    field: samples per axis that a cell sees, 9, 17 or 33. width: channels of the stem (published: 64); stage s works on
    width * 2**s channels and gives 4 times as many. blocks: per stage (published: 3, 4, 6, 3). pooling and its options:
    see `EvidenceHead`.

    A side of n samples gives (n - field) // 8 + 1 cells; cell i sees samples 8 i to 8 i + field - 1, so that up to 7 at
    the far end are seen by none. Raises `OptionError` for an impossible option.
    """

    def __init__(
        self,
        field: int = 9,
        in_channels: int = 3,
        num_classes: int = 2,
        rank: int = 2,
        width: int = 16,
        blocks: Sequence[int] = (1, 1, 1, 1),
        pooling: PoolingName = "mean",
        **options: Any,
    ) -> None:
        super().__init__()
        _check(field, rank, width, blocks)
        conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
        self.stem = nn.Sequential(
            conv(in_channels, width, 1, bias=False), conv(width, width, 3, bias=False), norm(width), nn.ReLU()
        )
        before, stages = width, []
        for s, (count, kernel, stride) in enumerate(zip(blocks, _KERNELS[field], _STRIDES, strict=True)):
            inner = width * 2**s
            stage = [Bottleneck(before, inner, rank, kernel, stride)]
            stage += [Bottleneck(inner * _WIDENING, inner, rank) for _ in range(count - 1)]
            stages.append(nn.Sequential(*stage))
            before = inner * _WIDENING
        self.stages = nn.Sequential(*stages)
        self.head = EvidenceHead(before, num_classes, pooling, **options)

    def forward(self, x: Float[Tensor, "batch channels *spatial"]) -> Float[Tensor, "batch classes"]:
        return cast(Tensor, self.head(self.stages(self.stem(x))))


class Bottleneck(nn.Module):
    """1 wide, `kernel` wide, 1 wide, each with BatchNorm; what goes around is cropped as the middle one crops.

    Cell i of both ways is centred on sample stride * i + (kernel - 1) / 2 of the block's input.
    """

    def __init__(self, channels: int, inner: int, rank: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
        outer = inner * _WIDENING
        self.margin = (kernel - 1) // 2
        self.body = nn.Sequential(
            conv(channels, inner, 1, bias=False), norm(inner), nn.ReLU(),
            conv(inner, inner, kernel, stride, bias=False), norm(inner), nn.ReLU(),
            conv(inner, outer, 1, bias=False), norm(outer),
        )  # fmt: skip
        alike = channels == outer and stride == 1
        self.around = (
            nn.Identity() if alike else nn.Sequential(conv(channels, outer, 1, stride, bias=False), norm(outer))
        )
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch outer *smaller"]:
        inside = slice(self.margin, -self.margin or None)
        kept = x[(..., *(inside,) * (x.ndim - 2))]
        return cast(Tensor, self.relu(self.body(x) + self.around(kept)))


def _check(field: int, rank: int, width: int, blocks: Sequence[int]) -> None:
    if field not in _KERNELS:
        raise OptionError(f"There is no BagNet that sees {field} samples.", hint="Choose 9, 17 or 33.")
    if rank not in (1, 2, 3):
        raise OptionError(f"A BagNet has no rank {rank}.", hint="Choose 1 (signals), 2 (images) or 3 (volumes).")
    if width < 1 or len(blocks) != len(_STRIDES) or min(blocks) < 1:
        raise OptionError(
            f"A BagNet cannot have width {width} and blocks {tuple(blocks)}.",
            why="It has four stages of at least one block, at least 1 wide.",
            hint="For example width=16, blocks=(1, 1, 1, 1).",
        )
