"""The same generator, in DICOM files of 12 bits."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.data import open_data
from pellucid.data.lesionlab import KINDS, LesionLab
from pellucid.data.lesionlab.dicom_export import write_dicom

pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra `medical` (pydicom)")


@pytest.mark.parametrize("kind", KINDS)
def test_files_hold_the_picture_in_12_bits_and_the_table_what_is_known(kind: str, tmp_path: Path) -> None:
    data = LesionLab(kind, n_images=5, size=64, marker="letter", rho=0.5)
    table = write_dicom(data, tmp_path)
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 5
    for i, row in enumerate(rows):
        sample, picture = data[i], data.recipe(i).picture()
        file = pydicom.dcmread(tmp_path / row["path"])
        assert (file.BitsStored, file.HighBit, file.PixelRepresentation) == (12, 11, 0)
        assert file.PhotometricInterpretation == ("RGB" if kind == "fundus" else "MONOCHROME2")
        stored = np.atleast_3d(file.pixel_array).transpose(2, 0, 1)
        assert np.abs(stored / 4095 - picture).max() <= 0.5 / 4095 + 1e-6
        assert len(np.unique(stored)) > 256
        assert (row["label"], row["group"], row["name"]) == (data.classes[sample.label], sample.group, sample.name)
        assert str(file.PatientID) == sample.group
        with Image.open(tmp_path / row["mask"]) as mask:
            np.testing.assert_array_equal(np.asarray(mask) > 0, sample.mask.numpy())
    identities = {str(pydicom.dcmread(tmp_path / row["path"]).SOPInstanceUID) for row in rows}
    assert len(identities) == 5
    assert all(pydicom.uid.UID(name).is_valid for name in identities)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reader_of_dicom_files_gives_back_the_samples(kind: str, tmp_path: Path) -> None:
    data = LesionLab(kind, n_images=6, size=64, knobs={"lesions": (2, 4)})
    half_a_step = 0.5 / (255 if kind == "fundus" else 4095)  # colour is read in 8 bits
    read = open_data(f"dicom:{write_dicom(data, tmp_path)}", size=64, crop="resize", mean=data.mean, std=data.std)
    assert read.classes == data.classes
    for i in range(6):
        wanted, found = data[i], read[i]
        assert (found.name, found.label, found.group) == (wanted.name, wanted.label, wanted.group)
        assert torch.equal(found.mask, wanted.mask)
        scale = torch.tensor(data.std)[:, None, None]
        assert ((found.input - wanted.input) * scale).abs().max() <= half_a_step + 0.5 / 4095 + 1e-6


def test_equal_data_give_equal_bytes_and_other_knobs_other_identities(tmp_path: Path) -> None:
    data = LesionLab("xray", n_images=2, size=64)
    for name in ("a", "b"):
        write_dicom(data, tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    write_dicom(LesionLab("xray", n_images=2, size=64, knobs={"noise": 2.0}), tmp_path / "c")
    first = next(n for n in names if n.endswith(".dcm"))
    uids = [pydicom.dcmread(tmp_path / d / first).SOPInstanceUID for d in "ac"]
    assert uids[0] != uids[1]
