"""Where cells look is held against gradients of linearised networks, and against the pictures that are drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import spatial
from pellucid.explanation import Explanation
from pellucid.models import dirac, zoo
from pellucid.models.convert import convert
from pellucid.models.receptive_field import Field, by_recurrence, centre_interval, receptive_field
from pellucid.models.trace import Ref, Trace, trace
from pellucid.render.overlay import overlay
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget

slow = pytest.mark.slow


def traced(model: nn.Module, layer: str, x: Tensor) -> tuple[Trace, Ref]:
    found = trace(model, lambda: model(x), (x,), lambda output: output)
    refs = [ref for ref, points in found.points.items() if any(p.kind == "output" and p.name == layer for p in points)]
    return found, refs[-1]


class Wrapped(nn.Module):
    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(2).mean(2)


def vgg16() -> nn.Module:
    """The convolutions alone: what follows plays no part, and is slow to make."""
    from torchvision.models.vgg import cfgs, make_layers

    return Wrapped(make_layers(cfgs["D"]))


def build(name: str) -> nn.Module:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (vgg16() if name == "vgg16" else zoo.build(name, num_classes=2)).eval()


# --- centre and reach, where nothing is clipped ---------------------------------------------------------------------------


@dataclass
class Known:
    """layer: whose output is the feature map. size: of the field. start: centre of the first cell. length: of the strip."""

    name: str
    layer: str
    start: float
    size: float
    length: int
    whole: bool = False
    sized: bool = False
    jump: float = 32.0


LIST = [
    Known("torchvision:resnet18", "layer4", 0, 435, 512),
    Known("torchvision:resnet50", "layer4", 0, 427, 512),
    Known("torchvision:mobilenet_v2", "features", 0, 491, 576),
    Known("torchvision:efficientnet_v2_s", "features", 0, 1487, 1600, whole=True),
    Known("torchvision:densenet121", "features", 14, 2071, 2176),
    Known("vgg16", "features", 15.5, 212, 320),
    Known("torchvision:convnext_tiny", "features", 15.5, 1688, 1792),
    Known("timm:tf_efficientnet_b0", "bn2", 31, 851, 960, whole=True, sized=True),
    Known("torchvision:inception_v3", "Mixed_7c", 37, 1311, 1472),
    Known("torchvision:googlenet", "inception5b", 22, 379, 512),
    Known("torchvision:squeezenet1_1", "features", 15, 207, 320, jump=16),
    Known("timm:vovnet39a", "stages", 28, 1147, 1280),
]
QUICK = (
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "vgg16",
    "torchvision:squeezenet1_1",
    "torchvision:googlenet",
)


def by_name(networks: list[Known]) -> list[object]:
    return [pytest.param(k, id=k.name.split(":")[-1], marks=[] if k.name in QUICK else [slow]) for k in networks]


def linearised(model: nn.Module) -> nn.Module:
    """A copy with positive weights, maxima turned into means, and without gates, normalisations and activations that
    saturate: nothing cancels, and a sample has a gradient if and only if there is a way from it to the cell.
    """
    model = copy.deepcopy(model)
    removed = (nn.LayerNorm, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.GELU, nn.SiLU)
    for module in list(model.modules()):
        for key, child in list(module.named_children()):
            kind = type(child).__name__
            if isinstance(child, nn.MaxPool2d):
                setattr(module, key, nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
            elif isinstance(child, removed) or kind.startswith(("Squeeze", "SE")):
                setattr(module, key, nn.Identity())
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.abs() / p.abs().mean().clamp_min(1e-6) / p[0].numel() if p.ndim > 1 else torch.rand_like(p) + 0.5)
    return model.double().eval()


def support(model: nn.Module, layer: str, x: Tensor, axis: int, cell: int) -> tuple[int, int]:
    """The first and the last sample along `axis` that have a gradient to the cell."""
    x = x.double().requires_grad_()
    taken: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, a, out: taken.append(out))
    model(x)
    handle.remove()
    (slope,) = torch.autograd.grad(taken[0].select(axis, cell).sum(), x)
    touched = slope.abs().sum([a for a in range(4) if a != axis]).nonzero().flatten()
    return int(touched[0]), int(touched[-1])


@pytest.mark.parametrize("axis", [2, 3], ids=["rows", "columns"])
@pytest.mark.parametrize("known", by_name(LIST))
def test_gradients_reach_as_far_as_the_field_on_both_sides(
    known: Known, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a strip that is longer than the field; its other side is as short as the network allows."""
    model, short = build(known.name), 96 if "inception" in known.name else 32
    x = torch.rand(1, 3, *((known.length, short) if axis == 2 else (short, known.length)))
    found, cut = traced(model, known.layer, x)
    field = receptive_field(found, cut, 2)
    assert field is not None
    assert field.size is not None
    assert (field.start[axis - 2], field.jump[axis - 2], field.size[axis - 2]) == (known.start, known.jump, known.size)
    assert (field.whole, field.sized) == (known.whole, known.sized)
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    cell = found.shape(cut)[axis] // 2
    low, high = support(linearised(model), known.layer, x, axis, cell)
    assert low > 0
    assert high < known.length - 1, "the cell is too near the border to measure"
    centre = known.start + known.jump * cell
    assert (low, high) == (centre - (known.size - 1) / 2, centre + (known.size - 1) / 2)


