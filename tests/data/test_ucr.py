"""Time series in the archives' formats: hand-written files with known numbers, and what is wrong with files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.data import open_data, options_of, reader_for
from pellucid.data.splits import folds
from pellucid.data.ucr import SignalSet, ucr
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset

TS = """# Words about the data.
@problemName Small
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength true
@seriesLength 3
@classLabel true rest run
@data
1,2,3:-1,-2,-3:run
4, 5.5, 6e0:0,0,0:rest
"""
ARFF = """% Words about the data.
@relation Small
@attribute values relational
  @attribute t0 numeric
@end values
@attribute activity {rest,run}
@data
'1,2,3\\n-1,-2,-3',run
'4,5.5,6e0\\n0,0,0',rest
"""
WANTED = [([[1, 2, 3], [-1, -2, -3]], 1), ([[4, 5.5, 6], [0, 0, 0]], 0)]


def written(folder: Path, text: str | bytes, name: str = "s.ts") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(folder: Path, text: str, name: str = "s.txt", **options: object) -> SignalSet:
    return ucr(written(folder, text, name), **options)


def problems(data: SignalSet) -> dict[int, str]:
    """What is said of each line that cannot be read."""
    found = {}
    for i in range(len(data)):
        try:
            data[i]
        except BadInput as error:
            found[i] = f"{error.message} {error.why}"
    return found


@pytest.mark.parametrize(("text", "name"), [(TS, "s.ts"), (ARFF, "s.arff"), (TS.replace("\n", "\r\n"), "s.ts")])
def test_several_channels(tmp_path: Path, text: str, name: str) -> None:
    data = open_data(written(tmp_path, text, name))
    assert isinstance(data, Dataset)
    assert data.classes == ("rest", "run")  # as in the header, not by the alphabet of what came first
    for i, (values, label) in enumerate(WANTED):
        sample = data[i]
        assert torch.equal(sample.input, torch.tensor(values, dtype=torch.float32))
        assert sample.label == data.facts(i).label == label
        assert sample.name == data.facts(i).name == f"s-{i + 1}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2,1.5,-2\n10,3,4e1\n", "s.csv"),
        ("2;1.5;-2\n10;3;4e1\n", "s.csv"),
        ("2.0000\t1.5\t-2\n1.0e1\t3\t40\n", "s.tsv"),
        ("  2.0000000e+00   1.5  -2\n  1.0e+01   3  40\n\n", "s.txt"),
        ("label,t0,t1\n2,1.5,-2\n10,3,4e1\n", "s.csv"),
        ("\ufeff2,1.5,-2\n10,3,40", "s.csv"),
    ],
)
def test_tables_with_the_label_first(tmp_path: Path, text: str, name: str) -> None:
    data = table(tmp_path, text, name)
    assert data.classes == ("2", "10")  # whole numbers, in the order of numbers
    assert [data[i].input.tolist() for i in range(2)] == [[[1.5, -2]], [[3, 40]]]
    assert [data[i].label for i in range(2)] == [0, 1]


def test_labels_may_be_words_and_have_names_and_an_order(tmp_path: Path) -> None:
    text = "b,1,2\na,3,4\n-1,5,6\n"
    assert table(tmp_path, text).classes == ("-1", "a", "b")
    named = table(tmp_path, text, names={-1: "ill", "a": "ill"})
    assert named.classes == ("ill", "b")
    assert [named.facts(i).label for i in range(3)] == [1, 0, 0]
    ordered = table(tmp_path, text, names={-1: "ill", "a": "ill"}, classes=["b", "ill", "other"])
    assert [ordered.facts(i).label for i in range(3)] == [0, 1, 1]
    with pytest.raises(OptionError, match="'-1' is not among"):
        table(tmp_path, text, classes=["a", "ill"])
    with pytest.raises(OptionError, match="no label '7'"):
        table(tmp_path, text, names={7: "ill"})
    with pytest.raises(OptionError, match="which label"):
        table(tmp_path, text, names=["ill"])


def test_normalising_is_by_channel_of_a_series(tmp_path: Path) -> None:
    path = written(tmp_path, TS)
    raw, normal = ucr(path), ucr(path, normalise="series")
    assert torch.equal(raw[0].input[0], torch.tensor([1.0, 2.0, 3.0]))
    half = (3 / 2) ** 0.5  # 1, 2, 3 have the mean 2 and the variance 2 / 3
    torch.testing.assert_close(normal[0].input, torch.tensor([[-half, 0, half], [half, 0, -half]]))
    assert torch.equal(normal[1].input[1], torch.zeros(3))  # a channel that never changes
    assert raw.fingerprint != normal.fingerprint
    with pytest.raises(OptionError, match="normalise 'serie'"):
        ucr(path, normalise="serie")


@pytest.mark.parametrize("rate", [0, -1, float("inf"), "fast"])
def test_a_rate_is_a_positive_number(tmp_path: Path, rate: object) -> None:
    with pytest.raises(OptionError, match="rate"):
        ucr(written(tmp_path, TS), rate=rate)


def test_several_files_are_one_data_set(tmp_path: Path) -> None:
    one, two = written(tmp_path, "1,1,2\n2,3,4\n", "A_TRAIN.csv"), written(tmp_path, "3,5,6\n", "A_TEST.csv")
    assert reader_for([one, two]) == "ucr"
    data = open_data([one, f"ucr:{two}"])
    assert data.classes == ("1", "2", "3")
    assert [data.facts(i).name for i in range(3)] == ["A_TRAIN-1", "A_TRAIN-2", "A_TEST-1"]
    (tmp_path / "b").mkdir()
    with pytest.raises(OptionError, match="one name"):
        open_data([one, written(tmp_path / "b", "1,1,2\n", "A_TRAIN.csv")])


def test_the_same_series_elsewhere_are_the_same_data(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    first, second = ucr(written(tmp_path, TS)), ucr(written(tmp_path / "b", TS))
    other = ucr(written(tmp_path, TS.replace("5.5", "5.6")))
    assert first.fingerprint == second.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("text", "name", "reader"),
    [
        (TS, "s.ts", "ucr"),
        (ARFF, "s.arff", "ucr"),
        ("1,0.5,-2\n", "s.csv", "ucr"),
        ("1\t0.5\t?\t2\n", "s.tsv", "ucr"),
        ("1 0.5 2\n", "s.txt", "ucr"),
        ("path,label\na.png,1\n", "s.csv", "csv_table"),
        ("path,label,group\na.png,1,2\n", "s.csv", "csv_table"),
        ("1,2\n", "s.csv", "csv_table"),  # two columns of numbers are no series
    ],
)
def test_content_tells_series_from_lists_of_images(tmp_path: Path, text: str, name: str, reader: str) -> None:
    path = written(tmp_path, text, name)
    assert reader_for(path) == reader
    assert reader_for(f"ucr:{path}") == "ucr"
    assert ("rate" in options_of(path)) is (reader == "ucr")


def test_bad_lines_stop_nobody_else(tmp_path: Path) -> None:
    rows = ["1,1,2,3", "1,4,?,6", "1,7,8", "2,1,x,3", "2,1,nan,3", "2,1,1e39,3", "0.5,1,2,3", "1", "2,4,5,6"]
    data = table(tmp_path, "\n".join(rows))
    assert data.classes == ("1", "2")
    said = problems(data)
    assert set(said) == {1, 2, 3, 4, 5, 6, 7}
    assert "line 2 has 1 of 3 values missing" in said[1]
    assert "2 values" in said[2]
    assert "Most have 3" in said[2]
    assert "'x'" in said[3]
    assert "no class" in said[6]
    assert "no values" in said[7]
    assert data[8].input.tolist() == [[4, 5, 6]]
    assert data.facts(6).label is None


def test_bad_lines_below_a_header(tmp_path: Path) -> None:
    rows = ["1,2,3:rest", "1,2,3:1,2,3", "1,2:1,2,3:rest", "1,2,3:1,2,3:fly", "7,8,9:7,8"]
    said = problems(ucr(written(tmp_path, TS + "\n".join(rows))))
    assert set(said) == {2, 3, 4, 5, 6}
    assert "3 values" in said[2]
    assert "does not declare" in said[3]
    assert "unequal" in said[4]
    assert "'fly'" in said[5]


def test_a_line_without_a_class_leaves_the_others_in_proportion(tmp_path: Path) -> None:
    """Folds stay stratified: each has two of either class, and the bad line is in one of them."""
    rows = [f"{label},1,2" for label in (1, 2) for _ in range(4)] + ["0.5,1,2"]
    data = table(tmp_path, "\n".join(rows))
    for part in folds(data, 2).parts.values():
        labels = [data.facts(i).label for i in part]
        assert labels.count(0) == labels.count(1) == 2


@pytest.mark.parametrize(
    ("text", "name", "match"),
    [
        ("export const x: number = 1;\n", "s.ts", "no line '@data'"),
        (b"\x47\x40\x00\x10" * 50, "s.ts", "not text"),
        (b"\x47\x40\xff\x10" * 50, "s.ts", "no line '@data'"),
        ("", "s.ts", "no line '@data'"),
        (TS.split("@data")[0], "s.ts", "no line '@data'"),
        (TS.split("1,2,3:")[0], "s.ts", "no series"),
        (TS.replace("@seriesLength 3", "@seriesLength 999999999999"), "s.ts", "@serieslength 999999999999"),
        (TS.replace("@dimensions 2", "@dimensions 1000000000"), "s.ts", "@dimensions 1000000000"),
        (TS.replace("@timeStamps false", "@timeStamps true"), "s.ts", "not read"),
        (TS.replace("@classLabel", "@targetLabel"), "s.ts", "not read"),
        ("words and more words\n", "s.txt", "no series"),
        ("0.12 0.5 1\n0.7 1 2\n", "s.txt", "no series"),
        ("\n\n", "s.csv", "no series"),
    ],
)
def test_files_that_are_no_series(tmp_path: Path, text: str | bytes, name: str, match: str) -> None:
    path = written(tmp_path, text, name)
    with pytest.raises(BadInput) as caught:
        ucr(path)
    assert match in f"{caught.value.message} {caught.value.why}"
    assert caught.value.hint
    assert caught.value.path


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        open_data(f"ucr:{tmp_path}")
    with pytest.raises(BadInput, match="no data source"):
        open_data("ucr:missing.ts")
    with pytest.raises(OptionError, match="'rate'"):
        open_data(written(tmp_path, TS), rte=3)


def test_a_file_cut_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    for end in range(len(TS)):
        try:
            data = ucr(written(tmp_path, TS[:end]))
            inputs = [data[i].input for i in range(len(data)) if i not in problems(data)]
        except BadInput:
            continue
        assert all(x.isfinite().all() and x.shape == (2, 3) for x in inputs)


def test_series_without_labels(tmp_path: Path) -> None:
    data = ucr(written(tmp_path, "@classLabel false\n@data\n1,2:3,4\n"))
    assert data.classes == ()
    assert data[0].label is None
    assert data[0].input.tolist() == [[1, 2], [3, 4]]


def test_real_files_agree_with_each_other(test_data: Path) -> None:
    """The archive's three formats of one problem hold the same series; the counts are those of its documentation."""
    place = test_data / "timeseries_ucr" / "GunPoint"
    sets = [open_data(place / f"GunPoint_TRAIN.{kind}") for kind in ("ts", "tsv", "arff")]
    assert [len(s) for s in sets] == [50] * 3
    for other in sets[1:]:
        for i in range(50):
            np.testing.assert_allclose(sets[0][i].input, other[i].input, atol=1e-6)
            assert sets[0].facts(i).label == other.facts(i).label
    beats = open_data(test_data / "ecg5000" / "ECG5000_TRAIN.txt")
    assert [sum(beats.facts(i).label == k for i in range(500)) for k in range(5)] == [292, 177, 10, 19, 2]
    moves = open_data(test_data / "timeseries_ucr" / "BasicMotions" / "BasicMotions_TRAIN.arff")
    assert moves[0].input.shape == (6, 100)


