from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import BadInput, ConversionError, OptionError
from pellucid.models import finer as finer_module
from pellucid.models.convert import convert
from pellucid.models.finer import FinerSoftCAM
from pellucid.models.s8 import S8
from pellucid.models.softcam import Evidence, SoftCAM
from reference.odd_nets import roused


class Net(nn.Module):
    """Layers in a row, mean pooling, one linear layer."""

    def __init__(self, *layers: nn.Module, channels: int = 6, head: nn.Module | None = None) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 3) if head is None else head

    def forward(self, x: Tensor, *more: Any) -> Any:
        return self.head(self.features(x).flatten(2).mean(2))


def double(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return roused(net.eval()).double()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def converted(net: nn.Module, x: Tensor, **options: Any) -> SoftCAM:
    return convert(double(net), x, **options)


def own_cells(found: Evidence, factor: int) -> Tensor:
    steps: Any = (..., *(slice(None, None, factor),) * (found.maps.ndim - 2))
    return found.maps[steps]


def relative(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max() / b.detach().std())


@torch.no_grad()
def check_own_cells(softcam: SoftCAM, factor: int, *inputs: Tensor) -> Evidence:
    """The network's own map among the cells, and its own logits."""
    fine = softcam.finer(factor)
    found, own = fine.evidence(*inputs), softcam.evidence(*inputs)
    assert relative(own_cells(found, factor), own.maps) <= 1e-9
    assert relative(found.logits, softcam.select(softcam.model(*inputs)).reshape(found.logits.shape)) <= 1e-9
    assert relative(own_cells(found, factor).flatten(2).mean(2) + found.bias, own.logits) <= 1e-9
    assert found.maps.shape[2:] != own.maps.shape[2:]
    return found


def weighted(head: nn.Linear, features: Tensor) -> Tensor:
    return torch.einsum("bc...,kc->bk...", features, head.weight)


# Against other constructions of the same map.


@pytest.mark.parametrize("factor", [2, 4])
def test_cells_between_are_the_network_on_shifted_inputs(rank: int, factor: int) -> None:
    net = S8(2, 3, rank, channels=(4, 5, 6), strides=(2, 2, 1))
    x = noise(2, 2, *(28, 24, 25)[:rank])
    softcam = converted(net, x)
    with torch.no_grad():
        found = check_own_cells(softcam, factor, x)
        spacing = 4 // factor
        for shift in itertools.product(range(factor), repeat=rank):
            pieces: Any = (..., *(slice(k * spacing, None) for k in shift))
            moved = softcam.evidence(x[pieces].contiguous()).maps
            steps: Any = (..., *(slice(k, None, factor) for k in shift))
            among = found.maps[steps]
            # The receptive field is 15 samples at a stride of 4: two cells from the border nothing is cut off.
            inside: Any = (
                ...,
                *(slice(2, min(a, b) - 2) for a, b in zip(among.shape[2:], moved.shape[2:], strict=True)),
            )
            assert among[inside].numel() > 0
            assert relative(among[inside], moved[inside]) < 1e-12


DILATED = {2: (False, False, True), 4: (False, True, True)}


def bottlenecks(depths: tuple[int, ...], dilated: tuple[bool, ...] | None = None) -> nn.Module:
    """A ResNet of torchvision with blocks of three convolutions; (3, 4, 6, 3) is ResNet-50."""
    kinds = torchvision.models.resnet
    return kinds.ResNet(kinds.Bottleneck, list(depths), 7, replace_stride_with_dilation=dilated and list(dilated))


@pytest.mark.parametrize("factor", DILATED)
@pytest.mark.parametrize("side", [64, 90])
def test_dilated_resnet_of_torchvision_gives_the_same_map(side: int, factor: int) -> None:
    check_dilated_resnet((1, 1, 1, 2), side, factor)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "factor"), [(224, 2), (496, 2), (500, 2), (512, 2), (224, 4), (496, 4)])
