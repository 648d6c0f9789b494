"""Parts are done or not done, never half; other work is refused; damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid import files
from pellucid.errors import IntegrityError, OptionError, ResourceError
from pellucid.shards import Shards


def test_interrupted_work_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = Shards.open(tmp_path, {"seed": 1}, ["a", "b", "c"])
    first.write("a", [1, 2])
    (tmp_path / "b.json").write_text("[3")  # killed half way: no marker
    (tmp_path / ".c.json.k1ll3d.part").write_text("[")  # and before it had its name
    again = Shards.open(tmp_path, {"seed": 1}, ["a", "b", "c"])
    assert list(again.pending()) == ["b", "c"]
    assert again.read("a") == [1, 2]
    again.write("b", [3])
    assert list(again.pending()) == ["c"]
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "a.json", "a.done", "b.json", "b.done"}


def test_another_plan_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    Shards.open(tmp_path, {"seed": 1}, ["a"]).write("a", 1)
    with pytest.raises(OptionError, match="another plan"):
        Shards.open(tmp_path, {"seed": 2}, ["a"])


def test_a_plan_of_which_nothing_was_done_gives_way(tmp_path: Path) -> None:
    Shards.open(tmp_path, {"seed": 1}, ["a"])
    Shards.open(tmp_path, {"seed": 2}, ["a"]).write("a", 2)
    assert Shards.open(tmp_path, {"seed": 2}, ["a"]).read("a") == 2


def test_damage_is_noticed(tmp_path: Path) -> None:
    shards = Shards.open(tmp_path, {}, ["a"])
    shards.write("a", {"value": 12345})
    path = tmp_path / "a.json"
    path.write_text(path.read_text().replace("12345", "12346"))
    with pytest.raises(IntegrityError, match="damaged"):
        shards.read("a")


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_text(tmp_path / "x.txt", "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="Could not write"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [1.5, float("inf")]})
    assert files.read_json(path) == {"a": None, "b": [1.5, None]}
