"""Trunks made narrow, against gradients, literal sums of kernels, and flat images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import LayerError, OptionError
from pellucid.models import zoo


def trunk(rank: int = 2, **options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
    return nn.Sequential(
        conv(2, 4, 3, padding=1, stride=2),
        nn.Softplus(),  # so that no slope is zero
        conv(4, 4, 3, padding=2, dilation=2, groups=2, bias=False),
        norm(4),
        conv(4, 6, 5, padding=2, stride=2, **options),
    ).eval()


def seen_by_the_middle(features: nn.Module, x: Tensor) -> list[int]:
    """How many samples per axis move the middle cell."""
    x = x.clone().requires_grad_()
    cells = features(x)
    middle = cells[(0, slice(None), *(n // 2 for n in cells.shape[2:]))]
    (slope,) = torch.autograd.grad(middle.square().sum(), x)
    moved = slope[0].abs().sum(0) > 0
    return [len(moved.nonzero()[:, axis].unique()) for axis in range(moved.ndim)]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_cell_sees_what_the_named_layer_sees(rank: int) -> None:
    x = torch.randn(2, 2, *[16] * rank)
    net = trunk(rank)
    narrow = pl.local_trunk(net, x, "0")
    assert seen_by_the_middle(narrow, x) == [3] * rank
    assert seen_by_the_middle(net, x)[0] > 3
    assert narrow(x).shape[2:] == net[0](x).shape[2:]


def test_the_weights_are_sums_of_the_kernels() -> None:
    net, x = trunk(), torch.randn(2, 2, 16, 16)
    narrow = pl.local_trunk(net, x, "0")
    assert isinstance(narrow, nn.Sequential)
    assert torch.equal(narrow[0].weight, net[0].weight)
    for k in (2, 4):
        expected = torch.stack([net[k].weight[..., i, j] for i in range(net[k].weight.shape[2]) for j in range(net[k].weight.shape[3])])  # fmt: skip
        torch.testing.assert_close(narrow[k].weight[..., 0, 0], expected.sum(0))
    assert narrow[2].groups == 2
    assert narrow[2].bias is None
    assert narrow[4].bias is not None
    assert torch.equal(narrow[4].bias, net[4].bias)


def test_a_flat_image_gets_the_same_answer_away_from_the_border() -> None:
    net = trunk()
    x = torch.ones(2, 2, 32, 32) * torch.tensor([0.3, -1.2])[None, :, None, None]
    wide, narrow = net(x), pl.local_trunk(net, x, "0")(x)
    torch.testing.assert_close(narrow[0, :, 8, 8], wide[0, :, 4, 4])


def test_a_resnet_becomes_a_network_of_small_fields_that_converts_exactly() -> None:
    torch.manual_seed(0)
    net = zoo.build("torchvision:resnet18", num_classes=3).eval()
    x = torch.randn(2, 3, 96, 96)
    narrow = pl.local_trunk(net, x, "layer1")
    soft = pl.convert(narrow, x)
    assert soft.certificate.kind == "exact"
    torch.testing.assert_close(soft(x), narrow(x), rtol=1e-5, atol=1e-5)
    assert pl.explain(soft, x).map.shape[-2:] == (24, 24)
    before = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
    after = nn.Sequential(before, narrow.layer2, narrow.layer3, narrow.layer4)
    assert seen_by_the_middle(after, x) == seen_by_the_middle(before, x) == [43, 43]


def test_the_network_given_stays_as_it_is() -> None:
    net, x = trunk().train(), torch.randn(2, 2, 16, 16)
    net[3].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    narrow = pl.local_trunk(net, x, "0")
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in narrow.modules()] == [m.training for m in net.modules()]
    assert not any(m._forward_hooks for m in (*net.modules(), *narrow.modules()))


def test_what_cannot_be_made_narrow_is_said() -> None:
    x = torch.randn(2, 2, 16, 16)
    with pytest.raises(LayerError, match="no layer 'nowhere'"):
        pl.local_trunk(trunk(), x, "nowhere")
    with pytest.raises(OptionError, match="No convolution runs after '4'"):
        pl.local_trunk(trunk(), x, "4")
    pooled = nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    with pytest.raises(LayerError, match="'1' \\(MaxPool2d\\) runs after '0'"):
        pl.local_trunk(pooled, x, "0")
    idle = nn.Sequential(nn.Conv2d(2, 4, 3))
    idle.spare = nn.Identity()  # type: ignore[assignment]
    idle.forward = lambda x: idle[0](x)  # type: ignore[method-assign]
    with pytest.raises(LayerError, match="'spare' does not run"):
        pl.local_trunk(idle, x, "spare")


def test_a_network_that_needs_its_sizes_is_refused_with_the_reason() -> None:
    flat = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 12 * 12, 2))
    with pytest.raises(OptionError, match="does not run with 1-wide"):
        pl.local_trunk(flat, torch.randn(2, 2, 16, 16), "0")


def test_a_narrow_network_of_the_zoo_is_rebuilt_from_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    narrow = pl.local_trunk(zoo.build("torchvision:resnet18", num_classes=3), x, "layer2")
    for k, made in enumerate((pl.convert(narrow, x), pl.multi_scale(narrow, x, "layer3", instead=True))):
        made.save(tmp_path / str(k))
        again = pl.load(tmp_path / str(k))
        assert torch.equal(again(x), made(x))
        assert pl.explain(again, x).map.shape[-2:] == (8, 8)