def test_dilated_resnet50_of_torchvision_gives_the_same_map(side: int, factor: int) -> None:
    check_dilated_resnet((3, 4, 6, 3), side, factor)


def check_dilated_resnet(depths: tuple[int, ...], side: int, factor: int) -> None:
    x = noise(1, 3, side, side)
    softcam = converted(bottlenecks(depths), x)
    found = check_own_cells(softcam, factor, x)
    other: Any = bottlenecks(depths, DILATED[factor]).eval().double()
    other.load_state_dict(softcam.model.state_dict())
    taken: list[Tensor] = []
    other.layer4.register_forward_hook(lambda m, a, out: taken.append(out))
    with torch.no_grad():
        other(x)
        assert relative(found.maps, weighted(other.fc, taken[0])) < 1e-12
    assert found.geometry.start == (0.0, 0.0)
    assert found.geometry.jump == (32 / factor,) * 2
    assert found.geometry.registered


POOLS: dict[str, tuple[nn.Module, Any]] = {
    "max": (nn.MaxPool2d(3, 1, 1), lambda z: F.max_pool2d(F.pad(z, (2,) * 4, value=-torch.inf), 3, 1, dilation=2)),
    "average": (nn.AvgPool2d(3, 1, 1), lambda z: ones3(z) / 9),
    "average inside": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), lambda z: ones3(z) / ones3(torch.ones_like(z))),
    "average, divisor": (nn.AvgPool2d(3, 1, 1, divisor_override=5), lambda z: ones3(z) / 5),
    "convolution": (nn.Conv2d(6, 6, 3, 1, 1, groups=6), None),
    "padding of its own": (nn.Sequential(nn.ConstantPad2d((1, 1, 1, 1), 0.0), nn.Conv2d(6, 6, 3, groups=2)), None),
}


def ones3(z: Tensor) -> Tensor:
    """The sum over a 3 x 3 window of every other cell, zeros around."""
    kernel = torch.ones(z.shape[1], 1, 3, 3, dtype=z.dtype)
    return F.conv2d(z, kernel, padding=2, dilation=2, groups=z.shape[1])


@pytest.mark.parametrize("later", POOLS)
@pytest.mark.parametrize("strided", ["convolution", "pool", "pool 3", "1x1", "average"])
@pytest.mark.parametrize("side", [16, 18, 21])
def test_a_network_dilated_by_hand_gives_the_same_map(strided: str, later: str, side: int) -> None:
    moving: nn.Module
    moving, by_one = {
        "convolution": (nn.Conv2d(5, 6, 3, 2, 1), lambda m, z: F.conv2d(z, m.weight, m.bias, 1, 1)),
        "pool": (nn.MaxPool2d(2), lambda m, z: F.max_pool2d(z, 2, 1)),
        "pool 3": (nn.MaxPool2d(3, 2, 1), lambda m, z: F.max_pool2d(z, 3, 1, 1)),
        "1x1": (nn.Conv2d(5, 6, 1, 2), lambda m, z: F.conv2d(z, m.weight, m.bias)),
        "average": (nn.AvgPool2d(2, ceil_mode=True), None),
    }[strided]
    widen = nn.Conv2d(5, 6, 1) if "Pool" in type(moving).__name__ else nn.Identity()
    pool, by_hand = POOLS[later]
    net = Net(nn.Conv2d(2, 5, 3, 2, 1), moving, widen, nn.SiLU(), pool, nn.Conv2d(6, 6, 3, 1, 1), nn.SiLU())
    x = noise(2, 2, side, side)
    softcam = converted(net, x)
    found = check_own_cells(softcam, 2, x)
    f = softcam.model.features
    with torch.no_grad():
        z = f[0](x)
        if by_one is None:  # windows that stick out average what is inside
            odd = z.shape[-1] % 2
            z = F.avg_pool2d(F.pad(z, (0, odd, 0, odd), mode="replicate"), 2, 1)
        else:
            z = by_one(f[1], z)
        z = f[3](f[2](z))
        if by_hand is None:
            conv = f[4] if isinstance(f[4], nn.Conv2d) else f[4][1]
            z = F.conv2d(z, conv.weight, conv.bias, 1, 2, 2, conv.groups)
        else:
            z = by_hand(z)
        z = f[6](F.conv2d(z, f[5].weight, f[5].bias, 1, 2, 2))
        assert relative(found.maps, weighted(softcam.model.head, z)) < 1e-12