# --- the ramp ---------------------------------------------------------------------------------------------------------------

SMALL = {
    "torchvision:resnet18": "layer4",
    "torchvision:mobilenet_v2": "features",
    "torchvision:mobilenet_v3_small": "features",
    "torchvision:shufflenet_v2_x1_0": "conv5",
    "torchvision:squeezenet1_1": "features",
    "torchvision:googlenet": "inception5b",
    "torchvision:regnet_y_400mf": "trunk_output",
    "torchvision:efficientnet_b0": "features",
    "torchvision:mnasnet0_5": "layers",
    "vgg16": "features",
    "timm:convnext_atto": "stages",
    "timm:tf_efficientnet_b0": "bn2",
}


@pytest.mark.parametrize("name", list(SMALL), ids=lambda name: name.split(":")[-1])
def test_the_ramp_agrees_with_the_recurrence(name: str) -> None:
    found, cut = traced(build(name), SMALL[name], torch.randn(1, 3, 128, 160))
    field, ramp = by_recurrence(found, cut, 2), dirac.ramp(found, cut, 2)
    assert field is not None
    assert ramp is not None
    assert ramp.settled
    assert (ramp.axes, ramp.low, ramp.jump, ramp.whole) == (field.axes, field.start, field.jump, field.whole)


@slow
@pytest.mark.parametrize("known", [k for k in LIST if k.name not in SMALL], ids=lambda k: k.name.split(":")[-1])
def test_the_ramp_agrees_with_the_recurrence_on_large_networks(known: Known) -> None:
    found, cut = traced(build(known.name), known.layer, torch.randn(1, 3, 256, 256))
    ramp = dirac.ramp(found, cut, 2)
    assert ramp is not None
    assert ramp.settled
    assert (ramp.low, ramp.jump, ramp.whole) == ((known.start,) * 2, (known.jump,) * 2, known.whole)


