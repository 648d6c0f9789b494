"""Wrong conversions, planted: features, weight and bias that look right must be told from those that are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import ConversionError
from pellucid.models.head import TOLERANCE, check_head, departure, full_weight, read

CPU = torch.device("cpu")


def tangent(tail: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
    """The linear head that fits `tail` perfectly around real features: what a test on the example alone would accept."""
    features = features.double().requires_grad_()
    logits = tail(features)[0]
    weight = torch.stack([torch.autograd.grad(v, features, retain_graph=True)[0][0].flatten(1).sum(1) for v in logits])
    return weight, (logits - weight @ features[0].flatten(1).mean(1)).detach()


class Tail(nn.Module):
    def __init__(self, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.before(x).flatten(2).mean(2))


def tails() -> dict[str, Tail]:
    torch.manual_seed(0)
    mobile = nn.Sequential(nn.Linear(16, 24), nn.Hardswish(), nn.Linear(24, 5))
    norm = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 5))
    return {
        "DenseNet without its ReLU": Tail(nn.ReLU(), nn.Linear(16, 5)).double(),
        "MobileNetV3 pooled late": Tail(nn.Identity(), mobile).double(),
        "LayerNorm at every cell": Tail(nn.Identity(), norm).double(),
        "almost straight": Tail(nn.Identity(), Bent(nn.Linear(16, 5))).double(),
    }


class Bent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y + 1e-3 * y.tanh()


@pytest.mark.parametrize("name", list(tails()))
def test_a_wrong_head_is_refused(name: str) -> None:
    tail, features = tails()[name], torch.randn(1, 16, 4, 4).abs() + 0.5
    weight, bias = tangent(tail, features)
    fitted = weight @ features.double()[0].flatten(1).mean(1) + bias
    assert torch.allclose(fitted, tail(features.double())[0], atol=1e-12)  # on the example nothing is to be seen
    with pytest.raises(ConversionError, match="not linear in the mean"):
        check_head(tail, (1, 16, 4, 4), weight, bias)
    assert departure(tail, (1, 16, 4, 4), CPU) > 1e-5


def test_late_pooling_passes_on_weak_features_and_fails_here() -> None:
    """Evidence of MobileNetV3 made per cell: on nearly constant features the difference is far below any tolerance."""
    tail = tails()["MobileNetV3 pooled late"]
    head = tail.after
    weak = 1e-4 * torch.randn(1, 16, 4, 4, dtype=torch.float64) + 0.01 * torch.randn(1, 16, 1, 1, dtype=torch.float64)
    per_cell = head(weak.flatten(2).transpose(1, 2)).mean(1)
    assert (per_cell - tail(weak)).abs().max() < 1e-8 < departure(tail, weak.shape, CPU)


def test_layer_norm_per_cell_is_another_function() -> None:
    tail = tails()["LayerNorm at every cell"]
    norm, linear = tail.after
    features = torch.randn(1, 16, 4, 4, dtype=torch.float64)
    per_cell = linear(norm(features.flatten(2).transpose(1, 2))).mean(1)
    assert (per_cell - tail(features)).abs().max() > 0.1
    with pytest.raises(ConversionError):
        check_head(tail, features.shape, linear.weight * norm.weight, linear(norm.bias))


@pytest.mark.parametrize("grid", [(7,), (3, 4), (2, 3, 2)])
def test_a_linear_head_is_read_and_confirmed(grid: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(6, 4).double()
    tail = Tail(nn.Identity(), linear)
    shape = (2, 6, *grid)
    reading = read(tail, shape, CPU)
    assert reading.affine
    assert reading.channel_axis == 1
    assert reading.used == reading.places == torch.tensor(grid).prod()
    assert torch.allclose(full_weight(tail, shape, 1, CPU), linear.weight, atol=1e-13)
    assert check_head(tail, shape, linear.weight, linear.bias) <= TOLERANCE
    with pytest.raises(ConversionError):
        check_head(tail, shape, linear.weight, linear.bias + 1e-6)
    with pytest.raises(ConversionError):
        check_head(tail, shape, linear.weight * (1 + 1e-7), linear.bias)


def test_places_on_the_middle_axes_and_sums() -> None:
    linear = nn.Linear(5, 3).double()
    reading = read(lambda z: linear(z.sum((1, 2))), (2, 4, 6, 5), CPU)
    assert reading.channel_axis == -1
    assert reading.places == 24
    assert torch.allclose(reading.slopes, reading.directions @ linear.weight, atol=1e-12)


def test_a_class_token_is_linear_and_yet_no_map() -> None:
    linear = nn.Linear(8, 3).double()
    reading = read(lambda tokens: linear(tokens[:, 0]), (1, 10, 8), CPU)
    assert reading.affine
    assert reading.channel_axis is None
    assert (reading.used, reading.places) == (1, 10)


def test_weights_per_place_are_seen() -> None:
    linear = nn.Linear(8 * 9, 3).double()
    reading = read(lambda z: linear(z.flatten(1)), (1, 8, 3, 3), CPU)
    assert reading.affine
    assert reading.channel_axis is None


def test_max_pooling_and_generalised_means_bend() -> None:
    for tail in (
        lambda z: z.amax((2, 3)),
        lambda z: z.abs().pow(3).mean((2, 3)).pow(1 / 3),
        lambda z: F.softmax(z.mean((2, 3)), 1),
    ):
        assert departure(tail, (2, 5, 4, 4), CPU) > 1e-3
