"""Tables of images: columns, labels, masks and boxes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.data.csv_table import csv_table
from pellucid.data.image_set import ImageSet
from pellucid.errors import BadInput, OptionError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in "abcd":
        Image.fromarray(np.full((10, 20, 3), 9, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    mask = np.zeros((10, 20), np.uint8)
    mask[2:4, 3:6], mask[5, 7] = 1, 2
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def table(place: Path, text: str, **options: object) -> ImageSet:
    path = place / "table.csv"
    path.write_text(text, encoding="utf-8")
    return csv_table(path, **{"size": (10, 20), "crop": "resize", **options})


FULL = """path,label,mask,boxes,group,age
images/a.png,ill,mask.png,,p1,50
images/b.png,ill,,1 2 4 5; 10 0 12 3,p1,51
images/c.png,healthy,,,p2,
images/d.png,ill,mask.png,0 0 1 1,p3,7
"""


def test_rows_become_samples(place: Path) -> None:
    data = table(place, FULL, mask_values=1)
    assert data.classes == ("healthy", "ill")
    assert [(data.facts(i).label, data.facts(i).group) for i in range(4)] == [
        (1, "p1"),
        (1, "p1"),
        (0, "p2"),
        (1, "p3"),
    ]
    wanted = np.zeros((4, 10, 20), bool)
    wanted[0, 2:4, 3:6] = wanted[3, 2:4, 3:6] = wanted[3, 0, 0] = True
    wanted[1, 2:5, 1:4] = wanted[1, 0:3, 10:12] = True
    samples = [data[i] for i in range(4)]
    for k in (0, 1, 3):
        np.testing.assert_array_equal(samples[k].mask.numpy(), wanted[k])
    assert samples[2].mask is None
    assert samples[0].meta["age"] == "50"
    assert samples[0].name == "images/a.png"


def test_which_mask_values_count_is_an_option(place: Path) -> None:
    assert int(table(place, FULL)[0].mask.sum()) == 7
    assert int(table(place, FULL, mask_values=[2])[0].mask.sum()) == 1
    assert int(table(place, FULL, mask_values=[1, 2])[0].mask.sum()) == 7


def test_absent_truth_is_unknown_or_empty_as_asked(place: Path) -> None:
    text = "path,label,mask\nimages/a.png,0,\nimages/b.png,1,\n"
    assert [table(place, text)[i].mask for i in (0, 1)] == [None, None]
    data = table(place, text, mask_absent="empty")
    assert not data[0].mask.any()
    assert data[1].mask is None
    other = table(place, text, mask_absent="empty", negative="1")
    assert other[0].mask is None
    assert not other[1].mask.any()
    with pytest.raises(OptionError, match="no class '2'"):
        table(place, text, negative="2")


def test_columns_can_be_named_and_left_out(place: Path) -> None:
    text = "file;diagnosis;patient\nimages/a.png;x;7\n"
    data = table(place, text, path="file", label="diagnosis", group="patient")
    assert (data[0].label, data[0].group) == (0, "7")
    assert table(place, text, path="file", label=None)[0].label is None


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        ("file,label\na,0\n", {}, "no column 'path'.*(\n.*)*path="),
        ("path,lable\na,0\n", {}, "Did you mean 'lable'"),
        ("path,label\na,0\n", {"group": "patient"}, "no column 'patient'"),
        ("path,label,maks\na,0,b\n", {}, "column 'maks'"),
        ("path,label,group_id\na,0,b\n", {}, "group=group_id"),
        ("path,label,label\na,0,0\n", {}, "two columns"),
        ("path,label\na,ill\nb,helthy\n", {"classes": ["healthy", "ill"]}, "line 3: the label 'helthy'.*(\n.*)*'healthy'"),
        ("path,label\na,2\n", {"classes": ["healthy", "ill"]}, "label '2' is not a class"),
        ("path,label\na,\n", {}, "line 2 has no label"),
        ("path,label\na,0\n", {"mask_absent": "emty"}, "empty"),
        ("path,label\na,0\n", {"mask_value": 1}, "mask_values"),
    ],
)  # fmt: skip
def test_wrong_columns_labels_and_options_are_option_errors(place: Path, text: str, options: dict, match: str) -> None:
    with pytest.raises(OptionError, match=match) as caught:
        table(place, text, **options)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no rows"), ("path,label\n", "no rows"), ("path,label\na,0,1\n", "line 2 has 3 cells"), ("path,label\n,0\n", "no path"),
        ("path,label\na,0\na,1\n", "line 3 has the name 'a' again"), ("path,label,boxes\na,0,1 2 3\n", "not a box"),
        ("path,label,boxes\na,0,3 0 1 2\n", "not a box"), ("path,label,boxes\na,0,0 0 inf 2\n", "not a box"),
        ("path,label,boxes\na,0,0 0 nan 2\n", "not a box"), ('path,label\n"a,0\n', "not a readable CSV"),
    ],
)  # fmt: skip
def test_broken_tables_are_bad_input(place: Path, text: str, match: str) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        table(place, text)
    assert caught.value.exit_code == 3


def test_other_bytes_are_bad_input(place: Path) -> None:
    (place / "latin.csv").write_bytes("path,label\nä,0\n".encode("latin-1"))
    with pytest.raises(BadInput, match="readable CSV"):
        csv_table(place / "latin.csv")
    with pytest.raises(BadInput, match="no file"):
        csv_table(place / "missing.csv")


def test_labels_may_be_indices_of_named_classes(place: Path) -> None:
    data = table(place, "path,label\nimages/a.png,1\nimages/b.png,0\n", classes=["healthy", "ill"])
    assert [data.facts(i).label for i in range(2)] == [1, 0]
    ten = table(place, "path,label\n" + "".join(f"{k},{k}\n" for k in (10, 9, 2)))
    assert ten.classes == ("2", "9", "10")


def test_bom_tabs_blank_lines_and_spaces(place: Path) -> None:
    data = table(place, "\ufeffpath\tlabel\n\nimages/a.png\t x \n\n")
    assert (len(data), data.classes) == (1, ("x",))


def test_bad_rows_do_not_stop_the_others(place: Path) -> None:
    (place / "images" / "b.png").write_text("text")
    data = table(
        place, "path,label,mask\nimages/a.png,0,\nimages/b.png,0,\nimages/x.png,1,\nimages/c.png,1,nomask.png\n"
    )
    assert [Path(e.path or "").name for e in data.check()] == ["b.png", "x.png", "nomask.png"]


def test_hei_med(test_data: Path) -> None:
    data = csv_table(
        test_data / "fundus_heimed" / "index.csv", path="file", mask_values=1, mask_absent="empty", crop="resize"
    )
    assert len(data) == 119
    assert sum(data.facts(i).label for i in range(119)) == 38
    for i in range(8):
        sample = data[i]
        exudate = (
            np.asarray(Image.open(test_data / "fundus_heimed" / data.entries[i].mask)) == 1
            if data.entries[i].mask
            else np.zeros(1)
        )
        assert float(sample.mask.float().mean()) == pytest.approx(exudate.mean(), abs=3e-3)
        assert int(exudate.sum()) == int(sample.meta["exudate_px"])
