from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.models.convert import convert
from pellucid.models.leakage import leakage
from pellucid.models.softcam import SoftCAM
from reference.nets import CONV
from reference.untouched import unchanged


class Gate(nn.Module):
    """Squeeze-excitation: every channel is scaled by a sigmoid of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels)

    def forward(self, z: Tensor) -> Tensor:
        gate = self.mix(z.flatten(2).mean(2)).sigmoid()
        return z * gate.view(*gate.shape, *(1,) * (z.ndim - 2))


class Block(nn.Module):
    """Two convolutions around a residual sum."""

    def __init__(self, rank: int, channels: int) -> None:
        super().__init__()
        self.one, self.two = (CONV[rank](channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, z: Tensor) -> Tensor:
        return (z + self.two(self.one(z).relu())).relu()


class Net(nn.Module):
    def __init__(self, *layers: nn.Module, channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.features, self.fc = nn.Sequential(*layers), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(2).mean(2))


def softcam_of(*layers: nn.Module, rank: int = 2, side: int = 24, **more: int) -> SoftCAM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in itertools.chain.from_iterable(m.modules() for m in layers):
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        net = Net(*layers, **more).double().eval()
    return convert(net, images(rank, side)[:2])


def images(rank: int = 2, side: int = 24, count: int = 3) -> Tensor:
    return torch.randn(count, 2, *(side,) * rank, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def pointwise(rank: int, stride: int = 1) -> list[nn.Module]:
    return [CONV[rank](2, 4, 1, stride=stride), nn.ReLU(), CONV[rank](4, 4, 1), nn.ReLU()]


def residual(rank: int) -> list[nn.Module]:
    """Like a small ResNet: field 3 + 2 (2 + 2) = 11."""
    return [CONV[rank](2, 4, 3, 2, 1), nn.BatchNorm1d(4) if rank == 1 else nn.ReLU(), Block(rank, 4)]


@pytest.mark.parametrize("stride", [1, 4])
def test_a_trunk_of_single_places_leaks_nothing(rank: int, stride: int) -> None:
    softcam = softcam_of(*pointwise(rank, stride), rank=rank, side=12)
    found = leakage(Call(softcam), images(rank, 12), field=(1,) * rank, effective=1.0)
    assert (found.box, found.footprint, found.effective) == (0, 0, 0)
    assert (found.images, found.cells, found.box_cells) == (3, min(4, (12 // stride) ** rank), 3 * found.cells)


def test_nothing_from_outside_the_field_of_convolutions_arrives(rank: int) -> None:
    x = images(rank, 32 if rank < 3 else 16, count=2)
    softcam = softcam_of(*residual(rank), rank=rank, side=x.shape[-1])
    assert softcam.certificate.receptive_field == (11,) * rank
    found = leakage(Call(softcam), x, field=(11.0,) * rank, effective=11.0)
    assert found.box == 0
    assert found.box_cells > 0
    assert found.effective == 0
    assert found.footprint > 0.1
    too_small = leakage(Call(softcam), x, field=(9.0,) * rank)
    assert too_small.box is not None
    assert too_small.box > 1e-6  # the test has the power to see a field that is one ring too small


def test_a_gate_breaks_the_box(rank: int) -> None:
    x = images(rank, 32 if rank < 3 else 16, count=2)
    softcam = softcam_of(*residual(rank), Gate(4), rank=rank, side=x.shape[-1])
    assert softcam.certificate.whole_input
    found = leakage(Call(softcam), x, field=(11.0,) * rank)
    assert found.box is not None
    assert found.box > 1e-3


class MeanGate(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * (20 * z.flatten(2).mean(2)).view(*z.shape[:2], *(1,) * (z.ndim - 2)).tanh()


def literal(softcam: SoftCAM, x: Tensor, side: tuple[float, ...]) -> float:
    """The ratio by its definition: every cell, image and sample in turn."""
    raw = softcam.evidence(x)
    answer = raw.logits.argmax(1)

    def cells(inputs: Tensor) -> Tensor:
        maps = softcam.evidence(inputs).maps
        return torch.stack([m[a] - m.mean(0) for m, a in zip(maps, answer, strict=True)])

    own, top, bottom = cells(x), [], []
    other = torch.stack([x[i - 1] for i in range(len(x))])
    everywhere = cells(other)
    for cell in itertools.product(*(range(n) for n in own.shape[1:])):
        mixed = other.clone()
        for place in itertools.product(*(range(n) for n in x.shape[2:])):
            centre = [s + j * c for s, j, c in zip(raw.geometry.start, raw.geometry.jump, cell, strict=True)]
            if all(abs(p - c) <= (s - 1) / 2 for p, c, s in zip(place, centre, side, strict=True)):
                mixed[(slice(None), slice(None), *place)] = x[(slice(None), slice(None), *place)]
        at = (slice(None), *cell)
        top.append((cells(mixed)[at] - own[at]).abs())
        bottom.append((everywhere[at] - own[at]).abs())
    return float(torch.stack(top).mean() / torch.stack(bottom).mean())


@pytest.mark.parametrize("rank", [1, 2])
def test_the_ratio_by_its_definition(rank: int) -> None:
    x = images(rank, 10)
    softcam = softcam_of(CONV[rank](2, 4, 3, 2, 1), nn.ReLU(), MeanGate(), rank=rank, side=10)
    with torch.no_grad():
        expected = [literal(softcam, x, (side,) * rank) for side in (2.0, 5.0)]
    found = leakage(Call(softcam), x, effective=5.0, cells=5**rank)
    assert [found.footprint, found.effective] == pytest.approx(expected, rel=1e-10)
    assert found.box is None  # no field was given


def test_a_gate_of_the_whole_image_is_a_large_leak() -> None:
    x = images() + torch.tensor([-2.0, 0.0, 2.0]).view(-1, 1, 1, 1)  # three images of different brightness
    local = leakage(Call(softcam_of(*pointwise(2))), x).footprint
    found = leakage(Call(softcam_of(*pointwise(2), MeanGate())), x).footprint
    assert (local, found > 0.3) == (0, True)


def test_where_no_cell_leaves_anything_outside_nothing_is_claimed() -> None:
    x = images(side=8)
    softcam = softcam_of(*residual(2), side=8)
    found = leakage(Call(softcam), x, field=(40.0, 40.0))
    assert (found.box, found.box_cells) == (None, 0)


def test_cells_of_unknown_place_have_no_box() -> None:
    x = images()
    softcam = softcam_of(*residual(2))
    object.__setattr__(softcam.certificate, "start", None)
    assert leakage(Call(softcam), x, field=(11.0, 11.0)).box is None


def test_one_image_lends_its_own_samples() -> None:
    found = leakage(Call(softcam_of(*residual(2))), images(count=1), effective=11.0)
    assert (found.images, found.effective, found.footprint > 0.1) == (1, 0, True)


def test_seed_and_batches() -> None:
    x = images(count=5)
    softcam = softcam_of(*residual(2))
    softcam.train()

    def run(**more: Any) -> Any:
        return leakage(Call(softcam), x, field=(11.0, 11.0), effective=5.0, **more)

    with unchanged(softcam):
        first = run()
        assert run() == first
        small = run(batch_size=2)
    assert (small.footprint, small.effective) == pytest.approx((first.footprint, first.effective), rel=1e-10)
    assert run(seed=1).footprint != first.footprint