def test_positions_sent_through_centre_taps_by_hand_give_the_same_centres() -> None:
    """ResNet-18 itself with one weight of 1 at the middle of every kernel, fed with a ramp and with ones."""
    model, side = build("torchvision:resnet18"), 160
    found, cut = traced(model, "layer4", torch.randn(1, 3, side, side))
    ramp = dirac.ramp(found, cut, 2)
    assert ramp is not None
    tapped = copy.deepcopy(model).double()
    for module in list(tapped.modules()):
        for key, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                child.weight.data.zero_()
                child.weight.data[..., child.kernel_size[0] // 2, child.kernel_size[1] // 2] = 1 / child.in_channels
            elif isinstance(child, nn.BatchNorm2d | nn.ReLU):
                setattr(module, key, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, key, nn.AvgPool2d(1, child.stride))  # the middle of 3 with padding 1
    fed = torch.arange(side, dtype=torch.float64).view(1, 1, -1, 1).expand(1, 3, side, side)
    taken: list[Tensor] = []
    tapped.layer4.register_forward_hook(lambda m, a, out: taken.append(out))
    tapped(fed), tapped(torch.ones_like(fed))
    ratio = (taken[0] / taken[1])[0, 0, :, 0]
    expected = ramp.low[0] + ramp.jump[0] * torch.arange(5, dtype=torch.float64)
    torch.testing.assert_close(ratio, expected, rtol=0, atol=1e-9)


def test_the_ramp_has_no_rank(rank: int) -> None:
    """Windows even and odd, dilated, padded by hand, with and without padding of their own, unequal ends."""
    conv, pool, mean = (getattr(nn, f"{kind}{rank}d") for kind in ("Conv", "MaxPool", "AvgPool"))
    features = nn.Sequential(
        conv(1, 4, 5, 2), getattr(nn, f"ConstantPad{rank}d")((1, 0) * rank, 0.0), pool(3, 1, 1), conv(4, 4, 3, groups=2, dilation=2),
        getattr(nn, f"BatchNorm{rank}d")(4), nn.ReLU(), mean(2, ceil_mode=True), conv(4, 2, 4, 1, 1),
    ).eval()  # fmt: skip
    found, cut = traced(Wrapped(features), "features", torch.randn(1, 1, *(47, 40, 43)[:rank]))
    field, ramp = by_recurrence(found, cut, rank), dirac.ramp(found, cut, rank)
    # By hand: 2, less 2 for the sample put before, plus 0 and 2 x 2 for the dilated kernel, half a step of 2, half of 4.
    start = 2.0 - 2 + 0 + 2 * 2 + 0.5 * 2 + 0.5 * 4
    assert field is not None
    assert ramp is not None
    assert (field.start, field.jump) == (ramp.low, ramp.jump) == ((start,) * rank, (4.0,) * rank)
    assert ramp.settled


class Merging(nn.Module):
    """Patches of 2 x 2 moved into channels, in one of three spellings, and mixed: a 2 x 2 convolution of stride 2."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.first, self.spelling, self.mix = nn.Conv2d(1, 4, 3, 1, 1), spelling, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.spelling == "unshuffle":
            y = F.pixel_unshuffle(y, 2).movedim(1, -1)
        elif self.spelling == "slices":
            y = y.movedim(1, -1)
            y = torch.cat([y[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        else:
            b, c, h, w = y.shape
            y = y.movedim(1, -1).reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.mix(F.layer_norm(y, (16,))).movedim(-1, 1)


class Rolled(nn.Module):
    """Attention within windows of a rolled map, and a way around it."""

    def __init__(self, around: bool) -> None:
        super().__init__()
        self.first, self.around = nn.Conv2d(1, 8, 4, 4), around

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        b, c, h, w = y.shape
        rolled = y.roll((-2, -2), (2, 3)).reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
        tokens = rolled.reshape(-1, 16, c)
        mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        back = mixed.reshape(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(y.shape).roll((2, 2), (2, 3))
        return y + back if self.around else back


class Fused(nn.Module):
    """Attention over all places by the fused operation, and a way around it."""

    def __init__(self, around: bool) -> None:
        super().__init__()
        self.first, self.around = nn.Conv2d(1, 8, 3, 2, 1), around

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        tokens = y.flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).reshape(y.shape)
        return y + mixed if self.around else mixed


class Beside(nn.Module):
    """A 2 x 2 pooling beside two 2 x 2 convolutions, joined: neighbours half a stride apart are no patch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b, self.last = (
            nn.Conv2d(1, 4, 3, 2, 1),
            nn.Conv2d(4, 4, 2),
            nn.Conv2d(4, 4, 2),
            nn.Conv2d(8, 4, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.first(x), (0, 1, 0, 1))
        return self.last(torch.cat([F.max_pool2d(y, 2, 1), self.b(F.pad(self.a(y), (0, 1, 0, 1)))], 1))


class Shortcut(nn.Module):
    """As in ResNet-D: the shortcut averages 2 x 2, the main path strides over the first of two."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(1, 4, 1)
        self.more = nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.more(self.main(x) + self.side(F.avg_pool2d(x, 2)))


class Mixer(nn.Module):
    """Mixes all tokens with learned weights, and a way around it."""

    def __init__(self, around: bool) -> None:
        super().__init__()
        self.first, self.mix, self.around = nn.Conv2d(1, 4, 4, 4), nn.Linear(64, 64), around

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        mixed = self.mix(y.flatten(2)).reshape(y.shape)
        return y + mixed if self.around else mixed


class Enlarged(nn.Module):
    """A coarse map enlarged and mixed again: odd and even cells see it differently."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.fine, self.coarse, self.last = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fine(x)
        coarse = self.coarse(y)
        if self.by_hand:
            large = coarse[..., :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(y.shape)
        else:
            large = F.interpolate(coarse, scale_factor=2)
        return self.last(y + large)


def both(features: nn.Module) -> tuple[Field | None, tuple[tuple[float, float], ...] | None]:
    found, cut = traced(Wrapped(features), "features", torch.randn(2, 1, 32, 32))
    return receptive_field(found, cut, 2), centre_interval(found, cut, 2)


@pytest.mark.parametrize("spelling", ["unshuffle", "slices", "views"])
def test_patches_moved_into_channels_are_a_convolution(spelling: str) -> None:
    field, _ = both(Merging(spelling))
    same, _ = both(nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 2, 2)))
    assert field is not None
    assert same is not None
    assert (
        (field.axes, field.start, field.jump) == (same.axes, same.start, same.jump) == ((2, 3), (0.5, 0.5), (2.0, 2.0))
    )
    assert field.sized


@pytest.mark.parametrize(
    ("kind", "start"), [(Rolled, 1.5), (Fused, 0.0), (Mixer, 1.5)], ids=["windows", "fused attention", "token mixing"]
)
def test_what_draws_on_all_places_has_the_place_of_the_way_around_it(
    kind: Callable[[bool], nn.Module], start: float
) -> None:
    field, _ = both(kind(True))
    assert field is not None
    assert field.start == (start, start)
    assert field.whole
    assert both(kind(False)) == (None, None)


@pytest.mark.parametrize(
    ("features", "interval"),
    [(Shortcut(), (0.0, 0.5)), (Beside(), (1.0, 2.0)), (Enlarged(False), None), (Enlarged(True), None)],
    ids=["shortcut", "beside", "enlarged", "enlarged by hand"],
)
def test_cells_whose_ways_disagree_have_an_interval_and_no_centre(
    features: nn.Module, interval: tuple[float, float] | None
) -> None:
    assert both(features) == (None, None if interval is None else (interval, interval))


@slow
@pytest.mark.parametrize(
    ("name", "layer", "start"),
    [
        ("torchvision:swin_t", "permute", 15.5),
        ("torchvision:swin_v2_t", "permute", 15.5),
        ("timm:davit_tiny", "stages", 14.0),
        ("timm:coatnet_nano_rw_224", "stages", 15.0),
        ("timm:pvt_v2_b0", "stages", 0.0),
        ("timm:hgnetv2_b0", "stages", None),
        ("timm:resnet50d", "layer4", None),
        ("timm:levit_128s", "stages", None),
        ("timm:gcvit_xxtiny", "stages", None),
    ],
)
def test_networks_that_the_recurrence_does_not_know(name: str, layer: str, start: float | None) -> None:
    """Shifts of plain resizing known from a study of its own: 0, 0, -1.5, -0.5, -15.5 pixels; the rest depends on weights."""
    found, cut = traced(build(name), layer, torch.randn(1, 3, 224, 224))
    field = receptive_field(found, cut, 2)
    assert by_recurrence(found, cut, 2) is None
    assert (None if field is None else field.start) == (None if start is None else (start, start))


def test_a_conversion_registers_what_only_the_ramp_knows() -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    softcam = convert(nn.Sequential(Rolled(True), *head), torch.randn(2, 1, 32, 32)).eval()
    assert softcam.certificate.start == (1.5, 1.5)
    assert softcam.certificate.whole_input
    assert softcam.evidence(torch.randn(1, 1, 48, 64)).geometry.registered
    apart = convert(
        nn.Sequential(Shortcut(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), torch.randn(2, 1, 32, 32)
    )
    assert apart.certificate.start is None


# --- drawing ------------------------------------------------------------------------------------------------------------------


def shown(geometry: Geometry, cell: tuple[int, int]) -> Explanation:
    """A map that is one at one cell."""
    maps = torch.zeros(1, *geometry.grid)
    maps[(0, *cell)] = 1
    logits = torch.tensor([[0.0, 1.0]])
    return Explanation(
        maps, geometry, ClassTarget(torch.ones(1, dtype=torch.long)), logits[:, 1], logits, "evidence", complete=True
    )


def plateau(values: np.ndarray) -> list[tuple[float, float]]:
    """First and last position of the highest value per axis."""
    rows = np.argwhere(values >= values.max() - 1e-6)
    return list(zip(rows.min(0).tolist(), rows.max(0).tolist(), strict=True))


def check_peak(geometry: Geometry, values: np.ndarray, cell: tuple[int, int]) -> None:
    """Inner cells have their peak within 1 sample of the centre; the value of outermost ones is held to the border."""
    for axis, (low, high) in enumerate(plateau(values)):
        scale = geometry.input_size[axis] / values.shape[axis]
        low, high = ((p + 0.5) * scale - 0.5 for p in (low, high))
        centre = float(geometry.centres()[axis][cell[axis]])
        if 0 < cell[axis] < geometry.grid[axis] - 1:
            assert abs((low + high) / 2 - centre) <= 1
            assert high - low <= 2 * scale
        else:
            assert low - 1 <= centre <= high + 1


def cells_of(geometry: Geometry) -> list[tuple[int, int]]:
    last = min(geometry.grid) - 1
    return [(0, 0), (1, 1), (last // 2, last // 2), (last - 1, last - 1), (last, last), (1, last - 1), (last, 0)]


@pytest.mark.parametrize("side", [224, 512])
@pytest.mark.parametrize(
    ("start", "jump"),
    [(0.0, 32.0), (14.0, 32.0), (15.5, 32.0), (31.0, 32.0), (37.0, 32.0), (22.0, 32.0), (15.0, 16.0), (0.0, 8.0)],
)
def test_the_overlay_of_one_cell_peaks_at_its_centre(start: float, jump: float, side: int) -> None:
    """Starts and strides of the networks above, with as many cells as have their centres on the input."""
    count = int((side - 1 - start) // jump) + 1
    geometry = Geometry((count, count), (side, side), (start, start), (jump, jump), registered=True)
    for cell in cells_of(geometry):
        one = shown(geometry, cell)
        check_peak(geometry, spatial.upsample(one.map[0].double(), geometry).numpy(), cell)
        for width in (side, 360) if cell[0] in (1, 3) else (side,):
            picture = np.asarray(overlay(one, title="", bar=False, width=width), dtype=float)
            check_peak(geometry, np.abs(picture - picture[..., :1].max()).sum(-1), cell)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:tf_efficientnet_b0"], ids=lambda n: n.split(":")[-1])
def test_a_converted_network_draws_its_cells_where_they_look(name: str) -> None:
    softcam = convert(build(name), torch.randn(2, 3, 96, 96)).eval()
    for side in (224, 512):
        geometry = softcam.geometry((side // 32, side // 32), (side, side))
        assert geometry.registered
        assert geometry.start == ((0.0, 0.0) if "resnet" in name else (31.0, 31.0))
        off = [float(s) for s in geometry.shift()[0]]
        assert off == [-15.5 if "resnet" in name else 15.5] * (side // 32)
        one = shown(geometry, (2, 3))
        picture = np.asarray(overlay(one, title="", bar=False, width=side), dtype=float)
        check_peak(geometry, np.abs(picture - picture[..., :1].max()).sum(-1), (2, 3))
