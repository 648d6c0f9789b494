from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import pellucid as pl
from pellucid.data.overview import overview


def picture(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def test_a_folder_by_hand(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / "cat" / f"{k}.png", 40, 30)
    picture(tmp_path / "dog" / "a.png", 20, 50)
    (tmp_path / "dog" / "b.png").write_bytes(b"no picture")
    seen: list[tuple[int, int]] = []
    found = overview(pl.open_data(tmp_path, size=16), progress=lambda done, total: seen.append((done, total)))
    assert (found.samples, found.read, found.unlabelled, found.groups, found.masks) == (5, 5, 0, 0, 0)
    assert found.classes == {"cat": 3, "dog": 2}
    assert found.sizes == {"30 x 40": 3, "50 x 20": 1}
    assert found.inputs == {"3 x 16 x 16": 4}
    assert [name for name, _ in found.bad] == ["dog/b.png"]
    assert seen == [(k, 5) for k in range(1, 6)]
    said = dict(found.rows())
    assert said["cannot be read"] == "1"
    assert said["sizes"] == "30 x 40 (3), 50 x 20 (1)"
    assert said["  dog"] == "2"
    assert found.as_dict()["bad"][0]["name"] == "dog/b.png"


def test_a_table_with_groups_and_masks(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png", 8, 8)
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "m.png")
    rows = ["path,label,mask,group", "a.png,ill,m.png,p1", "b.png,well,,p1", "c.png,ill,,p2"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    found = overview(pl.open_data(tmp_path / "t.csv", size=8))
    assert (found.classes, found.groups, found.masks) == ({"ill": 2, "well": 1}, 2, 1)


def test_many_classes_and_a_part_of_the_files(tmp_path: Path) -> None:
    for k in range(15):
        picture(tmp_path / f"c{k:02d}" / "0.png", 8 + k % 5, 8)
    found = overview(pl.open_data(tmp_path, size=8), limit=10)
    assert (found.samples, found.read, sum(found.sizes.values())) == (15, 10, 10)
    said = found.rows()
    assert ("", "and 3 more classes") in said
    assert ("sizes (of the 10 that were read)", "8 x 8 (2), 8 x 9 (2), 8 x 11 (2) and 2 more") in said


def test_drawn_pictures() -> None:
    data = pl.open_data("lesionlab:fundus", n_images=6, size=64)
    found = overview(data)
    labels = [data[i].label for i in range(6)]
    assert list(found.classes.values()) == [labels.count(0), labels.count(1)]
    assert (found.sizes, found.masks, found.bad) == ({"64 x 64": 6}, 6, ())


def test_repeats_and_what_parts_share(tmp_path: Path) -> None:
    def shade(name: str, value: int) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), (value, value, value), np.uint8)).save(path)

    for name, value in (("train/a/p1_0.png", 10), ("train/a/p2_0.bmp", 10), ("train/b/p3_0.png", 20), ("train/b/p3_1.png", 10), ("test/a/p3_2.png", 30), ("test/b/p4_0.png", 20)):  # fmt: skip
        shade(name, value)
    found = overview(pl.open_data(tmp_path, size=8, split="all", group=r"(p\d)_"))
    assert found.parts == {"train": 4, "test": 2}
    assert found.duplicates == (
        ("train/a/p2_0.bmp", "train/a/p1_0.png"),
        ("train/b/p3_1.png", "train/a/p1_0.png"),
        ("test/b/p4_0.png", "train/b/p3_0.png"),
    )
    assert found.conflicts == (("train/b/p3_1.png", "train/a/p1_0.png"),)
    assert found.shared == {"train and test": {"groups": 1, "inputs": 1}}
    assert (found.grey, found.groups) == (6, 4)
    said = dict(found.rows())
    assert said["duplicates"] == "3, 1 of them with two labels"
    assert said["shared by train and test"] == "1 groups, 1 same inputs"


def test_several_classes_at_once(tmp_path: Path) -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0]], np.uint8)
    np.savez(tmp_path / "m.npz", train_images=np.arange(48, dtype=np.uint8).reshape(3, 4, 4), train_labels=labels)
    found = overview(pl.open_data(tmp_path / "m.npz"))
    assert (found.task, found.classes, found.unlabelled) == ("multilabel", {"0": 1, "1": 0, "2": 2}, 0)
