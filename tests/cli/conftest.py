"""The command line in this process, and small models and pictures for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cli.kit import CLASSES, Ended, Run, picture, small
from pellucid.cli import main
from pellucid.models.convert import convert


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("verb", argument, ...)` in this process."""

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        found = capsys.readouterr()
        return Ended(int(stop.value.code or 0), found.out, found.err)

    return call


@pytest.fixture
def refused(run: Run) -> Run:
    """A command that has to fail: checks the form of the three lines, and that --json says the same."""

    def call(code: int, *arguments: object) -> Ended:
        ended = run(*arguments)
        assert ended.code == code, ended
        labels = [line[:7] for line in ended.lines[-3:]]
        assert labels == ["error: ", "why:   ", "fix:   "], ended.err
        assert all(len(line) > 8 for line in ended.lines[-3:])
        assert "Traceback" not in ended.err + ended.out
        told = run(*arguments, "--json")
        assert told.code == code
        assert set(told.json) == {"code", "message", "hint", "path"}
        assert " ".join(told.json["message"].split()).startswith(ended.lines[-3][7:])
        assert told.json["hint"] in ("", ended.lines[-1][7:])
        return ended

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved SoftCAM of three classes that wants pictures of 64 pixels."""
    softcam = convert(small(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), classes=CLASSES)
    softcam.preprocessing = {"size": 64, "crop": "resize"}
    return softcam.save(tmp_path_factory.mktemp("models") / "fruit")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures in one folder, without labels."""
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(20):
        picture(folder / f"p{k:02d}.png", k)
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class, six pictures each, two of which share their names with the other class."""
    folder = tmp_path_factory.mktemp("labelled")
    for label, shift in (("dark", 0), ("light", 3)):
        for k in range(6):
            picture(folder / label / f"{k if k < 2 else shift * 10 + k}.png", k + shift)
    return folder
