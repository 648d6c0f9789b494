"""Resampling of volumes against PIL, PyTorch and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.data.volume import Grid, Volumes, check_voxels
from pellucid.errors import BadInput, OptionError


@pytest.mark.parametrize("shape", [((20, 31), (9, 12)), ((9, 12), (20, 31)), ((16, 16), (16, 5))])
def test_scaling_is_that_of_pil_and_torch(shape: tuple[tuple[int, int], tuple[int, int]]) -> None:
    old, new = shape
    values = torch.rand(old, generator=torch.Generator().manual_seed(0))
    found = Grid(old, new, (0, 0), new).place(values)
    pil = Image.fromarray(values.numpy()).resize(new[::-1], Image.Resampling.BILINEAR)
    assert np.allclose(found, np.asarray(pil), atol=1e-5)
    theirs = torch.nn.functional.interpolate(values[None, None], new, mode="bilinear", antialias=True)[0, 0]
    assert torch.allclose(found, theirs, atol=1e-5)


def test_three_axes_are_scaled_like_those_of_pytorch() -> None:
    values = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0))
    found = Grid((5, 6, 7), (10, 9, 14), (0, 0, 0), (10, 9, 14)).place(values)
    theirs = torch.nn.functional.interpolate(values[None, None], (10, 9, 14), mode="trilinear")[0, 0]
    assert torch.allclose(found, theirs, atol=1e-6)


def test_cropping_and_padding_by_hand() -> None:
    values = torch.arange(1.0, 6)
    assert Grid((5,), (5,), (1,), (3,)).place(values).tolist() == [2, 3, 4]
    assert Grid((5,), (5,), (-2,), (9,)).place(values).tolist() == [0, 0, 1, 2, 3, 4, 5, 0, 0]
    assert Grid((4,), (2,), (0,), (2,)).nearest(torch.tensor([1, 2, 3, 4])).tolist() == [2, 4]


def test_the_place_of_voxels_moves_with_them() -> None:
    """A ramp that is the position itself says after scaling and cropping what the affine says."""
    preparation = Volumes(size=(6, 8, 4), crop="centre", spacing=(2.0, 1.0, 3.0))
    shape, spacing = (20, 10, 12), (1.0, 1.5, 2.0)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-5, 7, 11)
    grid = preparation.grid(shape, spacing)
    for axis in range(3):
        position = affine[axis, 3] + spacing[axis] * torch.arange(shape[axis], dtype=torch.float64)
        ramp = position.reshape([-1 if k == axis else 1 for k in range(3)]).expand(shape).float().contiguous()
        found = grid.place(ramp)
        moved = grid.affine(affine)
        wanted = moved[axis, 3] + moved[axis, axis] * np.arange(grid.size[axis])
        assert np.allclose(found.movedim(axis, 0).reshape(grid.size[axis], -1)[:, 0], wanted, atol=0.06)  # of 1 to 3 mm


def test_values_between_black_and_white() -> None:
    values = np.linspace(0, 1000, 1001).reshape(7, 11, 13)
    shown = Volumes().scaled_values(values)
    assert (shown == 0).sum() == 6  # half a percent, and the end of it
    assert np.allclose(shown.reshape(-1)[500], 0.5)
    assert np.allclose(Volumes(window=(200, 400)).scaled_values(values).reshape(-1)[[100, 250, 700]], [0, 0.25, 1])
    assert not Volumes().scaled_values(np.full((2, 2, 2), 3.0)).any()


def test_what_is_no_number_is_said_or_filled() -> None:
    values = np.array([[[0.0, np.nan], [1.0, np.inf]]])
    with pytest.raises(BadInput, match="2 of 4 voxels") as caught:
        Volumes().scaled_values(values)
    assert "fill=0" in caught.value.hint
    assert np.allclose(Volumes(fill=0.5, window=(0, 1)).scaled_values(values), [[[0, 0.5], [1, 0.5]]])


def test_impossible_settings() -> None:
    for wrong in ({"size": 0}, {"size": (4, 4)}, {"crop": "middle"}, {"spacing": -1}, {"window": (2, 1)}, {"mean": (1, 2)}, {"size": 10**4}):  # fmt: skip
        with pytest.raises(OptionError):
            Volumes(**wrong)  # type: ignore[arg-type]
    for shape in ((4, 0, 4), (10**4, 10**4, 10**4)):
        with pytest.raises(BadInput):
            check_voxels(shape, "a.nii")
    with pytest.raises(BadInput, match="voxels"):
        Volumes(size=None, spacing=0.001).grid((100, 100, 100), (1, 1, 1))