def test_endless_lines_and_channels_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.data.ucr.MOST_CHANNELS", 3)
    head = "@classLabel true a\n@data\n"
    data = ucr(written(tmp_path, head + "1,2:3,4:a\n" + "1,2:" * 9 + "a\n"))
    assert set(problems(data)) == {1}
    monkeypatch.setattr("pellucid.data.ucr.MOST_LETTERS", 99)
    with pytest.raises(BadInput, match="line 3 is longer"):
        ucr(written(tmp_path, head + "1," * 60))
    monkeypatch.setattr("pellucid.data.ucr.MOST_BYTES", 50)
    with pytest.raises(BadInput, match="too large"):
        ucr(written(tmp_path, head + "1," * 60))


@pytest.mark.parametrize(("text", "name"), [(TS, "s.ts"), (ARFF, "s.arff"), ("1,2,3\n2,3,4\n", "s.csv")])
def test_damaged_bytes_are_numbers_or_bad_input(tmp_path: Path, text: str, name: str) -> None:
    chance = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(text.encode())
        for at in chance.integers(len(content), size=int(chance.integers(1, 6))):
            content[at] = int(chance.integers(256))
        path = written(tmp_path, bytes(content), name)
        try:
            data = ucr(path)
        except BadInput:
            continue
        bad = problems(data)
        assert all(data[i].input.isfinite().all() for i in range(len(data)) if i not in bad)
