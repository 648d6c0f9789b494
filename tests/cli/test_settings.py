"""Settings as words and in files; unknown ones name the nearest that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.kit import Run
from pellucid.cli.options import device, divided, settings
from pellucid.errors import BadInput, OptionError


def test_words_are_read_as_yaml_and_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("size: 32\nlr: 0.1\naugment: [hflip]\n")
    found = settings(["size=64", "a-b=true", "mean=[0.5, 0.5, 0.5]", "name=x=y", "lr=5e-4", "none="], path)
    assert found == {
        "size": 64, "lr": 5e-4, "augment": ["hflip"], "a_b": True, "mean": [0.5, 0.5, 0.5], "name": "x=y", "none": None,
    }  # fmt: skip


@pytest.mark.parametrize("word", ["size", "=3", "augment=[hflip", "a={"])
def test_words_that_are_no_settings_are_refused(word: str) -> None:
    with pytest.raises(OptionError, match="not understood"):
        settings([word])


@pytest.mark.parametrize(
    ("text", "error"), [("a: [", OptionError), ("- 1\n- 2", OptionError), ("3: x", OptionError), (None, BadInput)]
)
def test_files_that_hold_no_settings_are_refused(tmp_path: Path, text: str | None, error: type[Exception]) -> None:
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error):
        settings(None, path)
    with pytest.raises(BadInput):
        settings(None, tmp_path)  # a folder


def test_settings_go_to_whom_they_concern() -> None:
    reading, own = divided({"n_images": 3, "seed": 1, "epochs": 2}, "lesionlab:fundus", ["epochs", "seed"])
    assert (reading, own) == ({"n_images": 3}, {"seed": 1, "epochs": 2})


@pytest.mark.parametrize(("key", "meant"), [("epohs", "epochs"), ("n_image", "n_images"), ("diametr", "diameter")])
def test_an_unknown_setting_names_the_nearest_of_all(key: str, meant: str) -> None:
    with pytest.raises(OptionError) as error:
        divided({key: 1}, "lesionlab:fundus", ["epochs"])
    assert error.value.hint == f"Did you mean '{meant}'?"


def test_a_device_that_is_not_there_is_refused(refused: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be used"):
        device("cuda:99")
    with pytest.raises(OptionError, match="cannot be used"):
        device("nonsense")
    refused(2, "explain", pictures, "--model", model, "--out", tmp_path, "--device", "nonsense")


def test_the_file_of_settings_is_used(run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("size: 32\n")
    out = tmp_path / "out"
    ended = run(
        "explain", pictures / "p00.png", "--model", model, "--out", out, "--config", tmp_path / "c.yaml", "--json"
    )
    assert ended.json["reading"]["size"] == 32


def test_a_recipe_gives_way_to_words(run: Run) -> None:
    ended = run(
        "train", "lesionlab:fundus", "--model", "pellucid:s8", "--recipe", "softcam-paper", "epochs=3", "--dry-run"
    )
    assert ended.code == 0, ended.err
    assert "optimiser: sgd\n" in ended.out
    assert "epochs: 3\n" in ended.out
    assert "no such setting: crop, shorter_side" in ended.err


def test_one_run_or_two_to_compare(run: Run) -> None:
    assert run("report").code == 2
    assert "--compare" in run("report").err
    assert run("report", "a", "--compare", "b", "c").code == 2
    assert "is no run" in run("report", "--compare", "b", "c").err
