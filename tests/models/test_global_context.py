from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pellucid.models import zoo
from pellucid.models.convert import convert
from pellucid.models.global_context import global_context
from pellucid.models.trace import Ref, trace
from reference.odd_nets import trunk


class SqueezeExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.mix = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)

    def forward(self, z: Tensor) -> Tensor:
        return z * self.mix(self.pool(z)).sigmoid()


class Attention(nn.Module):
    """Tokens attend to all tokens, beside a residual sum."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.fused = nn.Linear(8, 24), fused

    def forward(self, z: Tensor) -> Tensor:
        tokens = z.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
        return (tokens + mixed).transpose(1, 2).reshape(z.shape)


class TokenMixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(256, 256)

    def forward(self, z: Tensor) -> Tensor:
        return z + self.mix(z.flatten(2)).view(z.shape)


class PerPlaceNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def named(model: nn.Module, side: int = 32) -> tuple[str, ...]:
    """Global context before the last tensor with places that every path goes through."""
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    traced = trace(model.eval(), lambda: model(x), (x,), lambda output: output)
    cut: Ref = next(c for c in traced.cuts() if len(traced.shape(c)) == 4 and traced.shape(c)[-1] > 1)
    return global_context(traced, cut, model, 2)


def net(*middle: nn.Module) -> nn.Sequential:
    tail = (nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(trunk(), *middle, *tail)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (SqueezeExcitation, "1 (SqueezeExcitation)"),
        (lambda: nn.GroupNorm(2, 8), "1 (GroupNorm)"),
        (lambda: nn.InstanceNorm2d(8), "1 (InstanceNorm2d)"),
        (lambda: nn.BatchNorm2d(8, track_running_stats=False), "1 (BatchNorm2d)"),
        (lambda: nn.LayerNorm([8, 16, 16]), "1 (LayerNorm)"),
        (lambda: Attention(False), "1 (Attention)"),
        (lambda: Attention(True), "1 (Attention)"),
        (TokenMixing, "1 (TokenMixing)"),
    ],
)
def test_layers_that_see_everything_are_named(make: Callable[[], nn.Module], name: str) -> None:
    assert named(net(make())) == (name,)
    assert named(net(make(), nn.Conv2d(8, 8, 1), make())) == (name, name.replace("1", "3", 1))


@pytest.mark.parametrize(
    "middle",
    [
        nn.BatchNorm2d(8),
        PerPlaceNorm(),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Hardswish()),
        nn.Dropout(),
        nn.Conv2d(8, 8, 7, padding=3, groups=8),
    ],
)
def test_layers_that_see_a_neighbourhood_are_not(middle: nn.Module) -> None:
    assert named(net(middle)) == ()


def test_what_the_network_itself_does_is_its_forward_method() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.last, self.fc = trunk(), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.trunk(x)
            return self.fc(self.last(z * z.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)))

    assert named(Gated()) == ("the forward method (Gated)",)


def test_real_networks() -> None:
    """EfficientNet-B0: all of its 16 squeeze-excitations, by name; ResNet-18 has nothing of the kind."""
    efficient = zoo.build("torchvision:efficientnet_b0")
    expected = [f"{n} ({type(m).__name__})" for n, m in efficient.named_modules() if "Squeeze" in type(m).__name__]
    assert len(expected) == 16
    assert list(named(efficient, 64)) == expected
    assert named(zoo.build("torchvision:resnet18"), 64) == ()


def test_normalisation_by_the_input_itself_makes_the_field_the_whole_input() -> None:
    """Instance normalisation runs as batch normalisation with the statistics at hand, which sees all places."""
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for layer, whole in ((nn.InstanceNorm2d(8), True), (nn.BatchNorm2d(8), False)):
        certificate = convert(net(layer).eval(), x).certificate
        assert certificate.whole_input == whole
        assert (certificate.receptive_field is None) == whole
