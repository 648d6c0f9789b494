from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pellucid.errors import OptionError
from pellucid.models.s8 import S8


def test_it_computes_what_the_layers_say() -> None:
    torch.manual_seed(0)
    net = S8().train()
    x = torch.randn(2, 3, 32, 32)
    y = x
    for block, stride in zip(net.features, (2, 2, 1, 2, 1, 1), strict=True):
        y = F.conv2d(y, block[0].weight, stride=stride, padding=1)
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
        y = ((y - mean) / (var + 1e-5).sqrt()).clamp_min(0)
    assert torch.allclose(net(x), y.mean((2, 3)) @ net.head.weight.T + net.head.bias, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "count"), [({}, 106416 + 544 + 130), ({"local": True}, 106416 + 544 + 130 - 2 * 8 * 64 * 64)]
)
def test_the_documented_number_of_weights(options: dict[str, bool], count: int) -> None:
    assert sum(p.numel() for p in S8(**options).parameters()) == count  # type: ignore[arg-type]


def test_ranks_agree_on_inputs_that_are_constant_along_the_new_axis() -> None:
    """A kernel that only acts along the first axis, repeated along a second one, is the same network."""
    one, two = S8(2, 3, 1, channels=(4, 4), strides=(2, 1)).eval(), S8(2, 3, 2, channels=(4, 4), strides=(2, 1)).eval()
    with torch.no_grad():
        for a, b in zip(one.features, two.features, strict=True):
            b[0].weight.zero_()
            b[0].weight[:, :, :, 1] = a[0].weight
        two.head.load_state_dict(one.head.state_dict())
    x = torch.randn(2, 2, 16)
    assert torch.allclose(one(x), two(x[..., None].expand(-1, -1, -1, 8)), atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"rank": 4}, {"channels": (8,), "strides": (1, 2)}, {"channels": (), "strides": ()}]
)
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        S8(**options)  # type: ignore[arg-type]
