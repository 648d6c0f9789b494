"""Series of slices as volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.scans import dicom_file
from pellucid.data import open_data, reader_for
from pellucid.data.dicom_series import dicom_series
from pellucid.errors import BadInput
from pellucid.sample import Dataset

pydicom = pytest.importorskip("pydicom")
REAL = Path(pydicom.__file__).parent / "data" / "test_files"
RAW = {"size": None, "mean": 0.0, "std": 1.0, "window": [0, 1000]}
TILTED = [0.0, 1, 0, 0, 0, -1]  # rows run to the back, columns to the feet: the normal points to the right


def series(root: Path, uid: str = "1.1", order: tuple[int, ...] = (2, 0, 3, 1), **attributes: object) -> Path:
    """Four slices 2 mm apart whose files are in another order; slice k holds 100 k, and 50 at row 1, column 2."""
    for number, k in enumerate(order):
        pixels = np.full((3, 4), 100 * k, np.uint16)
        pixels[1, 2] = 50
        usual = {"SeriesInstanceUID": uid, "PatientID": "p", "InstanceNumber": number, "ImageOrientationPatient": TILTED,
                 "ImagePositionPatient": [10.0 - 2 * k, 20, 30], "PixelSpacing": [0.5, 0.25]}  # fmt: skip
        dicom_file(root / f"{uid}-{number}.dcm", pixels, **{**usual, **attributes})
    return root


def test_slices_are_ordered_by_where_they_lie(tmp_path: Path) -> None:
    data = open_data(f"dicom_series:{series(tmp_path)}", **RAW)
    assert isinstance(data, Dataset)
    assert len(data) == 1
    sample = data[0]
    assert sample.input.shape == (1, 4, 3, 4)
    assert torch.allclose(sample.input[0, :, 0, 0], torch.tensor([0, 0.1, 0.2, 0.3]))
    assert (sample.group, sample.meta["spacing"], sample.meta["file_size"]) == ("p", (2, 0.5, 0.25), (4, 3, 4))
    affine = np.array(sample.meta["affine"])
    # Slice 3, row 1, column 2: three slices to the right, a row (0.5 mm) down, two columns (0.5 mm) to the back.
    assert np.allclose(affine @ [3, 1, 2, 1], [10 - 6, 20 + 0.5, 30 - 0.5, 1])
    assert [Path(p).name for p in sample.meta["slices"]] == ["1.1-1.dcm", "1.1-3.dcm", "1.1-0.dcm", "1.1-2.dcm"]


def test_series_are_kept_apart_and_labelled_by_folder(tmp_path: Path) -> None:
    series(tmp_path / "ill" / "x", "1.1")
    series(tmp_path / "ill" / "y", "1.2", PatientID="q")
    series(tmp_path / "well" / "z", "1.3", PatientID="r")
    dicom_file(
        tmp_path / "ill" / "x" / "scout.dcm", np.zeros((9, 9), np.uint16), SeriesInstanceUID="1.1", PatientID="p"
    )
    (tmp_path / "well" / "plan.dcm").write_bytes((REAL / "rtplan.dcm").read_bytes())
    data = dicom_series(tmp_path, size=8)
    assert data.classes == ("ill", "well")
    assert [(data.facts(i).label, data.facts(i).group) for i in range(3)] == [(0, "p"), (0, "q"), (1, "r")]
    assert data[2].input.shape == (1, 8, 8, 8)
    assert data.left_out == {"ill/x/scout.dcm": "a single slice is no volume", "well/plan.dcm": "no picture: RTPLAN"}


def test_a_missing_and_a_double_slice_are_said(tmp_path: Path) -> None:
    series(tmp_path)
    (tmp_path / "1.1-3.dcm").unlink()
    with pytest.raises(BadInput, match="not evenly spaced") as caught:
        dicom_series(tmp_path)[0]
    assert "4 mm" in caught.value.why
    series(tmp_path / "b", order=(0, 1, 1, 2))
    with pytest.raises(BadInput, match="not evenly spaced"):
        dicom_series(tmp_path / "b")[0]


def test_without_positions_the_numbers_order_them(tmp_path: Path) -> None:
    series(tmp_path, order=(0, 1, 2, 3), ImagePositionPatient=None, SliceThickness=5)
    sample = dicom_series(tmp_path, **RAW)[0]
    assert torch.allclose(sample.input[0, :, 0, 0], torch.tensor([0, 0.1, 0.2, 0.3]))
    assert sample.meta["spacing"][0] == 5


def test_a_dose_of_several_frames_is_one_volume() -> None:
    data = dicom_series(REAL / "rtdose.dcm", size=None, mean=0.0, std=1.0, window=(0, 2e6))
    theirs = pydicom.dcmread(REAL / "rtdose.dcm")
    sample = data[0]
    scale = float(theirs.get("RescaleSlope", 1))
    assert np.allclose(sample.input[0], theirs.pixel_array * scale / 2e6, atol=1e-6)
    assert sample.meta["spacing"] == (5, 10, 10)


def test_real_slices_of_a_tree() -> None:
    data = dicom_series(REAL / "dicomdirtests" / "98892001" / "CT5N", size=16)
    assert len(data) == 1
    assert data[0].meta["spacing"] == pytest.approx((2.5, 0.488281, 0.488281))
    assert data.fingerprint != dicom_series(REAL / "dicomdirtests" / "98892001" / "CT5N", size=8).fingerprint


def test_a_folder_is_read_as_pictures_unless_series_are_asked_for(tmp_path: Path) -> None:
    series(tmp_path)
    assert reader_for(tmp_path) == "dicom"
    assert len(open_data(tmp_path)) == 4
    dicom_file(tmp_path / "one" / "a.dcm", np.zeros((2, 2), np.uint16))
    with pytest.raises(BadInput, match="no DICOM series"):
        dicom_series(tmp_path / "one")
    colour = dicom_file(tmp_path / "c" / "a.dcm", np.zeros((3, 2, 2, 3), np.uint8))
    with pytest.raises(BadInput, match="in colour"):
        dicom_series(colour)[0]
