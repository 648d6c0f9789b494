"""DICOM trees, lists and tables as pictures."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.scans import dicom_file
from pellucid.data import open_data, options_of, reader_for
from pellucid.data.dicom import dicom
from pellucid.data.splits import folds
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset, collate

pydicom = pytest.importorskip("pydicom")
REAL = Path(pydicom.__file__).parent / "data" / "test_files"
PLAIN = {"size": 4, "crop": "resize", "grey": True, "mean": (0,), "std": (1,)}


def tree(root: Path) -> Path:
    """Two classes, three patients; one has two pictures."""
    for k, name in enumerate(("ill/a.dcm", "ill/b.dcm", "ill/c.dcm", "well/d")):
        pixels = np.full((4, 4), 100 * k, np.uint16)
        pixels[0, 0] = 1000
        dicom_file(root / name, pixels, PatientID=("p1", "p1", "p2", "p3")[k], StudyInstanceUID=f"1.2.{k}",
                   SeriesInstanceUID=f"1.2.{k}.1", WindowCenter=500, WindowWidth=1001)  # fmt: skip
    return root


def test_a_tree_with_classes_and_patients(tmp_path: Path) -> None:
    data = open_data(tree(tmp_path), **PLAIN)
    assert reader_for(tmp_path) == "dicom"
    assert isinstance(data, Dataset)
    assert data.classes == ("ill", "well")
    facts = [data.facts(i) for i in range(4)]
    assert [(f.name, f.label, f.group) for f in facts] == [
        ("ill/a.dcm", 0, "p1"), ("ill/b.dcm", 0, "p1"), ("ill/c.dcm", 0, "p2"), ("well/d", 1, "p3"),
    ]  # fmt: skip
    for k in range(4):
        assert torch.allclose(data[k].input[0, 1:], torch.tensor(0.1 * k), atol=1e-3)
        assert data[k].input[0, 0, 0] == 1
    told = data[0].meta
    assert (told["PatientID"], told["SeriesInstanceUID"], told["Modality"]) == ("p1", "1.2.0.1", "CT")
    assert told["placed"] == {"scaled": (4, 4), "corner": (0, 0), "size": (4, 4)}


@pytest.mark.parametrize(
    ("group", "wanted"),
    [("patient", ["p1", "p1", "p2", "p3"]), ("series", [f"1.2.{k}.1" for k in range(4)]), ("none", [""] * 4)],
)
def test_what_must_not_be_split(tmp_path: Path, group: str, wanted: list[str]) -> None:
    data = dicom(tree(tmp_path), group=group)  # type: ignore[arg-type]
    assert [data.facts(i).group for i in range(4)] == wanted


def test_folders_of_patients_are_no_classes(tmp_path: Path) -> None:
    for name, patient in (("P1/s/a.dcm", "1"), ("P1/s/b.dcm", "1"), ("P2/s/c.dcm", "2")):
        dicom_file(tmp_path / name, np.zeros((2, 2), np.uint16), PatientID=patient)
    assert open_data(tmp_path).classes == ()
    assert open_data(tmp_path, labels="folder").classes == ("P1", "P2")
    (tmp_path / "labels.csv").write_text("patient,label\n1,ill\n2,well\n")
    data = open_data(tmp_path, labels=tmp_path / "labels.csv")
    assert [data.facts(i).label for i in range(3)] == [0, 0, 1]
    with pytest.raises(OptionError, match="is not a class"):
        open_data(tmp_path, labels="folder", classes=["P1", "P3"])


def test_files_without_pictures_are_left_out_and_bad_ones_kept(tmp_path: Path) -> None:
    for name in ("CT_small", "rtplan", "test-SR", "badVR", "rtdose"):
        (tmp_path / f"{name}.dcm").write_bytes((REAL / f"{name}.dcm").read_bytes())
    (tmp_path / "DICOMDIR").write_bytes((REAL / "dicomdirtests" / "DICOMDIR").read_bytes())
    (tmp_path / "notes.txt").write_text("words")
    data = dicom(tmp_path)
    assert set(data.left_out) == {"rtplan.dcm", "test-SR.dcm"}
    names = [data.facts(i).name for i in range(len(data))]
    assert names == ["CT_small.dcm", "badVR.dcm", *(f"rtdose.dcm#{k:02d}" for k in range(15))]
    with pytest.raises(BadInput, match="badVR"):
        data[1]
    assert len(dicom(tmp_path, frames="first")) == 3
    assert [type(e) for e in data.check()] == [BadInput]
    dose = pydicom.dcmread(REAL / "rtdose.dcm").pixel_array[7].astype(float)
    wanted = (dose - dose.min()) / (dose.max() - dose.min())
    found = dicom(tmp_path, size=10, crop="resize", grey=True, mean=(0,), std=(1,))[9].input[0]
    assert np.allclose(found, wanted, atol=1e-6)
    assert data[9].meta["frame"] == 7


def test_windows_of_the_users_choice(tmp_path: Path) -> None:
    pixels = np.array([[0, 500], [1000, 2000]], np.int16)
    path = dicom_file(tmp_path / "a.dcm", pixels, RescaleSlope=1, RescaleIntercept=-1000)
    usual = {"size": 2, "crop": "resize", "mean": (0, 0, 0), "std": (1, 1, 1)}
    one = dicom(path, window=[-1000, 0], **usual)[0].input
    assert torch.allclose(one, torch.tensor([[0, 0.5], [1, 1]]).expand(3, 2, 2))
    three = dicom(path, window=[[-1000, 0], [-500, 0], [0, 1000]], **usual)[0]
    assert torch.allclose(three.input, torch.tensor([[[0, 0.5], [1, 1]], [[0, 0], [1, 1]], [[0, 0], [0, 1.0]]]))
    assert three.image.shape == (2, 2, 3)
    turned = dicom_file(
        tmp_path / "b.dcm", pixels, RescaleSlope=1, RescaleIntercept=-1000, PhotometricInterpretation="MONOCHROME1"
    )
    assert torch.allclose(dicom(turned, window=[-1000, 0], **usual)[0].input, 1 - one)
    for wrong in ([1, 0], [[0, 1], [0, 1]], [[0, 1, 2]]):
        with pytest.raises(OptionError, match="window"):
            dicom(path, window=wrong)
    named = dicom_file(
        tmp_path / "c.dcm",
        pixels,
        WindowCenter=[100, 1000],
        WindowWidth=[200, 2001],
        WindowCenterWidthExplanation=["SOFT", "BONE"],
    )
    assert torch.allclose(dicom(named, voi="BONE", **usual)[0].input[0], torch.tensor([[0, 0.25], [0.5, 1]]), atol=1e-3)
    with pytest.raises(BadInput, match="no window or table 'LUNG'"):
        dicom(named, voi="LUNG")[0]


def test_a_table_with_boxes_and_masks(tmp_path: Path) -> None:
    for name in "ab":
        dicom_file(tmp_path / f"{name}.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8), PatientID=f"of {name}")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "m.png")
    (tmp_path / "t.csv").write_text("path,label,boxes,mask\na.dcm,ill,2 2 4 6,\nb.dcm,ill,,m.png\n")
    data = open_data(f"dicom:{tmp_path / 't.csv'}", size=8, crop="resize")
    assert data.classes == ("ill",)
    assert [data.facts(i).group for i in range(2)] == ["of a", "of b"]
    wanted = torch.zeros(8, 8, dtype=torch.bool)
    wanted[2:6, 2:4] = True
    assert torch.equal(data[0].mask, wanted)
    assert torch.equal(data[1].mask, torch.eye(8, dtype=torch.bool))
    with pytest.raises(OptionError, match="lists files that are no pictures") as caught:
        open_data(tmp_path / "t.csv")
    assert f"dicom:{tmp_path / 't.csv'}" in caught.value.hint


def test_colour_files_and_grey_ones_in_one_batch() -> None:
    names = ("CT_small", "SC_rgb_small_odd", "examples_palette", "MR_small_RLE", "SC_rgb_rle_16bit", "liver_1frame")
    sources = [REAL / f"{n}.dcm" for n in names]
    assert reader_for(sources) == "dicom"
    x = collate([open_data(sources, size=32)[i] for i in range(6)])
    assert x.shape == (6, 3, 32, 32)
    grey = [s.input.reshape(3, -1).std(0).max() for s in (open_data(sources, size=32, mean=(0, 0, 0), std=(1, 1, 1))[i] for i in range(6))]  # fmt: skip
    assert [bool(g < 1e-6) for g in grey] == [True, False, False, True, False, True]


def test_the_whole_tree_of_pydicom() -> None:
    """Every file of it, in all its transfer syntaxes: a finite picture, or a reason."""
    data = dicom(REAL, size=32, frames="first")
    bad = {}
    for i in range(len(data)):
        try:
            assert bool(data[i].input.isfinite().all())
        except BadInput as error:
            bad[data.facts(i).name] = error
    assert len(data) > 90
    assert {"MR_truncated.dcm", "badVR.dcm", "no_meta.dcm"} <= set(bad)
    assert len(bad) <= 8
    good = [REAL / name for name in (data.facts(i).name for i in range(len(data))) if name not in bad]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heads = [pydicom.dcmread(path, stop_before_pixels=True).file_meta for path in good]
    assert len({head.TransferSyntaxUID for head in heads}) >= 10


def test_options_splits_and_fingerprint(tmp_path: Path) -> None:
    source = tree(tmp_path)
    assert {"voi", "window", "frames", "labels", "group", "size", "grey"} <= set(options_of(source))
    with pytest.raises(OptionError, match="'window'"):
        dicom(source, windw=3)
    with pytest.raises(OptionError, match="'patient'"):
        dicom(source, group="pateint")  # type: ignore[arg-type]
    parts = folds(dicom(source, labels=None), 2).parts
    assert {tuple(sorted(of)) for of in parts.values()} in ({(0, 1), (2, 3)}, {(0, 1, 2), (3,)}, {(0, 1, 3), (2,)})
    first = dicom(source).fingerprint
    assert dicom(source).fingerprint == first != dicom(source, voi="range").fingerprint


def test_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There are no DICOM pictures"):
        open_data(f"dicom:{tmp_path}")
    with pytest.raises(BadInput, match="no data source"):
        open_data(f"dicom:{tmp_path / 'nothing'}")
    (tmp_path / "a.dcm").write_bytes((REAL / "rtplan.dcm").read_bytes())
    with pytest.raises(BadInput, match="1 files hold no pictures") as caught:
        dicom(tmp_path)
    assert caught.value.hint
