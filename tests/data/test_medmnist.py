"""MedMNIST files: one of the layout, made ones of all tasks, and damaged ones."""

from __future__ import annotations

import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.damage import damaged
from pellucid.data import open_data, options_of, reader_for
from pellucid.data.medmnist import SETS, medmnist
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset


def written(
    path: Path, shape: tuple[int, ...], labels: Any, *, packed: bool = True, counts: tuple[int, ...] = (6, 2, 3)
) -> Path:
    """Parts of so many images; labels(count) makes theirs."""
    chance = np.random.default_rng(0)
    arrays = {}
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        arrays[f"{part}_images"] = chance.integers(0, 256, (count, *shape), np.uint8)
        arrays[f"{part}_labels"] = labels(count)
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return path


def one(count: int) -> Any:
    return (np.arange(count) % 2)[:, None].astype(np.uint8)


def test_a_file_of_the_layout(test_data: Path) -> None:
    path = test_data / "medmnist_like" / "pneumoniamnist.npz"
    assert reader_for(path) == "medmnist"
    with np.load(path, allow_pickle=False) as theirs:
        for split, count in (("train", 3882), ("val", 524), ("test", 624)):
            data = medmnist(path, split=split, grey=True, mean=(0,), std=(1,))
            assert isinstance(data, Dataset)
            assert (len(data), data.classes, data.parts) == (count, ("normal", "pneumonia"), {})
            for i in (0, count // 2, count - 1):
                assert np.allclose(data[i].input[0], theirs[f"{split}_images"][i] / 255, atol=1e-6)
                assert data[i].label == data.facts(i).label == theirs[f"{split}_labels"][i, 0]
    whole = medmnist(path, split="all")
    assert {part: len(of) for part, of in whole.parts.items()} == {"train": 3882, "val": 524, "test": 624}
    assert whole.facts(3882).name == "val-000000"
    assert medmnist(path, size=64)[0].input.shape == (3, 64, 64)


@pytest.mark.parametrize("packed", [True, False])
def test_pictures_in_colour_and_volumes(tmp_path: Path, packed: bool) -> None:
    path = written(tmp_path / "pathmnist.npz", (28, 28, 3), one, packed=packed)
    data = medmnist(path, mean=(0, 0, 0), std=(1, 1, 1))
    with np.load(path) as theirs:
        assert np.allclose(data[5].input.permute(1, 2, 0), theirs["train_images"][5] / 255, atol=1e-6)
    assert (data.classes[0], len(data.classes), data.task) == ("adipose", 9, "multi-class")
    path = written(tmp_path / "organmnist3d.npz", (6, 7, 8), one, packed=packed)
    data = medmnist(path, split="val", mean=0.0, std=1.0)
    with np.load(path) as theirs:
        assert np.allclose(data[1].input[0], theirs["val_images"][1] / 255, atol=1e-6)
    assert medmnist(path, size=16)[0].input.shape == (1, 16, 16, 16)
    assert data.laterality  # left and right kidneys
    with pytest.raises(OptionError, match="does not fit volumes"):
        medmnist(path, grey=True)
    with pytest.raises(OptionError, match="'size'"):
        medmnist(path, siez=3)


def test_every_task(tmp_path: Path) -> None:
    several = written(
        tmp_path / "chestmnist.npz",
        (4, 4),
        lambda n: np.eye(14, dtype=np.uint8)[:n] + np.eye(14, k=1, dtype=np.uint8)[:n],
    )
    data = medmnist(several)
    assert (data.task, len(data.classes)) == ("multi-label", 14)
    assert data[2].label.tolist() == [float(k in (2, 3)) for k in range(14)]
    assert data.facts(2).label is None
    ordered = medmnist(written(tmp_path / "retinamnist_64.npz", (4, 4), lambda n: (np.arange(n) % 5)[:, None]))
    assert (ordered.task, ordered.classes, ordered[4].label) == ("ordinal", ("0", "1", "2", "3", "4"), 4)
    own = written(tmp_path / "mine.npz", (4, 4), lambda n: (np.arange(n) % 3)[:, None])
    assert medmnist(own).classes == ("0", "1", "2")
    assert medmnist(own, classes=["a", "b", "c"]).classes == ("a", "b", "c")
    with pytest.raises(OptionError, match="2 class names for 3 classes"):
        medmnist(own, classes=["a", "b"])
    with pytest.raises(OptionError, match="'test'"):
        medmnist(own, split="tets")


def test_the_names_of_the_collection() -> None:
    theirs = pytest.importorskip("medmnist").INFO
    assert set(SETS) == set(theirs)
    for name, info in theirs.items():
        assert SETS[name] == tuple(info["label"][str(k)] for k in range(len(info["label"])))


def test_a_name_is_found_or_fetched_by_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(BadInput, match=r"bloodmnist\.npz is not on this machine") as caught:
        open_data("medmnist:bloodmnist")
    assert "pip install medmnist" in caught.value.hint
    asked = []

    class BloodMNIST:
        def __init__(self, **options: Any) -> None:
            asked.append(options)
            written(Path(options["root"]) / "bloodmnist_64.npz", (64, 64, 3), one)

    package = types.SimpleNamespace(INFO={"bloodmnist": {"python_class": "BloodMNIST"}}, BloodMNIST=BloodMNIST)
    monkeypatch.setitem(sys.modules, "medmnist", package)
    data = open_data("medmnist:bloodmnist_64", split="test")
    assert (len(data), data[0].input.shape) == (3, (3, 64, 64))
    assert asked == [{"split": "train", "download": True, "root": str(tmp_path / ".medmnist"), "size": 64}]
    open_data("medmnist:bloodmnist_64")
    assert len(asked) == 1  # it is here now
    package.BloodMNIST = None
    with pytest.raises(BadInput, match="could not be fetched"):
        open_data("medmnist:bloodmnist")
    for wrong in ("medmnist:bloodmnst", "medmnist:bloodmnist_99"):
        with pytest.raises(BadInput, match="has no set") as caught:
            open_data(wrong)
    assert "bloodmnist" in caught.value.hint


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    labels = np.array([[Evil()]] * 6, object)
    np.savez(tmp_path / "a.npz", train_images=np.zeros((6, 4, 4), np.uint8), train_labels=labels)
    with pytest.raises(BadInput):
        medmnist(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_declared_sizes_are_checked_before_anything_is_unpacked(tmp_path: Path) -> None:
    written(tmp_path / "a.npz", (4, 4), one)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"(6, 4, 4)", b"(9**9, 4)") if "train_im" in name else content)
    with pytest.raises(BadInput):
        medmnist(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(
                name, content.replace(b"(6, 4, 4), }  ", b"(9999, 99, 9), }"[:14]) if "train_im" in name else content
            )
    with pytest.raises(BadInput):
        medmnist(tmp_path / "c.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((2, 4, 4), np.uint8)},
        {"train_images": np.zeros((2, 4, 4), np.uint8)},
        {"train_images": np.zeros((2, 4, 4), np.float32), "train_labels": np.zeros((2, 1), int)},
        {"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": np.zeros((3, 1), int)},
        {"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": -np.ones((2, 1), int)},
        {"train_images": np.zeros((2, 4), np.uint8), "train_labels": np.zeros((2, 1), int)},
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(BadInput, match="no file of MedMNIST"):
        medmnist(tmp_path / "a.npz")


@pytest.mark.parametrize("packed", [True, False])
def test_damaged_files_give_pictures_or_bad_input(tmp_path: Path, packed: bool) -> None:
    original = written(tmp_path / "a.npz", (9, 9), one, packed=packed).read_bytes()
    ended = {"read": 0, "refused": 0}
    for _, content in damaged([original], 200, 300, lambda copy, chance: copy.__setitem__(slice(18, 30), b"\xff" * 12)):
        (tmp_path / "b.npz").write_bytes(content)
        try:
            data = medmnist(tmp_path / "b.npz", split="all")
            assert all(bool(data[i].input.isfinite().all()) for i in range(len(data)))
            ended["read"] += 1
        except BadInput:
            ended["refused"] += 1
    assert ended["refused"] > 50


def test_options_and_fingerprint(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", (4, 4), one)
    assert {"size", "split", "classes", "grey", "spacing"} <= set(options_of(path))
    assert medmnist(path).fingerprint == medmnist(path).fingerprint
    assert medmnist(path).fingerprint != medmnist(path, split="test").fingerprint
    assert torch.equal(medmnist(path)[-1].input, medmnist(path)[5].input)
    with pytest.raises(IndexError):
        medmnist(path)[6]
