"""What a cell sees, measured by gradients; the arithmetic against plain functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import OptionError
from pellucid.models import zoo
from pellucid.models.bagnet import BagNet, Bottleneck
from pellucid.models.convert import convert
from pellucid.models.receptive_field import receptive_field
from pellucid.models.trace import trace


def alive(net: nn.Module) -> nn.Module:
    """All weights positive, so that nothing cancels and no ReLU is shut."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(
                p.abs() / p.abs().mean().clamp_min(1e-6) / max(p[0].numel(), 1) if p.ndim > 1 else torch.ones_like(p)
            )
    return net.double().eval()


@pytest.mark.parametrize("field", [9, 17, 33])
def test_a_cell_sees_its_square_and_nothing_else(field: int, rank: int) -> None:
    """By gradient, for every cell of a line of them: samples 8 i to 8 i + field - 1, all of them and no others."""
    torch.manual_seed(0)
    sides = (field + 30, field + 8, field)[:rank]
    net = alive(BagNet(field, 1, 2, rank, width=2))
    x = torch.rand(1, 1, *sides).double().requires_grad_()
    features = net.stages(net.stem(x))
    assert tuple(features.shape[2:]) == tuple((n - field) // 8 + 1 for n in sides)
    for i in range(features.shape[2]):
        cell = (0, slice(None), i, *(0,) * (rank - 1))
        (slope,) = torch.autograd.grad(features[cell].sum(), x, retain_graph=True)
        expected = torch.zeros_like(slope)
        expected[(0, 0, slice(8 * i, 8 * i + field), *(slice(field),) * (rank - 1))] = 1
        # A block 1 wide with stride 2 looks at every second place, and yet every sample of the square is seen.
        assert torch.equal((slope != 0).double(), expected)


@pytest.mark.parametrize("field", [9, 17, 33])
def test_the_recurrence_gives_the_same_field(field: int, rank: int) -> None:
    net, x = BagNet(field, 1, 2, rank, width=2).eval(), torch.randn(1, 1, *(field + 8, field + 8, field + 8)[:rank])
    traced = trace(net, lambda: net(x), (x,), lambda output: output)
    ref = [r for r, points in traced.points.items() if any(p.kind == "output" and p.name == "stages" for p in points)]
    found = receptive_field(traced, ref[-1], rank)
    assert found is not None
    assert (found.size, found.jump, found.start) == ((field,) * rank, (8,) * rank, ((field - 1) / 2,) * rank)
    assert not found.whole


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("side", [9, 10])
def test_a_block_computes_what_its_layers_say(kernel: int, stride: int, side: int) -> None:
    torch.manual_seed(0)
    block, x = Bottleneck(4, 2, 2, kernel, stride).double().train(), torch.randn(3, 4, side, side).double()

    def normal(y: Tensor) -> Tensor:
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
        return (y - mean) / (var + 1e-5).sqrt()

    c1, c2, c3 = (block.body[i].weight for i in (0, 3, 6))
    y = normal(F.conv2d(normal(F.conv2d(x, c1)).relu(), c2, stride=stride)).relu()
    kept = x[:, :, 1:-1, 1:-1] if kernel == 3 else x
    around = normal(F.conv2d(kept, block.around[0].weight, stride=stride))
    assert torch.allclose(block(x), (normal(F.conv2d(y, c3)) + around).relu(), atol=1e-12)


def test_published_layout_has_the_published_size() -> None:
    """ResNet-50's bottlenecks with 1-wide kernels: 15.7 M parameters for field 9, counted layer by layer here."""
    width, blocks, kernels = 64, (3, 4, 6, 3), (3, 3, 1, 1)
    count, before = 3 * width + width * width * 9 + 2 * width, width
    for s in range(4):
        inner = width * 2**s
        for b in range(blocks[s]):
            middle = kernels[s] if b == 0 else 1
            count += before * inner + inner * inner * middle**2 + inner * inner * 4 + 2 * (inner + inner + 4 * inner)
            if b == 0:
                count += before * inner * 4 + 2 * inner * 4
            before = inner * 4
    net = zoo.build("pellucid:bagnet9", num_classes=1000, width=64, blocks=(3, 4, 6, 3))
    assert sum(p.numel() for p in net.parameters()) == count + 2048 * 1000 + 1000


@pytest.mark.parametrize("field", [9, 17, 33])
def test_it_converts_exactly_and_its_cells_are_registered(field: int) -> None:
    torch.manual_seed(0)
    net = zoo.build(f"pellucid:bagnet{field}", num_classes=3, width=4)
    x = torch.randn(2, 3, 64, 72)
    softcam = convert(net, x)
    assert softcam.certificate.kind == "exact"
    assert softcam.certificate.receptive_field == (field, field)
    assert torch.equal(softcam(x), net(x))
    told = softcam.evidence(x)
    assert torch.allclose(told.maps.mean((2, 3)) + told.bias, net(x), atol=1e-5)
    assert told.geometry.registered
    assert told.geometry.start == ((field - 1) / 2,) * 2


def test_a_changed_pixel_changes_only_cells_that_see_it() -> None:
    torch.manual_seed(0)
    net = zoo.build("pellucid:bagnet9", width=4)
    x = torch.randn(1, 3, 64, 64)
    softcam, other = convert(net, x), x.clone()
    other[0, :, 20, 43] += 5.0
    changed = (softcam.evidence(x).maps != softcam.evidence(other).maps)[0].any(0)
    sees = torch.tensor([[8 * i <= 20 < 8 * i + 9 and 8 * j <= 43 < 8 * j + 9 for j in range(7)] for i in range(7)])
    assert bool(changed.any())
    assert not bool((changed & ~sees).any())


@pytest.mark.parametrize(
    "options", [{"field": 10}, {"rank": 4}, {"width": 0}, {"blocks": (1, 1, 1)}, {"blocks": (1, 0, 1, 1)}, {"pooling": "max"}]
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        BagNet(**options)
