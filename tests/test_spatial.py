from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from pellucid import spatial
from pellucid.errors import BadInput
from pellucid.spatial import Geometry

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def cells(rank: int, side: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(2, *(side,) * rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [16, 13, 4])
def test_unregistered_upsampling_is_plain_interpolation(rank: int, size: int) -> None:
    geometry = Geometry.unregistered((4,) * rank, (size,) * rank)
    plain = torch.nn.functional.interpolate(cells(rank)[:, None], size=(size,) * rank, mode=MODES[rank])[:, 0]
    torch.testing.assert_close(spatial.upsample(cells(rank), geometry), plain)


def test_registered_upsampling_puts_a_ramp_where_it_belongs(rank: int) -> None:
    """Cells that hold their own centre's position give every sample its position, clamped outside the centres."""
    geometry = Geometry((4,) * rank, (32,) * rank, (3.0,) * rank, (8.0,) * rank, registered=True)
    for axis, centre in enumerate(geometry.centres()):
        ramp = centre.view(-1, *(1,) * (rank - 1 - axis)).expand((4,) * rank)
        expected = torch.arange(32.0, dtype=torch.float64).clamp(3, 27).view(-1, *(1,) * (rank - 1 - axis))
        torch.testing.assert_close(spatial.upsample(ramp, geometry), expected.expand((32,) * rank))


@pytest.mark.bug("B10")
def test_interpolation_makes_no_new_extremes() -> None:
    volume = torch.zeros(4, 4, 4)
    volume[1, 1, 1] = 1
    large = spatial.upsample(volume, Geometry.unregistered((4, 4, 4), (16, 16, 16)))
    assert float(large.min()) == 0
    assert float(large[-1, -1, -1]) == 0
    assert float(large.max()) <= 1


def test_sums_over_cells_and_shares_of_cells_keep_totals(rank: int) -> None:
    geometry = Geometry((4,) * rank, (12,) * rank, (1.0,) * rank, (3.0,) * rank, registered=True)
    samples = torch.randn(2, *(12,) * rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_hand = torch.zeros(2, *(4,) * rank, dtype=torch.float64)
    for place in product(range(12), repeat=rank):  # centres at 1, 4, 7, 10: three samples each
        by_hand[(slice(None), *(i // 3 for i in place))] += samples[(slice(None), *place)]
    torch.testing.assert_close(spatial.cell_sums(samples, geometry), by_hand)
    spread = spatial.spread(cells(rank), geometry)
    torch.testing.assert_close(spread[(0, *(4,) * rank)], cells(rank)[(0, *(1,) * rank)] / 3**rank)
    torch.testing.assert_close(spatial.cell_sums(spread, geometry), cells(rank))


def test_cells_of_an_even_stride_own_equal_numbers_of_samples() -> None:
    """Samples halfway between two centres all go the same way; the first cell looks over the edge and owns half."""
    geometry = Geometry((4,), (32,), (0.0,), (8.0,), registered=True)
    assert geometry.nearest_cell()[0].bincount().tolist() == [4, 8, 8, 12]


@pytest.mark.parametrize(
    ("start", "jump", "grid", "size"),
    [(0.0, 32.0, 7, 224), (31.0, 32.0, 7, 224), (15.5, 32.0, 16, 512), (37.0, 32.0, 8, 299), (-9.0, 4.0, 8, 20), (3.0, 7.0, 9, 41)],
    ids=["resnet", "tensorflow padding", "vgg", "inception", "cells before the input", "cells behind the input"],
)  # fmt: skip
def test_totals_are_kept_whatever_the_geometry(start: float, jump: float, grid: int, size: int) -> None:
    """Samples summed over cells, and cells shared among samples and summed over regions, to the last digits of float64."""
    geometry = Geometry((grid, grid), (size, size), (start, start), (jump, jump), registered=True)
    generator = torch.Generator().manual_seed(grid)
    values = torch.randn(3, grid, grid, generator=generator, dtype=torch.float64)
    samples = torch.randn(size, size, generator=generator, dtype=torch.float64)
    assert abs(float(spatial.cell_sums(samples, geometry).sum() - samples.sum())) <= 1e-12 * float(samples.abs().sum())
    shared = spatial.spread(values, geometry)
    exact = [math.fsum(v.flatten().tolist()) for v in values]
    for k in range(3):
        assert abs(math.fsum(shared[k].flatten().tolist()) - exact[k]) <= 1e-12 * float(values[k].abs().sum())
    owner = torch.randint(4, (size, size), generator=generator)
    masks = torch.stack([owner == r for r in range(4)])
    sums = spatial.region_sums(values, masks, geometry)
    assert float((sums.sum(1) - torch.tensor(exact, dtype=torch.float64)).abs().max()) <= 1e-12 * float(
        values.abs().sum()
    )
    by_hand = torch.stack([(shared * m).flatten(1).sum(1) for m in masks], 1)
    torch.testing.assert_close(sums, by_hand, rtol=0, atol=1e-12)


def test_sums_over_regions_by_hand() -> None:
    """Centres at 0 and 8: samples 0 to 3 belong to the first cell, 4 to 11 to the second."""
    geometry = Geometry((2,), (12,), (0.0,), (8.0,), registered=True)
    masks = torch.zeros(2, 12, dtype=torch.bool)
    masks[0, :6], masks[1, 10:] = True, True
    assert spatial.region_sums(torch.tensor([4.0, -16.0]), masks, geometry).tolist() == [4 - 16 * 2 / 8, -16 * 2 / 8]


def test_a_cell_beyond_the_input_keeps_its_value_at_the_border() -> None:
    geometry = Geometry(
        (3,), (8,), (0.0,), (8.0,), registered=True
    )  # the second is nearest to 4 to 7, the last to none
    assert spatial.spread(torch.tensor([4.0, 8.0, 5.0]), geometry).tolist() == [1, 1, 1, 1, 2, 2, 2, 7]
    assert spatial.cells_in(torch.arange(8) == 7, geometry).tolist() == [0, 0.25, 1]


def test_the_shift_is_from_where_plain_resizing_draws() -> None:
    """ResNet at 224: cells at 0, 32, ... against 15.5, 47.5, ...; Inception at 299: another one at each cell."""
    resnet = Geometry((7, 7), (224, 224), (0.0, 0.0), (32.0, 32.0), registered=True)
    assert [s.tolist() for s in resnet.shift()] == [[-15.5] * 7] * 2
    inception = Geometry((8,), (299,), (37.0,), (32.0,), registered=True).shift()[0]
    assert inception.tolist() == [37 + 32 * i - ((i + 0.5) * 299 / 8 - 0.5) for i in range(8)]
    assert not Geometry.unregistered((4,), (10,)).shift()[0].any()


def test_share_of_cells_in_a_mask() -> None:
    geometry = Geometry.unregistered((2,), (8,))
    mask = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0], dtype=torch.bool)
    assert spatial.cells_in(mask, geometry).tolist() == [0.75, 0.25]


def test_boxes_are_in_pixels_x_before_y() -> None:
    mask = spatial.boxes_to_mask([(1, 0, 3, 2), (4, 3, 5, 4)], (4, 5))
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[0:2, 1:3] = expected[3, 4] = True
    assert torch.equal(mask, expected)
    assert spatial.boxes_to_mask([(1, 3)], (5,)).tolist() == [False, True, True, False, False]
    with pytest.raises(BadInput, match="4 are needed"):
        spatial.boxes_to_mask([(1, 2, 3)], (4, 4))


def test_geometry_survives_its_dictionary() -> None:
    geometry = Geometry((2, 3), (8, 9), (0.5, 1.0), (4.0, 3.0), True, (17.0, 17.0))
    assert Geometry.from_dict(geometry.as_dict()) == geometry


def test_regions_by_hand() -> None:
    values = torch.zeros(6, 6)
    values[0, 0], values[1, 1], values[5, 5], values[5, 0] = 2.0, 4.0, -5.0, 0.5  # the last is below a fifth
    first, second = spatial.regions(values, Geometry.unregistered((6, 6), (12, 12)))
    assert (first.value, first.low, first.high, first.name) == (6.0, (0, 0), (4, 4), "upper left")
    assert (second.value, second.low, second.high, second.name) == (-5.0, (10, 10), (12, 12), "lower right")
    assert spatial.regions(torch.zeros(3), Geometry.unregistered((3,), (3,))) == []


def test_place_names() -> None:
    assert spatial.place_name((5,), (9,)) == "middle"
    assert spatial.place_name((50, 50), (100, 100)) == "centre"
    assert spatial.place_name((50, 0), (100, 100)) == "left"
    assert spatial.place_name((0, 99, 99), (100, 100, 100)) == "first slices, lower right"


def test_combine_is_a_weighted_sum_over_channels(rank: int) -> None:
    maps, weights = torch.randn(2, 3, *(4,) * rank), torch.randn(2, 3)
    expected = torch.stack([sum(weights[i, k] * maps[i, k] for k in range(3)) for i in range(2)])  # type: ignore[arg-type]
    torch.testing.assert_close(spatial.combine(maps, weights), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = spatial.combine(maps, weights)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, expected)


@pytest.mark.parametrize("distance", [0, 1, 2, 3.7])
def test_within_is_the_distance_to_the_nearest_sample(rank: int, distance: float) -> None:
    mask = torch.rand(2, *(5,) * rank, generator=torch.Generator().manual_seed(rank)) > 0.9
    mask[1] = False
    found = spatial.within(mask, distance)
    inside = [tuple(p) for p in mask[0].nonzero().tolist()]
    for place in product(range(5), repeat=rank):
        assert bool(found[(0, *place)]) == any(math.dist(place, p) <= distance for p in inside)
    assert not bool(found[1].any())


def test_blur_equals_scipy(rank: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x = torch.randn(2, 1, *(20,) * rank, dtype=torch.float64)
    theirs = [ndimage.gaussian_filter(v.numpy(), 0.05 * 20, mode="nearest", truncate=3) for v in x[:, 0]]
    torch.testing.assert_close(spatial.blur(x)[:, 0], torch.stack([torch.from_numpy(v) for v in theirs]))


def test_one_number_per_input_broadcasts(rank: int) -> None:
    like = torch.ones(2, *(3,) * rank)
    assert torch.equal(spatial.expand(torch.tensor([1.0, 2.0]), like) * like, torch.stack([like[0], 2 * like[1]]))


def motion(rank: int, turn: float = 0.0, zoom: float = 1.0, shift: float = 0.0) -> dict[str, Tensor]:
    return {"turn": torch.tensor([turn]), "zoom": torch.tensor([zoom]), "shift": torch.full((1, rank), shift)}


def test_what_is_not_moved_stays(rank: int) -> None:
    x = torch.randn(1, 2, *range(4, 4 + rank))
    torch.testing.assert_close(spatial.moved(x, **motion(rank)), x)


def test_a_shift_shows_what_lies_further_on_and_mirrors_the_rest(rank: int) -> None:
    x = torch.randn(1, 2, *range(4, 4 + rank))
    expected = x
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        expected = expected.index_select(axis, torch.tensor([*range(1, n), n - 1]))
    torch.testing.assert_close(spatial.moved(x, **motion(rank, shift=1.0)), expected)


@pytest.mark.parametrize("size", [(5, 5), (4, 6), (3, 4, 6)])
def test_half_a_turn_and_a_quarter_are_those_of_the_last_two_axes(size: tuple[int, ...]) -> None:
    x, rank = torch.randn(1, 2, *size), len(size)
    torch.testing.assert_close(spatial.moved(x, **motion(rank, turn=math.pi)), x.flip(-2, -1))
    square = x[..., :4, :4] if size[-1] != size[-2] else x
    torch.testing.assert_close(
        spatial.moved(square, **motion(rank, turn=math.pi / 2)), torch.rot90(square, -1, (-2, -1)), atol=1e-5, rtol=1e-5
    )


def test_a_turn_keeps_lengths_on_an_oblong() -> None:
    """A dot four samples right of the centre lies four samples below or above it after a quarter turn."""
    x = torch.zeros(1, 1, 11, 17)
    x[..., 5, 12] = 1
    found = spatial.moved(x, **motion(2, turn=math.pi / 2))[0, 0]
    assert divmod(int(found.argmax()), 17) in ((1, 8), (9, 8))
    assert float(found.max()) == pytest.approx(1, abs=1e-5)


def test_zoom_shows_more_or_less(rank: int) -> None:
    """Twice the zoom of a ramp about the centre is twice as steep; half is half."""
    ramp = torch.arange(9.0) - 4
    x = ramp.view(1, 1, -1, *(1,) * (rank - 1)).expand(1, 1, *(9,) * rank)
    inner = spatial.moved(x, **motion(rank, zoom=0.5))
    torch.testing.assert_close(inner, x * 0.5)
    outer = spatial.moved(x, **motion(rank, zoom=2.0))
    torch.testing.assert_close(outer[:, :, 3:6], x[:, :, 3:6] * 2)


def test_a_signal_is_not_turned() -> None:
    x = torch.randn(1, 2, 9)
    torch.testing.assert_close(spatial.moved(x, **motion(1, turn=1.0)), x)


def test_regions_of_a_signal_and_of_a_volume_by_hand() -> None:
    """A signal has no second axis to add up along: the region's place is still that of its own cells."""
    values = torch.tensor([3.0, 1.0, 0.0, 0.0, 0.0, -2.0])
    first, second = spatial.regions(values, Geometry.unregistered((6,), (12,)))
    assert (first.name, first.low, first.high, first.value) == ("early", (0,), (4,), 4.0)
    assert (second.name, second.low, second.high, second.value) == ("late", (10,), (12,), -2.0)
    volume = torch.zeros(3, 3, 6)
    volume[2, 0] = values.clamp_min(0)
    (only,) = spatial.regions(volume, Geometry.unregistered((3, 3, 6), (3, 3, 12)))
    assert (only.name, only.low, only.high) == ("last slices, upper left", (2, 0, 0), (3, 1, 4))
