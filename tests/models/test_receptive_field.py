"""Fields are compared with where gradients reach: a slow, literal measurement on networks whose weights are all positive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.models import zoo
from pellucid.models.convert import convert
from pellucid.models.receptive_field import Field, receptive_field
from pellucid.models.s8 import S8
from pellucid.models.trace import trace


def positive(model: nn.Module) -> nn.Module:
    """All weights positive and maxima turned into means: nothing cancels and every way is taken."""
    for name, module in list(model.named_modules()):
        for key, child in list(module.named_children()):
            kind = type(child).__name__
            if kind.startswith("MaxPool"):
                mean = getattr(nn, kind.replace("Max", "Avg"))
                setattr(module, key, mean(child.kernel_size, child.stride, child.padding, child.ceil_mode))
        del name
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(
                p.abs() / p.abs().mean().clamp_min(1e-6) / max(p[0].numel(), 1)
                if p.ndim > 1
                else torch.rand_like(p) + 0.5
            )
    return model.double().eval()


def field_of(model: nn.Module, layer: str, x: Tensor) -> Field | None:
    found = trace(model, lambda: model(x), (x,), lambda output: output)
    cut = [ref for ref, points in found.points.items() if any(p.kind == "output" and p.name == layer for p in points)][
        -1
    ]
    return receptive_field(found, cut, x.ndim - 2)


def reach(model: nn.Module, layer: str, x: Tensor, cell: int) -> list[tuple[float, float]]:
    """Per axis, centre and length of the stretch of the input that has a gradient to one inner cell of the map."""
    x = x.clone().requires_grad_()
    taken: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, a, out: taken.append(out))
    model(x)
    handle.remove()
    index = (0, slice(None), *(min(cell, n - 1) for n in taken[0].shape[2:]))
    (slope,) = torch.autograd.grad(taken[0][index].sum(), x)
    spans = []
    for axis in range(2, x.ndim):
        touched = slope.abs().sum([a for a in range(x.ndim) if a != axis]).nonzero().flatten()
        low, high = int(touched[0]), int(touched[-1])
        assert low > 0
        assert high < x.shape[axis] - 1, "the cell is too near the border to measure"
        spans.append(((low + high) / 2, high - low + 1.0))
    return spans


def check(model: nn.Module, layer: str, x: Tensor, cell: int) -> Field:
    model = positive(model)
    field = field_of(model, layer, x.double())
    assert field is not None
    for axis, (centre, length) in enumerate(reach(model, layer, x.double().abs() + 0.1, cell)):
        assert field.start[axis] + field.jump[axis] * cell == centre
        assert field.size[axis] == length
    return field


@pytest.mark.parametrize("local", [False, True])
def test_s8_has_the_documented_field_in_every_rank(rank: int, local: bool) -> None:
    field = check(
        S8(1, 2, rank, channels=(2, 2, 2, 2, 2, 2), local=local),
        "features",
        torch.rand(1, 1, *(120,) * rank) if rank < 3 else torch.rand(1, 1, 64, 64, 64),
        7 if rank < 3 else 4,
    )
    assert field.size == ((23.0 if local else 55.0),) * rank
    assert field.jump == (8.0,) * rank


class Wrapped(nn.Module):
    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(2).mean(2)


class Branches(nn.Module):
    """Branches of different reach and equal centre, a shuffle of channels, an unpadded path."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 2, 5, padding=2)
        self.last = nn.Conv2d(4, 2, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        y = torch.cat([self.a(left), self.c(right)], 1) + self.b(right)
        return self.last(y.view(len(y), 2, 2, *y.shape[2:]).transpose(1, 2).flatten(1, 2))


class ChannelsLast(nn.Module):
    """A linear layer over channels that stand last, as in ConvNeXt: it runs on rows of all places."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = x.movedim(1, -1)
        return (y + self.wide(torch.nn.functional.gelu(self.narrow(y)))).movedim(-1, 1)


@pytest.mark.parametrize(
    "features",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3, 2), ChannelsLast(), nn.Conv2d(2, 2, (3, 5), 2)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d((31, 26)), nn.Conv2d(2, 2, 3)),
        nn.Sequential(nn.Conv1d(1, 2, 7, 2), nn.MaxPool1d(3, 2, ceil_mode=True), nn.Conv1d(2, 2, 3, dilation=3), nn.AvgPool1d(2), nn.Conv1d(2, 2, 4, 2, 1)),
        nn.Sequential(nn.ConstantPad1d((5, 0), 0.0), nn.Conv1d(1, 2, 6), nn.ReplicationPad1d((1, 2)), nn.Conv1d(2, 2, 4, 3)),
        nn.Sequential(nn.Conv2d(1, 4, 4, 4), Branches()),
        nn.Sequential(nn.Conv2d(1, 4, (3, 5), (1, 2), (1, 0)), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2)),
    ],
    ids=["channels last", "even adaptive pooling", "unpadded", "padded by hand", "branches", "unequal axes"],
)  # fmt: skip
def test_fields_are_where_gradients_reach(features: nn.Module) -> None:
    size = (150,) if isinstance(features[0], nn.Conv1d | nn.ConstantPad1d) else (64, 80)
    check(Wrapped(features), "features", torch.rand(1, 1, *size), 4)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        pytest.param("googlenet", marks=pytest.mark.slow),
        pytest.param("inception_v3", marks=pytest.mark.slow),
    ],
)
def test_torchvision_stems_are_where_gradients_reach(name: str) -> None:
    layer, size = {"resnet18": ("layer2", 224), "googlenet": ("inception4a", 320), "inception_v3": ("Mixed_6a", 448)}[
        name
    ]
    check(zoo.build(f"torchvision:{name}", num_classes=2), layer, torch.rand(1, 3, size, size), 11)


@pytest.mark.parametrize(
    ("name", "side", "size", "start"),
    [
        ("resnet18", 64, 435.0, 0.0),
        pytest.param("resnet50", 64, 427.0, 0.0, marks=pytest.mark.slow),
        ("mobilenet_v2", 64, 491.0, 0.0),
        pytest.param("densenet121", 64, 2071.0, 14.0, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 64, None, 0.0, marks=pytest.mark.slow),
    ],
)
def test_published_fields(name: str, side: int, size: float | None, start: float) -> None:
    certificate = convert(zoo.build(f"torchvision:{name}", num_classes=2), torch.randn(1, 3, side, side)).certificate
    assert certificate.start == (start, start)
    assert certificate.jump == (32.0, 32.0)
    assert certificate.receptive_field == (None if size is None else (size, size))
    assert certificate.whole_input == (size is None)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()


class Apart(nn.Module):
    """Two branches whose cells look at different places: a 2-wide mean and a strided 3-wide convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.side(nn.functional.avg_pool2d(x, 2))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        tokens = y.flatten(2).transpose(1, 2)
        mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return mixed.transpose(1, 2).reshape(y.shape)


@pytest.mark.parametrize(
    ("features", "known", "whole"),
    [(Gated(), True, True), (Apart(), False, False), (Attends(), False, False), (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)), True, True), (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Upsample(scale_factor=2)), False, False)],
)  # fmt: skip
def test_what_sees_everything_or_has_no_centre_is_said_to(features: nn.Module, known: bool, whole: bool) -> None:
    field: Any = field_of(Wrapped(features), "features", torch.rand(1, 1, 16, 16))
    assert (field is not None) == known
    assert not known or field.whole == whole


