"""The registry of readers and the choice among them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.data import _DICOM, _IMAGES, _NIFTI, READERS, dicom_file, nifti, open_data, options_of, parted, reader_for
from pellucid.data.image_file import SUFFIXES
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "x").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "x" / "a.png")
    (tmp_path / "t.csv").write_text("path,label\nx/a.png,0\n")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_every_source_finds_its_reader(place: Path) -> None:
    sources = {
        "lesionlab:fundus": "lesionlab", place: "folder", place / "t.csv": "csv_table", place / "x" / "a.png": "image_set", place / "x": "folder",
    }  # fmt: skip
    for source, wanted in sources.items():
        assert reader_for(source) == wanted
        data = open_data(source)
        assert isinstance(data, Dataset)
        assert data[0].input.shape[0] == 3
    assert len(open_data([place / "x" / "a.png"])) == 1


def test_a_folder_is_read_by_what_is_in_it(tmp_path: Path) -> None:
    kinds = {
        "a/x/1.png": "folder",
        "b/x/1.dcm": "dicom",
        "c/x/1.nii.gz": "nifti",
        "d/notes.txt": "folder",
        "e/x/1": "dicom",
    }
    for name in kinds:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" if name == "e/x/1" else b"")
    for name, wanted in kinds.items():
        assert reader_for(tmp_path / name.split("/")[0]) == wanted
    single = {"b/x/1.dcm": "dicom", "e/x/1": "dicom", "c/x/1.nii.gz": "nifti"}
    for name, wanted in single.items():
        assert reader_for(tmp_path / name) == reader_for([tmp_path / name]) == wanted
    (tmp_path / "s.npz").write_bytes(b"")
    assert reader_for(tmp_path / "s.npz") == "medmnist"


def test_a_name_before_a_colon_chooses_the_reader(place: Path) -> None:
    for name in set(READERS) - {"lesionlab", "medmnist"}:
        assert reader_for(f"{name}:{place}") == name
        assert parted(f"{name}:{place}") == (f"{name}:", str(place))
    assert open_data(f"folder:{place}").classes == ("x",)
    assert reader_for("medmnist:bloodmnist") == "medmnist"
    assert parted("medmnist:bloodmnist") == ("medmnist:bloodmnist", "")
    with pytest.raises(BadInput, match="no data source"):
        reader_for("dicom:nowhere")


def test_the_options_of_a_source_are_those_that_its_reader_knows(place: Path) -> None:
    sources = ["lesionlab:fundus", place, place / "t.csv", place / "x" / "a.png"]
    every = {name for source in sources for name in options_of(source)} | {"colour", "kind"}
    for source in sources:
        unknown = set()
        for name in every:
            try:
                open_data(source, **{name: None})
            except Exception as error:  # nothing is no good value for some options; that they are known is the point
                if "has no option" in str(error):
                    unknown.add(name)
        assert every - unknown == set(options_of(source))


def test_rows_load_functions_of_their_own_name() -> None:
    assert list(READERS) == sorted(READERS)
    for name, row in READERS.items():
        assert row.load().__name__ == name
        assert row.summary
        assert row.sources
    assert frozenset(_IMAGES) == SUFFIXES
    assert (_DICOM, _NIFTI) == (dicom_file.SUFFIXES, nifti.SUFFIXES)


@pytest.mark.parametrize(
    ("source", "match"),
    [("missing.csv", "no data source"), ("lesionlab:fundos", "fundus"), ("medmnist:blood", "has no set")],
)
def test_unknown_sources_are_bad_input(source: str, match: str) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        open_data(source)
    assert caught.value.hint


def test_a_slip_in_a_path_names_the_nearest_and_other_files_are_refused(place: Path) -> None:
    with pytest.raises(BadInput, match=r"Did you mean 't\.csv'"):
        open_data(place / "tt.csv")
    with pytest.raises(BadInput, match=r"notes\.txt"):
        open_data(place / "notes.txt")


@pytest.mark.parametrize(
    ("source", "option", "hint"), [("t.csv", "siez", "size"), ("x", "clases", "classes"), ("x/a.png", "gray", "grey")]
)
def test_unknown_options_name_the_nearest(place: Path, source: str, option: str, hint: str) -> None:
    with pytest.raises(OptionError, match=f"'{hint}'"):
        open_data(place / source, **{option: 1})


def test_the_registry_loads_no_torch() -> None:
    code = "import sys, pellucid.data; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_readers_load_no_torchvision(place: Path) -> None:
    code = f"import sys; from pellucid.data import open_data; open_data({str(place)!r})[0]; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