class Gated(Net):
    """Squeeze-excitation and group normalisation: two layers that see all places at once."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 6, 3, 2, 1), nn.SiLU(), nn.Conv2d(6, 6, 3, 2, 1))
        self.gate, self.norm, self.last = nn.Conv2d(6, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 6, 3, 1, 1)

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        z = self.features(x)
        z = z * self.gate(z.mean((2, 3), keepdim=True)).sigmoid()
        z = z * torch.amax(z, (2, 3), keepdim=True)
        return self.head(F.silu(self.last(self.norm(z))).mean((2, 3)))


def test_what_sees_all_places_sees_the_networks_own() -> None:
    x = noise(2, 2, 22, 20)
    softcam = converted(Gated(), x)
    found = check_own_cells(softcam, 2, x)
    net: Any = softcam.model
    with torch.no_grad():
        z = F.conv2d(F.silu(net.features[0](x)), net.features[2].weight, net.features[2].bias, 1, 1)
        z = z * net.gate(z[..., ::2, ::2].mean((2, 3), keepdim=True)).sigmoid()
        z = z * z[..., ::2, ::2].amax((2, 3), keepdim=True)
        own, groups = z[..., ::2, ::2].unflatten(1, (2, 3)), z.unflatten(1, (2, 3))
        var, mean = torch.var_mean(own, (2, 3, 4), correction=0, keepdim=True)
        z = ((groups - mean) / (var + net.norm.eps).sqrt()).flatten(1, 2)
        z = z * net.norm.weight.view(-1, 1, 1) + net.norm.bias.view(-1, 1, 1)
        z = F.silu(F.conv2d(z, net.last.weight, net.last.bias, 1, 2, 2))
        assert relative(found.maps, weighted(net.head, z)) < 1e-12


class Sliced(Net):
    """A shortcut that picks every other cell, as ResNets for small images have it."""

    begin = 0

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        z = self.features[0](x)
        return self.head(F.silu(self.features[1](z) + self.shorter(z)).mean((2, 3)))

    def shorter(self, z: Tensor) -> Tensor:
        return F.pad(z[:, :, self.begin :: 2, self.begin :: 2], (0, 0, 0, 0, 1, 1))


class Strided(Sliced):
    def shorter(self, z: Tensor) -> Tensor:
        picking = torch.eye(4, dtype=z.dtype).view(4, 4, 1, 1)
        return F.pad(F.conv2d(z[..., self.begin :, self.begin :], picking, stride=2), (0, 0, 0, 0, 1, 1))


@pytest.mark.parametrize(("side", "begin"), [(16, 0), (18, 0), (16, 1)])
def test_picking_every_other_cell_is_a_stride(side: int, begin: int) -> None:
    x, maps = noise(2, 2, side, side), []
    for kind in (Sliced, Strided):
        torch.manual_seed(1)
        net = kind(nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1))
        net.begin = begin
        maps.append(check_own_cells(converted(net, x), 2, x).maps)
    assert relative(maps[0], maps[1]) < 1e-12


def test_gates_that_are_held_are_the_decisions() -> None:
    """ConvNeXt: W (gamma (z - its mean over channels) / sigma + beta) + b, sigma of the pooled own cells."""
    setting = [torchvision.models.convnext.CNBlockConfig(*v) for v in ((6, 8, 1), (8, 12, 1), (12, None, 1))]
    x = noise(2, 3, 128, 136)
    softcam = converted(torchvision.models.ConvNeXt(setting, num_classes=3), x)
    assert softcam.certificate.kind == "exact_at_this_image"
    found = check_own_cells(softcam, 2, x)
    net: Any = softcam.model
    norm, linear = net.classifier[0], net.classifier[2]
    with torch.no_grad():
        own = net.features(x)
        pooled = own.mean((2, 3))
        sigma = (pooled.var(1, correction=0) + norm.eps).sqrt().view(-1, 1, 1, 1)
        before = net.features[:4](x)
        for a, b in itertools.product(range(2), repeat=2):
            shifted = net.features[4:](before[..., a:, b:])  # one cell of stride 8 further on
            centred = (shifted - shifted.mean(1, keepdim=True)) / sigma
            want = torch.einsum("bchw,kc->bkhw", centred, linear.weight * norm.weight)[..., 3:-3, 3:-3]
            among = found.maps[..., a::2, b::2][..., 3:, 3:][..., : want.shape[2], : want.shape[3]]
            assert want.shape[2:].numel() > 0  # the last block is 7 cells wide: nothing is cut off in these
            assert relative(among, want) < 1e-12


# Families.

SMALL: dict[str, tuple[Any, int]] = {
    "densenet": (lambda: torchvision.models.DenseNet(4, (2, 2, 2, 2), 8, num_classes=5), 64),
    "mobilenet_v2": (lambda: torchvision.models.MobileNetV2(5, 0.25), 72),
    "shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=5), 64),
    "regnet_y": (lambda: torchvision.models.regnet_y_400mf(weights=None, num_classes=5), 64),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(weights=None, num_classes=5), 70),
    "resnet": (lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 2], 5), 70),
}
WHOLE = {
    "densenet121": 64, "mobilenet_v2": 72, "efficientnet_b0": 64, "mnasnet0_5": 64, "squeezenet1_0": 70, "vgg16": 64, "inception_v3": 128,
    "googlenet": 64, "convnext_tiny": 64, "mobilenet_v3_small": 64, "r3d_18": 48,
}  # fmt: skip


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", SMALL)
def test_families_are_exact(name: str, factor: int) -> None:
    make, side = SMALL[name]
    x = noise(1, 3, side, side)
    check_own_cells(converted(make(), x), factor, x)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks_are_exact(name: str, factor: int) -> None:
    check_family(name, WHOLE[name], factor)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [*itertools.product(["resnet18", "densenet121", "mobilenet_v2"], [224, 496, 500, 512]), ("vgg16", 224)],
)
def test_families_are_exact_at_sizes_of_use(name: str, side: int) -> None:
    check_family(name, side, 2)


def check_family(name: str, side: int, factor: int) -> None:
    more: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    make = getattr(torchvision.models, name, None) or getattr(torchvision.models.video, name)
    x = noise(1, 3, 8, side, side) if name == "r3d_18" else noise(1, 3, side, side)
    check_own_cells(converted(make(weights=None, **more), x), factor, x)


def test_a_flattening_head_is_exact() -> None:
    """VGG in small: adaptive pooling to a grid, flattening, two linear layers with a ReLU."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 3))

    class Flat(Net):
        def forward(self, x: Tensor, *more: Any) -> Tensor:
            return self.head(self.features(x))

    for side in (24, 48):
        x = noise(2, 2, side, side)
        net = Flat(
            nn.Conv2d(2, 6, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), head=head
        )  # fmt: skip
        softcam = converted(net, x)
        assert softcam.certificate.kind == "exact_at_this_image"
        check_own_cells(softcam, 4, x)
        found, whole = check_own_cells(softcam, 2, x), softcam.model.double()
        # The gates are the own cells', so every cell between has the slope of the own cell before it.
        own = whole.features(x).detach().requires_grad_()
        logits = whole.head(own)
        slopes = torch.stack([torch.autograd.grad(logits[:, c].sum(), own, retain_graph=True)[0] for c in range(3)], 1)
        z = F.max_pool2d(whole.features[:-1](x), 2, 1)
        slopes = slopes.repeat_interleave(2, 3).repeat_interleave(2, 4)[..., : z.shape[2], : z.shape[3]]
        assert relative(found.maps, (slopes * z[:, None]).sum(2) * own[0, 0].numel()) < 1e-12


