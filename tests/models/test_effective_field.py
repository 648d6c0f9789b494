from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.models.convert import convert
from pellucid.models.effective_field import box_sides, central_cells, effective_field
from pellucid.models.softcam import SoftCAM
from pellucid.spatial import Geometry
from reference.nets import CONV
from reference.untouched import unchanged


class Linear(nn.Module):
    """Convolutions with given kernels (the same along every axis), no bias and no activation; mean, one logit."""

    def __init__(self, rank: int, *kernels: tuple[list[float], int]) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for taps, stride in kernels:
            conv = CONV[rank](1, 1, len(taps), stride=stride, padding=(len(taps) - 1) // 2, bias=False)
            kernel = torch.ones(1)
            for _ in range(rank):
                kernel = kernel[..., None] * torch.tensor(taps)
            conv.weight.data.copy_(kernel.view_as(conv.weight))
            self.features.append(conv)
        self.fc = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).flatten(2).mean(2))


def images(rank: int, side: int = 24, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 1, *(side,) * rank, generator=torch.Generator().manual_seed(0))


def softcam_of(net: nn.Module, x: torch.Tensor) -> SoftCAM:
    return convert(net.double().eval(), x.double())


def side_by_hand(profile: np.ndarray, rank: int, share: float) -> int:
    """The smallest centred box of a separable weight, by summing boxes from the inside out."""
    total = np.abs(profile).sum() ** rank
    middle = len(profile) // 2
    reach = 0
    while np.abs(profile[middle - reach : middle + reach + 1]).sum() ** rank < share * total * (1 - 1e-9):
        reach += 1
    return 2 * reach + 1


FLAT = [1.0] * 5
SHARP = [0.1, 0.3, 2.0, 0.3, 0.1]


@pytest.mark.parametrize("layers", [[FLAT], [FLAT, FLAT], [SHARP], [FLAT, SHARP, FLAT], [[1.0, -2.0, 1.0]]])
def test_stacks_of_filters_have_the_field_of_their_convolution(rank: int, layers: list[list[float]]) -> None:
    x = images(rank, 24 if rank < 3 else 16, count=3 if rank < 3 else 1)
    softcam = softcam_of(Linear(rank, *((taps, 1) for taps in layers)), x)
    profile = np.ones(1)
    for taps in layers:
        profile = np.convolve(profile, taps)
    found = effective_field(Call(softcam), x.double())
    assert found.side == side_by_hand(profile, rank, 0.95)
    assert found.core == side_by_hand(profile, rank, 0.5)
    assert (found.images, found.cells, found.input_size) == (len(x), 2**rank, tuple(x.shape[2:]))


def test_the_box_filter_in_figures() -> None:
    """25 equal pixels: 3 x 3 of them are 36 %, so 50 % and 95 % both need all five; two such layers need 5 and 9."""
    x = images(2)
    one = effective_field(Call(softcam_of(Linear(2, (FLAT, 1)), x)), x.double())
    two = effective_field(Call(softcam_of(Linear(2, (FLAT, 1), (FLAT, 1)), x)), x.double())
    assert (one.core, one.side) == (5, 5)
    # Triangle 1 2 3 4 5 4 3 2 1 of sum 25: 13, 19, 23 of 25 within 3, 5, 7; squared .27, .58, .85.
    assert (two.core, two.side) == (5, 9)


def test_strides_and_even_kernels(rank: int) -> None:
    """A patch of 4 with stride 4 is centred between samples; a kernel of 5 with stride 3 stays a box of 5."""
    x = images(rank)
    patches = Linear(rank, ([1.0] * 4, 4))
    patches.features[0].padding = (0,) * rank  # type: ignore[assignment]
    assert effective_field(Call(softcam_of(patches, x)), x.double()).side == 4
    assert effective_field(Call(softcam_of(Linear(rank, (FLAT, 3)), x)), x.double()).side == 5


class Untold(nn.Module):
    """Evidence whose cells are not known to lie where they do: shifted by three samples."""

    task = "binary"

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut
        self.scale = nn.Parameter(torch.ones(()))

    def evidence(self, x: torch.Tensor) -> object:
        values = nn.functional.avg_pool2d(x * self.scale, 5, 1, 2).roll((3, 3), (2, 3))
        values = values.detach() if self.cut else values

        class Told:
            maps, logits = values, values.flatten(2).mean(2)
            geometry = Geometry.unregistered(tuple(values.shape[2:]), tuple(x.shape[2:]))

        return Told


def test_cells_of_unknown_place_are_measured_around_their_own_gradient() -> None:
    assert effective_field(Call(Untold()), images(2)).side == pytest.approx(5, abs=1e-3)


def test_evidence_without_gradient_is_refused() -> None:
    with pytest.raises(OptionError, match="no gradient"):
        effective_field(Call(Untold(cut=True)), images(2))


def test_a_dead_network_sees_nothing() -> None:
    net = Linear(2, ([0.0] * 5, 1))
    net.features.append(nn.Conv2d(1, 1, 1))  # conversion needs something that lives
    found = effective_field(Call(softcam_of(net, images(2))), images(2).double())
    assert (found.side, found.core) == (0, 0)


def test_batches_do_not_matter_and_nothing_is_touched() -> None:
    x = images(2, count=5).double()
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2), nn.ReLU())
    model = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    softcam = convert(model, x)
    softcam.train()
    softcam.model[3].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    with unchanged(softcam):
        one = effective_field(Call(softcam), x, batch_size=2)
        with torch.inference_mode():
            all_at_once = effective_field(Call(softcam), x)
    assert one == all_at_once
    assert 1 <= one.core <= one.side <= 7


@pytest.mark.parametrize(("share", "side"), [(0.0, 1), (0.5, 1), (0.51, 3), (0.9, 3), (0.901, 5), (1.0, 5)])
def test_boxes_by_hand(share: float, side: float) -> None:
    """Half of everything in the middle, two fifths next to it, a tenth at the border."""
    row = torch.tensor([0.05, 0.2, 0.5, 0.2, 0.05], dtype=torch.float64)
    assert box_sides({2: row}, Geometry.of_samples((5,)), [share]) == [side]


def test_cells_share_one_box() -> None:
    """Two cells of different weight: the box that holds the share of what both have together."""
    near, far = torch.zeros(9), torch.zeros(9)
    near[3], far[5 + 3] = 3.0, 1.0
    for share, side in ((0.75, 1), (0.76, 7)):
        assert box_sides({3: near, 5: far}, Geometry.of_samples((9,)), [share]) == [side]


def test_central_cells(rank: int) -> None:
    pick: Callable[..., list[int]] = central_cells
    assert pick(Geometry((5,) * rank, (20,) * rank, (0.0,) * rank, (4.0,) * rank, registered=True)) == [
        int(np.ravel_multi_index(cell, (5,) * rank)) for cell in np.ndindex(*(2,) * rank) for cell in [np.add(cell, 2)]
    ]  # centres 0 4 8 12 16 on samples 0 to 19: 8 and 12 are nearest 9.5
    assert pick(Geometry.unregistered((1,) * rank, (20,) * rank)) == [0]
