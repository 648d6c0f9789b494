"""Folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.data.folder import folder
from pellucid.data.image_set import image_set
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for k, name in enumerate(
        ["healthy/b.png", "healthy/a.JPG", "ill/deep/c.png", "ill/d.webp", "ill/.e.png", ".hidden/f.png"]
    ):
        picture(tmp_path / name, 20 * k)
    (tmp_path / "ill" / "notes.txt").write_text("no picture")
    (tmp_path / "README.md").write_text("no picture")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_classes_are_folders_by_name_and_hidden_files_are_ignored(tree: Path) -> None:
    data = folder(tree, size=8, shorter_side=8)
    assert isinstance(data, Dataset)
    assert data.classes == ("healthy", "ill")
    assert [(e.name, e.label) for e in data.entries] == [
        ("healthy/a.JPG", 0), ("healthy/b.png", 0), ("ill/d.webp", 1), ("ill/deep/c.png", 1),
    ]  # fmt: skip
    sample = data[1]
    assert (sample.label, sample.mask, sample.group) == (0, None, "")
    assert (sample.image == 0).all()


def test_classes_can_be_given_in_order_and_must_fit(tree: Path) -> None:
    data = folder(tree, classes=["ill", "healthy"])
    assert [data.facts(i).label for i in range(4)] == [0, 0, 1, 1]
    with pytest.raises(OptionError, match="Did you mean 'healthy'"):
        folder(tree, classes=["healty", "ill"])
    with pytest.raises(OptionError, match="not a class"):
        folder(tree, classes=["ill"])
    with pytest.raises(OptionError, match="classes"):
        folder(tree, clases=["ill"])


def test_a_bad_file_does_not_stop_the_others(tree: Path) -> None:
    (tree / "healthy" / "bad.png").write_text("text")
    data = folder(tree)
    bad = data.check()
    assert [Path(error.path or "").name for error in bad] == ["bad.png"]
    number = next(i for i, e in enumerate(data.entries) if e.name.endswith("bad.png"))
    with pytest.raises(BadInput, match=r"bad\.png"):
        data[number]
    assert data[number - 1].input.shape == (3, 224, 224)


def test_a_flat_folder_and_a_list_have_no_labels(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{name}.png") for name in "ba"]
    for data in (folder(tmp_path), image_set(tmp_path)):
        assert [data.facts(i).name for i in range(2)] == ["a.png", "b.png"]
        assert data[0].label is None
        assert data.classes == ()
    assert [e.path for e in image_set(paths).entries] == paths
    assert [e.name for e in image_set([*paths, tmp_path / "x" / "a.png"]).entries][2] == str(tmp_path / "x" / "a.png")
    assert len(image_set(tmp_path / "missing.png").check()) == 1


def test_unclear_and_empty_folders_are_refused(tree: Path, tmp_path: Path) -> None:
    picture(tree / "loose.png")
    with pytest.raises(BadInput, match=r"loose\.png"):
        folder(tree)
    with pytest.raises(BadInput, match="no images"):
        folder(tree / "empty")
    with pytest.raises(BadInput, match="no folder"):
        folder(tree / "missing")


def test_the_fingerprint_follows_contents_and_options_not_places(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import shutil

    copy = tmp_path_factory.mktemp("copy") / "tree"
    shutil.copytree(tree, copy)
    before = folder(tree).fingerprint
    assert folder(copy).fingerprint == before
    assert folder(tree, size=64).fingerprint != before
    picture(copy / "healthy" / "b.png", 200)
    assert folder(copy).fingerprint != before


def test_folders_of_parts_are_a_published_split(tmp_path: Path) -> None:
    for name in (
        "train/cat/1_l",
        "train/cat/1_r",
        "train/dog/2_l",
        "test/cat/3_l",
        "test/dog/1_x",
        "Validation/dog/4_l",
    ):
        picture(tmp_path / f"{name}.png")
    data = folder(tmp_path, size=8)
    assert data.classes == ("cat", "dog")
    assert [data.facts(i).name for i in range(3)] == ["train/cat/1_l.png", "train/cat/1_r.png", "train/dog/2_l.png"]
    assert [len(folder(tmp_path, split=part)) for part in ("val", "test")] == [1, 2]
    whole = folder(tmp_path, split="all", group=r"(\d+)_[lr]")
    assert whole.parts == {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}
    assert [whole.facts(i).group for i in range(6)] == ["1", "1", "2", "4", "3", ""]
    assert [folder(tmp_path, split="test", classes=["dog"], only=True).facts(i).label for i in range(1)] == [0]
    for wrong in ({"split": "tets"}, {"group": "(["}, {"group": "x"}, {"group": "(nothing)"}, {"classes": ["dog"]}):
        with pytest.raises(OptionError):
            folder(tmp_path, **wrong)  # type: ignore[arg-type]


def test_a_class_may_be_called_test_beside_others(tmp_path: Path) -> None:
    for name in ("test/a", "control/b"):
        picture(tmp_path / f"{name}.png")
    assert folder(tmp_path).classes == ("control", "test")
    assert folder(tmp_path, split="all").parts == {}
    with pytest.raises(OptionError, match="no part 'test'"):
        folder(tmp_path, split="test")