def test_the_geometry_of_a_call_follows_the_field() -> None:
    softcam = convert(S8(3, 2), torch.randn(1, 3, 64, 64)).eval()
    geometry = softcam.evidence(torch.randn(1, 3, 96, 80)).geometry
    assert geometry.registered
    assert geometry.grid == (12, 10)
    assert geometry.input_size == (96, 80)
    assert [c.tolist() for c in geometry.centres()] == [[8.0 * i for i in range(12)], [8.0 * i for i in range(10)]]
    assert geometry.receptive_field == (55.0, 55.0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    unknown = (
        convert(nn.Sequential(Apart(), *head), torch.randn(1, 1, 16, 16))
        .eval()
        .evidence(torch.randn(1, 1, 16, 16))
        .geometry
    )
    assert not unknown.registered
    assert unknown.receptive_field is None


class Evened(nn.Module):
    """Pads to an even size before each stride, as TensorFlow does: where a cell looks depends on the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        total = 2 if x.shape[-1] % 2 else 1
        return self.conv(nn.functional.pad(x, (total // 2, total - total // 2)))


def test_centres_that_depend_on_the_size_are_not_carried_over_to_another() -> None:
    softcam = convert(
        nn.Sequential(Evened(), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)),
        torch.randn(1, 1, 20),
    ).eval()
    assert softcam.evidence(torch.randn(1, 1, 26)).geometry.start == (1.0,)
    assert not softcam.evidence(torch.randn(1, 1, 21)).geometry.registered
