from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pellucid.render.colour import diverging
from pellucid.render.grid import GAP
from pellucid.render.overlay import overlay, scale
from pellucid.render.sheet import of_feature_maps, of_filters, of_maximised
from pellucid.spatial import Geometry
from pellucid.targets import RegressionTarget
from pellucid.view import FeatureMaps, Filters, Maximised
from reference.nets import CONV

SIDE = 60


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture)


def at(picture: Image.Image, tile: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Where an array of colours stands in a picture, top to bottom."""
    sheet, (height, width, _) = pixels(picture), tile.shape
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (height, width, 3))[:, :, 0]
    corners = np.argwhere((windows[..., 0, 0, :] == tile[0, 0]).all(-1))
    return [(int(y), int(x)) for y, x in corners if np.array_equal(sheet[y : y + height, x : x + width], tile)]


def squares(shades: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    """Even squares of colour, without the frame around them."""
    return shades.repeat(cell, 0).repeat(cell, 1)[1:-1, 1:-1]


def kernels(rank: int, filters: int, inputs: int, side: int = 3) -> torch.Tensor:
    torch.manual_seed(rank)
    found: torch.Tensor = CONV[rank](inputs, filters, side).weight.detach()
    return found


def test_a_first_layer_is_drawn_in_its_colours_longest_first() -> None:
    weights = torch.zeros(2, 3, 2, 2)
    weights[0, 0, 0, 0] = 1  # red at the upper left
    weights[1] = -2  # black all over, and longer
    sheet = of_filters(Filters("conv", weights, colour=True), side=SIDE)
    red, black = np.full((2, 2, 3), 128, np.uint8), np.zeros((2, 2, 3), np.uint8)  # half of 255 is zero
    red[0, 0, 0] = 255
    first, second = at(sheet, squares(black, SIDE // 2)), at(sheet, squares(red, SIDE // 2))
    assert len(first) == len(second) == 1
    assert first[0][0] == second[0][0]
    assert first[0][1] < second[0][1]


def test_single_channels_share_one_scale() -> None:
    weights = torch.tensor([1.0, -0.5, 0.25]).view(3, 1, 1, 1) * torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    sheet = of_filters(Filters("conv", weights, groups=3), side=SIDE)
    for kernel in weights[:, 0]:
        assert len(at(sheet, squares(diverging(kernel.numpy(), 1.0), SIDE // 2))) == 1


def test_of_many_channels_the_heaviest_are_shown_a_row_per_filter() -> None:
    view = Filters("conv", kernels(2, 5, 6))
    sheet = of_filters(view, columns=2, side=SIDE)
    limit = np.percentile(view.kernels.abs().double().numpy(), 99.5, method="higher")
    tops = []
    for k in view.order.tolist():
        lengths = view.kernels[k].flatten(1).norm(dim=1)
        shown = [at(sheet, squares(diverging(v.double().numpy(), limit), SIDE // 3)) for v in view.kernels[k]]
        assert [len(places) for places in shown] == (lengths >= lengths.topk(2).values[1]).int().tolist()
        tops.append(next(places[0][0] for places in shown if places))
    assert tops == sorted(tops)


def test_kernels_of_one_place_are_a_matrix() -> None:
    view = Filters("conv", torch.tensor([[0.5, -1.0], [0.0, 0.1]]).view(2, 2, 1, 1))
    heaviest_first = np.array([[-1.0, 0.5], [0.1, 0.0]])
    sheet = of_filters(view)
    shades = diverging(heaviest_first, 1.0).repeat(9, 0).repeat(9, 1)[1:-1, 1:-1]
    assert len(at(sheet, shades)) == 1
    assert of_filters(Filters("conv", view.kernels.flatten(2))).tobytes() == sheet.tobytes()  # of a signal the same


def test_a_signals_kernel_is_a_curve_about_zero() -> None:
    """Bars stand on the middle line, orange above and blue below, as high as their share of the largest weight."""
    sheet = pixels(of_filters(Filters("conv", torch.tensor([[[1.0, -0.5]]])), side=SIDE))
    orange, blue = diverging(np.array([1.0, -1.0]), 1.0)
    body = sheet[-(SIDE + 40) :]  # the legend above has these colours too
    up, down = ((body == colour).all(2) for colour in (orange, blue))
    heights = [int(part.any(1).sum()) for part in (up, down)]
    assert heights[0] == pytest.approx(0.45 * SIDE, abs=2)
    assert heights[1] == pytest.approx(0.225 * SIDE, abs=2)
    assert np.argwhere(up)[:, 0].max() < np.argwhere(down)[:, 0].min() + 2
    assert np.argwhere(up)[:, 1].max() < np.argwhere(down)[:, 1].min()


def test_a_volumes_kernel_is_its_slices() -> None:
    view = Filters("conv", kernels(3, 2, 1))
    sheet = of_filters(view, side=SIDE)
    limit = np.percentile(view.kernels.abs().double().numpy(), 99.5, method="higher")
    for kernel in view.kernels[:, 0]:
        places = [at(sheet, squares(diverging(part.double().numpy(), limit), SIDE // 2 // 3)) for part in kernel]
        assert [len(p) for p in places] == [1, 1, 1]
        assert [p[0][1] for p in places] == sorted(p[0][1] for p in places)


def seen(rank: int, channels: int = 3) -> FeatureMaps:
    torch.manual_seed(rank)
    grid, size = (4,) * rank, (16,) * rank
    maps, slopes = torch.randn(2, channels, *grid), torch.randn(2, channels, *grid)
    score = (maps * slopes).flatten(1).sum(1) + 0.5
    return FeatureMaps(
        "block", maps, slopes, RegressionTarget(), score, None, torch.full((2,), 0.5), Geometry.unregistered(grid, size), torch.randn(2, 3, *size),
    )  # fmt: skip


def test_each_channel_shows_its_response_and_what_it_adds(rank: int) -> None:
    view = seen(rank)
    assert view.complete
    sheet = of_feature_maps(view, row=1, side=SIDE)
    added = [view.contribution(k, 1) for k in range(3)]
    limit = scale(added)
    places = [at(sheet, pixels(overlay(e, width=SIDE, limit=limit, title="", bar=False))[:, :SIDE]) for e in added]
    assert [len(p) for p in places] == [1, 1, 1]
    by_place = sorted(range(3), key=lambda k: places[k][0][1])
    assert by_place == view.order[1].tolist()
    if rank == 2:
        full = np.abs(view.maps[1].double().numpy()).max()
        for k in range(3):
            response = diverging(view.maps[1, k].double().numpy(), full)
            assert len(at(sheet, squares(response, SIDE // 4))) == 1


def test_the_middle_of_many_channels_is_left_out() -> None:
    view = seen(2, channels=9)
    whole, part = of_feature_maps(view, side=SIDE), of_feature_maps(view, most=2, least=1, side=SIDE)
    assert (whole.width - GAP) // (SIDE + GAP) == 8
    assert (part.width - GAP) // (SIDE + GAP) == 4
    ends = view.order[0][[0, 1, -1]].tolist()
    limit = scale([view.contribution(k) for k in ends])
    for k in range(9):
        tile = pixels(overlay(view.contribution(k), width=SIDE, limit=limit, title="", bar=False))
        assert len(at(part, tile)) == (k in ends)


@pytest.mark.parametrize("bounded", [True, False])
def test_a_maximised_picture_is_shown_as_a_file_would_hold_it(bounded: bool) -> None:
    x = torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    bounds = (-mean / std, (1 - mean) / std) if bounded else None
    inputs = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1) if bounded else x
    view = Maximised("", ("a", "b"), inputs, torch.ones(2), torch.zeros(2), torch.zeros(2), bounds)
    sheet = of_maximised(view, side=8)
    for one in x:
        values = one.double().numpy()
        if not bounded:
            low, high = np.percentile(values, [1, 99])
            values = np.clip((values - low) / (high - low), 0, 1)
        tile = np.rint(np.moveaxis(values, 0, -1) * 255).astype(np.uint8)
        windows = [
            pixels(sheet)[y : y + 8, x0 : x0 + 8] for y in range(sheet.height - 8) for x0 in range(sheet.width - 8)
        ]
        assert min(int(np.abs(w.astype(int) - tile).max()) for w in windows) <= 1


def test_signals_and_volumes_that_excite_are_drawn(rank: int) -> None:
    """Darker where the input is higher, or ink where the curve runs: another input gives another sheet."""
    torch.manual_seed(0)
    inputs = torch.rand(2, 1, *(8,) * rank)

    def drawn(x: torch.Tensor) -> bytes:
        return of_maximised(Maximised("conv", ("a", "b"), x, *[torch.zeros(2)] * 3)).tobytes()

    assert drawn(inputs) == drawn(inputs.clone())
    assert drawn(inputs) != drawn(inputs.flip(0))
