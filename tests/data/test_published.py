"""Small made files of the layouts that Kaggle DR, Kermany OCT and RSNA pneumonia are published in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.data import open_data, options_of, reader_for
from pellucid.data.overview import overview
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset


def picture(path: Path, shade: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), shade, np.uint8)).save(path, quality=100)


# --- Kaggle diabetic retinopathy


def kaggle(root: Path) -> Path:
    for k, name in enumerate(("10_left", "10_right", "13_left", "13_right")):
        picture(root / "train" / f"{name}.jpeg", 10 * k)
    picture(root / "test" / "1_left.jpeg", 200)
    picture(root / "test" / "1_right.jpeg", 210)
    (root / "trainLabels.csv").write_text("image,level\n10_left,0\n10_right,0\n13_left,2\n13_right,4\n")
    (root / "retinopathy_solution.csv").write_text("image,level,Usage\n1_left,1,Private\n1_right,0,Public\n")
    return root


def test_kaggle_dr(tmp_path: Path) -> None:
    source = f"kaggle_dr:{kaggle(tmp_path)}"
    assert reader_for(source) == "kaggle_dr"
    data = open_data(source, size=8)
    assert isinstance(data, Dataset)
    assert data.classes == ("no DR", "mild", "moderate", "severe", "proliferative")
    facts = [data.facts(i) for i in range(4)]
    assert [(f.name, f.label, f.group) for f in facts] == [("10_left", 0, "10"), ("10_right", 0, "10"), ("13_left", 2, "13"), ("13_right", 4, "13")]  # fmt: skip
    assert data[3].meta["laterality"] == "right"
    assert np.allclose(data[3].image, 30, atol=1)
    assert not data.laterality  # of the eyes, not of the classes
    binary = open_data(source, disease=1, split="all")
    assert binary.classes == ("healthy", "disease")
    assert [binary.facts(i).label for i in range(6)] == [0, 0, 1, 1, 1, 0]
    assert binary.parts == {"train": (0, 1, 2, 3), "test": (4, 5)}
    assert binary[4].meta["usage"] == "Private"
    assert [open_data(source, disease=3).facts(i).label for i in range(4)] == [0, 0, 0, 1]


def test_kaggle_dr_where_something_is_missing(tmp_path: Path) -> None:
    source = f"kaggle_dr:{kaggle(tmp_path)}"
    (tmp_path / "train" / "13_left.jpeg").unlink()
    with pytest.raises(BadInput, match=r"13_left\.jpeg"):
        open_data(source)[2]
    (tmp_path / "train" / "13_right.jpeg").rename(tmp_path / "train" / "13_right.png")  # resized copies often are
    assert open_data(source)[3].label == 4
    for wrong in ({"split": "tests"}, {"disease": 5}, {"disaese": 1}):
        with pytest.raises(OptionError):
            open_data(source, **wrong)
    (tmp_path / "retinopathy_solution.csv").unlink()
    with pytest.raises(BadInput, match="no labels of the part 'test'"):
        open_data(source, split="test")
    (tmp_path / "trainLabels.csv").write_text("image,level\n10_left,7\n")
    with pytest.raises(BadInput, match="line 2 has the level '7'"):
        open_data(source)
    (tmp_path / "trainLabels.csv").write_text("image,grade\n10_left,7\n")
    with pytest.raises(OptionError, match="no column 'level'"):
        open_data(source)


# --- Kermany OCT


def kermany(root: Path) -> Path:
    names = {"train": ("NORMAL-12-1", "NORMAL-12-2", "DRUSEN-13-1", "DME-14-1", "CNV-15-1"), "test": ("NORMAL-12-3", "DRUSEN-99-1", "DME-98-1", "CNV-97-1")}  # fmt: skip
    for part, members in names.items():
        for k, name in enumerate(members):
            picture(root / part / name.split("-")[0] / f"{name}.jpeg", 20 * k + (5 if part == "test" else 0))
    return root


def test_kermany_oct(tmp_path: Path) -> None:
    source = f"kermany_oct:{kermany(tmp_path)}"
    assert reader_for(source) == "kermany_oct"
    data = open_data(source)
    assert data.classes == ("NORMAL", "DRUSEN", "DME", "CNV")
    facts = [data.facts(i) for i in range(len(data))]
    assert [(f.label, f.group) for f in facts] == [(0, "12"), (0, "12"), (1, "13"), (2, "14"), (3, "15")]
    assert facts[0].name == "train/NORMAL/NORMAL-12-1.jpeg"
    two = open_data(source, classes=["NORMAL", "DRUSEN"], split="test")
    assert [(two.facts(i).label, two.facts(i).group) for i in range(2)] == [(0, "12"), (1, "99")]
    assert len(two) == 2
    found = overview(open_data(source, split="all", size=8, crop="resize"))
    assert found.parts == {"train": 5, "test": 4}
    assert found.shared == {"train and test": {"groups": 1, "inputs": 0}}  # patient 12
    assert dict(found.rows())["shared by train and test"] == "1 groups, 0 same inputs"


def test_kermany_oct_where_something_is_missing(tmp_path: Path) -> None:
    source = f"kermany_oct:{kermany(tmp_path)}"
    with pytest.raises(OptionError, match="'DRUSEN'"):
        open_data(source, classes=["NORMAL", "DRUSSEN"])
    with pytest.raises(OptionError, match="no part 'val'"):
        open_data(source, split="val")
    other = tmp_path / "other"
    picture(other / "cats" / "a.png", 3)
    with pytest.raises((BadInput, OptionError)):
        open_data(f"kermany_oct:{other}")


# --- RSNA pneumonia


def rsna(root: Path) -> Path:
    from data.scans import dicom_file

    for k, name in enumerate(("aa", "bb", "cc", "dd")):
        pixels = np.full((16, 16), 40 * k, np.uint8)
        pixels[0] = 255
        pixels[1] = 0
        dicom_file(root / "stage_2_train_images" / f"{name}.dcm", pixels, Modality="CR", PatientID=name)
    (root / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\naa,,,,,0\nbb,,,,,0\ncc,2.0,4.0,4.0,2.0,1\ncc,10,8,2,6,1\ndd,0,0,16,16,1\n"
    )
    (root / "stage_2_detailed_class_info.csv").write_text(
        "patientId,class\naa,Normal\nbb,No Lung Opacity / Not Normal\ncc,Lung Opacity\ncc,Lung Opacity\ndd,Lung Opacity\n"
    )
    return root


def test_rsna_pneumonia(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    source = f"rsna_pneumonia:{rsna(tmp_path)}"
    data = open_data(source, size=16, crop="resize")
    assert isinstance(data, Dataset)
    assert data.classes == ("no opacity", "Lung Opacity")
    assert [data.facts(i).label for i in range(4)] == [0, 0, 1, 1]
    wanted = torch.zeros(16, 16, dtype=torch.bool)
    wanted[4:6, 2:6] = True
    wanted[8:14, 10:12] = True
    assert torch.equal(data[2].mask, wanted)
    assert not data[0].mask.any()
    assert data[3].mask.all()
    assert (data[1].meta["class"], data[1].meta["Modality"]) == ("No Lung Opacity / Not Normal", "CR")
    assert np.allclose(data[2].image[5, 5], 80, atol=1)
    paper = open_data(source, task="paper")
    assert [(paper.facts(i).name, paper.facts(i).label) for i in range(3)] == [("aa", 0), ("cc", 1), ("dd", 1)]
    three = open_data(source, task="three")
    assert [three.facts(i).label for i in range(4)] == [0, 1, 2, 2]
    assert [data.facts(i).group for i in range(4)] == ["aa", "bb", "cc", "dd"]
    known = [
        {"subset_img_id": n, "img_id": f"{p}_000.png"}
        for n, p in zip(("aa", "bb", "cc", "dd"), ("01", "01", "02", "03"), strict=True)
    ]
    (tmp_path / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(known))
    data = open_data(source)
    assert [data.facts(i).group for i in range(4)] == ["01", "01", "02", "03"]
    assert {"window", "voi", "size", "task"} <= set(options_of(source))


def test_rsna_pneumonia_where_something_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    source = f"rsna_pneumonia:{rsna(tmp_path)}"
    with pytest.raises(OptionError, match="'paper'"):
        open_data(source, task="papre")
    (tmp_path / "stage_2_train_images" / "cc.dcm").write_bytes(b"broken")
    with pytest.raises(BadInput, match=r"cc\.dcm"):
        open_data(source)[2]
    info = tmp_path / "stage_2_detailed_class_info.csv"
    text = info.read_text()
    info.write_text(text.replace("dd,Lung Opacity\n", ""))
    with pytest.raises(BadInput, match="does not list 1 pictures, dd"):
        open_data(source)
    info.write_text(text.replace("aa,Normal", "aa,normal"))
    with pytest.raises(BadInput, match="line 2 has the class 'normal'"):
        open_data(source)
    info.unlink()
    with pytest.raises(BadInput, match="detailed_class_info"):
        open_data(source)
