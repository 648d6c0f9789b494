"""NIfTI maps hold the map's own numbers, at the mm where its input lies."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray as Array

from data.scans import dicom_file, nifti_file
from data.test_dicom_results import SHAPE, attributes, explained, patient
from pellucid.data import open_data
from pellucid.data.nifti_map import GridOf, nifti_map
from pellucid.explanation import Explanation
from pellucid.sample import Sample
from pellucid.spatial import Geometry

nibabel = pytest.importorskip("nibabel")
TURNED = np.array([[0.0, -2.0, 0.3, 5.0], [1.2, 0.0, 0.1, -7.0], [0.1, 0.2, 3.0, 11.0], [0, 0, 0, 1]])


def read(e: Explanation, sample: Sample, grid: GridOf = "input") -> Any:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(nifti_map(e, sample.meta, grid)))


def volume(tmp_path: Path, **reading: Any) -> Sample:
    path = nifti_file(
        tmp_path / "v.nii.gz", np.random.default_rng(0).normal(size=(8, 10, 6)).astype(np.float32), TURNED
    )
    sample: Sample = open_data(path, **reading)[0]
    return sample


def maps(grid: tuple[int, ...], size: tuple[int, ...]) -> Explanation:
    geometry = Geometry(grid, size, tuple(0.5 + k for k in range(len(grid))), tuple(2.0 + k for k in range(len(grid))), registered=True)  # fmt: skip
    return explained(np.random.default_rng(1).normal(size=grid), geometry)


def test_the_affine_of_the_file_is_kept(tmp_path: Path) -> None:
    sample = volume(tmp_path, size=None, canonical=False)
    e = explained(np.random.default_rng(1).normal(size=(8, 10, 6)), Geometry.of_samples((8, 10, 6)))
    image = read(e, sample)
    np.testing.assert_allclose(image.affine, TURNED, atol=1e-6)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), e.map[0].numpy())
    assert image.get_data_dtype() == np.float32
    assert (int(image.header["sform_code"]), image.header.get_xyzt_units()[0]) == (1, "mm")


def test_cells_lie_where_they_look(tmp_path: Path) -> None:
    """Through turned axes and a smaller size: the mm of each cell's centre, by the input's affine and the geometry."""
    sample = volume(tmp_path, size=[4, 5, 3])
    e = maps((2, 2, 2), (4, 5, 3))
    image = read(e, sample, "cells")
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), e.map[0].numpy())
    for cell in np.ndindex(2, 2, 2):
        at = [0.5 + 2 * cell[0], 1.5 + 3 * cell[1], 2.5 + 4 * cell[2]]
        np.testing.assert_allclose(image.affine @ [*cell, 1], np.array(sample.meta["affine"]) @ [*at, 1], atol=1e-5)
    whole = read(e, sample)
    np.testing.assert_array_equal(whole.get_fdata(dtype=np.float32), e.at_input_size()[0].numpy())
    np.testing.assert_allclose(whole.affine, sample.meta["affine"], atol=1e-5)


def test_a_frame_of_dicom_lies_at_its_mm(tmp_path: Path) -> None:
    path = dicom_file(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint16), **attributes())
    sample: Sample = open_data(path, size=list(SHAPE), crop="resize")[0]
    e = explained(np.random.default_rng(1).normal(size=SHAPE), Geometry.of_samples(SHAPE))
    image = read(e, sample)
    assert image.shape == (SHAPE[1], SHAPE[0], 1)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32)[..., 0], e.map[0].numpy().T)
    left, back, head = patient(5, 30)
    np.testing.assert_allclose((image.affine @ [30, 5, 0, 1])[:3], [-left, -back, head], atol=1e-4)


def test_a_cropped_frame(tmp_path: Path) -> None:
    path = dicom_file(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint16), **attributes())
    sample: Sample = open_data(path, size=12, crop="centre", shorter_side=12)[0]
    e = explained(np.zeros((12, 12)), Geometry.of_samples((12, 12)))
    left, back, head = patient(2 * 4 + 0.5, 2 * (3 + 4) + 0.5)  # half the scale, and four columns were cut off
    np.testing.assert_allclose((read(e, sample).affine @ [3, 4, 0, 1])[:3], [-left, -back, head], atol=1e-4)


def test_a_series_of_dicom(tmp_path: Path) -> None:
    for k in range(3):
        dicom_file(tmp_path / f"{k}.dcm", np.zeros(SHAPE, np.uint16), **attributes(k))
    sample: Sample = open_data(f"dicom_series:{tmp_path}", size=None, window=[0, 10])[0]
    e = explained(np.random.default_rng(1).normal(size=(3, *SHAPE)), Geometry.of_samples((3, *SHAPE)))
    image = read(e, sample)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), e.map[0].numpy().T)
    left, back, head = patient(5, 30, 2)
    np.testing.assert_allclose((image.affine @ [30, 5, 2, 1])[:3], [-left, -back, head], atol=1e-4)


@pytest.mark.parametrize("size", [(9,), (9, 7)])
def test_what_lies_nowhere_says_so(size: tuple[int, ...]) -> None:
    e = explained(np.random.default_rng(1).normal(size=size), Geometry.of_samples(size))
    image = read(e, Sample(torch.zeros(1, *size)))
    values: Array = image.get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(values.squeeze(), e.map[0].numpy().T)
    assert values.ndim == 3
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 0


def test_equal_maps_give_equal_bytes(tmp_path: Path) -> None:
    sample, e = volume(tmp_path, size=4), maps((2, 2, 2), (4, 4, 4))
    assert nifti_map(e, sample.meta) == nifti_map(e, sample.meta)