# Networks with something more to them.


class Attending(Net):
    """Attention over all places, with a parameter for every place."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 6, 3, 2, 1), nn.SiLU(), nn.Conv2d(6, 6, 3, 2, 1))
        self.attention, self.place = nn.MultiheadAttention(6, 2, batch_first=True), nn.Parameter(torch.randn(1, 20, 6))

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        z = self.features(x)
        tokens = z.flatten(2).transpose(1, 2) + self.place
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(tokens.transpose(1, 2).reshape(z.shape).mean((2, 3)))


class TwoEyes(Net):
    """Two images, a vector that scales the channels, logits in a dict."""

    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> dict[str, Tensor]:
        z = self.features(x) + self.features(y) * scale[:, :, None, None]
        return {"logits": self.head(z.mean((2, 3))), "scale": scale}


def layers() -> list[nn.Module]:
    return [nn.Conv2d(2, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU()]


def test_attention_works_within_each_grid() -> None:
    check_own_cells(converted(Attending(), noise(2, 2, 16, 20)), 2, noise(2, 2, 16, 20))


def test_several_inputs_and_a_dict_of_outputs() -> None:
    x, y, scale = noise(3, 2, 16, 16), noise(3, 2, 16, 16).flip(0), noise(3, 6)
    softcam = converted(TwoEyes(*layers()), x, args=(y, scale), output="logits")
    fine = finer_module.finer(softcam, 2, x, args=(y, scale))
    found, own = fine.evidence(x, y, scale), softcam.evidence(x, y, scale)
    assert relative(own_cells(found, 2), own.maps) < 1e-12
    assert relative(found.output["logits"], own.output["logits"]) < 1e-12
    assert torch.equal(found.output["scale"], scale)


def test_an_axis_without_a_stride_stays(rank: int) -> None:
    if rank == 1:
        with pytest.raises(ConversionError, match="cannot be finer"):
            converted(S8(2, 3, 1, channels=(4, 6), strides=(1, 1)), noise(2, 2, 16)).finer(2)
        return
    kind, stride = {2: nn.Conv2d, 3: nn.Conv3d}[rank], (1, *(2,) * (rank - 1))
    x = noise(2, 2, 5, *(12,) * (rank - 1))
    softcam = converted(Net(kind(2, 6, 3, stride, 1), nn.SiLU(), kind(6, 6, 3, stride, 1), nn.SiLU()), x)
    found, own = softcam.finer(2).evidence(x), softcam.evidence(x)
    assert found.maps.shape == (2, 3, 5, *(6,) * (rank - 1))
    steps: Any = (..., slice(None), *(slice(None, None, 2),) * (rank - 1))
    assert relative(found.maps[steps], own.maps) < 1e-12
    assert found.geometry.jump == (1.0, *(2.0,) * (rank - 1))


def test_a_batch_is_its_elements_one_at_a_time(rank: int) -> None:
    x = noise(3, 2, *(17, 16, 12)[:rank])
    fine = converted(S8(2, 3, rank, channels=(4, 6), strides=(2, 2)), x).finer(4)
    together = fine.evidence_maps(x)
    for i in range(3):
        assert relative(fine.evidence_maps(x[i : i + 1])[0], together[i]) < 1e-12


# Refused.


class Merging(Net):
    """Strides by putting four cells behind one another, as some transformers merge tokens."""

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        z = self.features(x)
        b, c, h, w = z.shape
        z = z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        return self.head(F.silu(self.last(z)).mean((2, 3)))


class Growing(Net):
    def forward(self, x: Tensor, *more: Any) -> Tensor:
        z = self.features[0](x)
        z = z + F.interpolate(self.features[1](self.features[2](z)), scale_factor=2)
        return self.head(F.silu(z).mean((2, 3)))


class Crowded(Net):
    """Divides by something of the whole batch, in images larger than `side` only."""

    side = 0

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        z = self.features(x)
        size = z.abs().mean() if x.shape[2] > self.side else torch.ones((), dtype=x.dtype)
        return self.head((z / size).mean((2, 3)))


def merging() -> Merging:
    net = Merging(nn.Conv2d(2, 6, 3, 2, 1), nn.SiLU())
    net.last = nn.Conv2d(24, 6, 1)
    return net


REFUSED: dict[str, tuple[Any, int, str]] = {
    "merged tokens": (merging, 2, "reshap"),
    "a stride of three": (lambda: Net(nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 3)), 2, "convolution in 'features.1'"),
    "a factor beyond the stride": (lambda: Net(*layers()), 8, "4 x 4 samples apart"),
    "transposed": (
        lambda: Net(*layers(), nn.ConvTranspose2d(6, 6, 2, 2), nn.Conv2d(6, 6, 3, 2, 1)), 2, "convolution in 'features.5'",
    ),
    "pooled to a grid": (lambda: Net(nn.Conv2d(2, 6, 3, 2, 1), nn.AdaptiveAvgPool2d(5), nn.SiLU()), 2, "adaptive"),
    "interpolated": (
        lambda: Growing(nn.Conv2d(2, 6, 3, 2, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, 2, 1)), 2, "",
    ),
    "mixes the batch": (lambda: Crowded(*layers()), 2, "mixes the rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in REFUSED if n != "interpolated"])
def test_refused_with_the_reason(name: str) -> None:
    make, factor, words = REFUSED[name]
    softcam = converted(make(), noise(2, 2, 20, 20))
    before = torch.get_default_dtype()
    with pytest.raises(ConversionError, match=words):
        softcam.finer(factor)
    assert torch.get_default_dtype() is before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in softcam.modules())


def test_interpolation_from_cells_that_are_no_strides_of_the_map_reads_the_networks_own() -> None:
    """The branch at stride 4 comes back to stride 2; the map has stride 2, so only the first convolution is changed."""
    make, factor, _ = REFUSED["interpolated"]
    x = noise(2, 2, 20, 20)
    with pytest.raises(ConversionError, match="interpolates"):
        converted(make(), x).finer(factor)


def test_inexact_at_another_size_is_refused_there() -> None:
    net = Crowded(*layers())
    net.side = 20
    fine = converted(net, noise(2, 2, 20, 20)).finer(2)
    fine.evidence(noise(2, 2, 16, 16))
    with pytest.raises(ConversionError, match="among the finer cells"):
        fine.evidence(noise(2, 2, 24, 24))


@pytest.mark.parametrize("factor", [1, 0, -2, 2.0, True, "2"])
def test_a_factor_that_is_none(factor: Any) -> None:
    with pytest.raises(OptionError, match="finer by"):
        converted(Net(*layers()), noise(2, 2, 16, 16)).finer(factor)


def test_not_for_training_and_not_for_gradients() -> None:
    x = noise(2, 2, 16, 16)
    fine = converted(Net(*layers()), x).finer(2)
    with pytest.raises(OptionError, match="gradient"):
        fine.evidence(x.clone().requires_grad_())
    fine.train()
    with pytest.raises(OptionError, match="inference"):
        fine.evidence(x)


def test_channels_that_no_convolution_tells_are_asked_for() -> None:
    class Folded(Net):
        def forward(self, x: Tensor, *more: Any) -> Tensor:
            return super().forward(F.pixel_unshuffle(x, 2))

    x = noise(2, 2, 32, 32)
    softcam = converted(Folded(nn.Conv2d(8, 4, 3, 2, 1), nn.SiLU(), nn.Conv2d(4, 6, 3, 2, 1)), x)
    with pytest.raises(BadInput, match="fails on an input"):
        softcam.finer(2)
    fine = softcam.finer(2, x)
    assert fine.spacing == (4, 4)
    assert relative(own_cells(fine.evidence(x), 2), softcam.evidence(x).maps) < 1e-12


# In use.


def small() -> tuple[SoftCAM, FinerSoftCAM, Tensor]:
    x = noise(2, 2, 24, 20).float()
    torch.manual_seed(0)
    softcam = convert(roused(S8(2, 3, channels=(4, 6, 6), strides=(2, 2, 2)).eval()), x, classes=("a", "b", "c"))
    return softcam, softcam.finer(2), x


def test_explained_like_a_softcam_and_not_said_to_add_up() -> None:
    softcam, fine, x = small()
    mine, own = pl.explain(fine, x, "b"), pl.explain(softcam, x, "b")
    assert torch.equal(mine.score, own.score)
    assert mine.classes == own.classes
    assert own.complete
    assert not mine.complete
    assert not pl.explain(fine, x, "b", method="cam").complete
    cells = mine.map.shape[1:].numel() / own.map.shape[1:].numel()
    assert torch.allclose(mine.map[:, ::2, ::2] * cells, own.map, atol=1e-6)
    with pytest.raises(OptionError, match="add up"):
        mine.contributions()
    assert mine.geometry.start == own.geometry.start
    assert mine.geometry.jump == (4.0, 4.0)
    assert mine.geometry.registered
    assert mine.at_input_size().shape == (2, 24, 20)


def test_gradient_methods_see_the_network_itself() -> None:
    softcam, fine, x = small()
    mine, own = pl.explain(fine, x, 1, method="grad_cam"), pl.explain(softcam, x, 1, method="grad_cam")
    assert torch.equal(mine.map, own.map)
    assert mine.geometry == own.geometry


def test_calling_it_is_calling_the_softcam() -> None:
    softcam, fine, x = small()
    assert torch.equal(fine(x), softcam(x))
    output, maps = fine(x, return_evidence=True)
    assert torch.allclose(output, softcam(x), atol=1e-5)
    assert torch.equal(maps, fine.evidence_maps(x))
    assert torch.allclose(maps[:, :, ::2, ::2].mean((2, 3)), output, atol=1e-5)
    assert all(a is b for a, b in zip(fine.parameters(), softcam.parameters(), strict=True))
    with torch.inference_mode():
        assert torch.equal(fine.evidence_maps(x.clone()), maps)


def test_rounding_is_not_taken_for_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where single precision cannot tell, double precision does; the evidence stays in the network's own."""
    softcam, fine, x = small()
    monkeypatch.setattr(finer_module, "_ROUNDING", -1.0)
    found = fine.evidence(x)
    assert found.maps.dtype is torch.float32
    assert torch.allclose(own_cells(found, 2), softcam.evidence(x).maps, atol=1e-5)
    assert next(softcam.parameters()).dtype is torch.float32


def test_one_pass_once_a_size_is_known() -> None:
    softcam, fine, x = small()
    calls: list[int] = []
    softcam.model.register_forward_hook(lambda m, a, out: calls.append(1))
    fine.evidence(x)
    assert len(calls) == 2
    fine.evidence(x + 1)
    assert len(calls) == 3


def test_the_certificate_tells() -> None:
    softcam, fine, _ = small()
    told, own = fine.certificate, softcam.certificate
    assert fine.error <= 1e-9
    assert told.stride == (4.0, 4.0)
    assert (told.grid, told.input_size) == ((6, 5), (24, 20))
    assert (told.start, told.jump) == (own.start, (4.0, 4.0))
    assert told.receptive_field == own.receptive_field
    assert "finer by 2" in str(told)
    assert told.kind == own.kind
