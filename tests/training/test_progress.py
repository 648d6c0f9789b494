from __future__ import annotations

import pytest

from pellucid.training.progress import Progress


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, 10) as bar:
        bar.say("a note")
        bar.start -= 5.0  # as if five seconds had gone by
        bar.advance(10)
        bar.epoch({"epoch": 1, "loss": 0.25, "val_auc": None, "lr": 0.1})
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "a note\nepoch 1/2  loss 0.2500  2 inputs/s  5 s left\n"


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, 10, shown=False) as bar:
        bar.say("a note")
        bar.advance(10)
        bar.epoch({"epoch": 1, "loss": 0.25})
    told = capsys.readouterr()
    assert told.out + told.err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(1, 4) as bar:
        bar.advance(4)
        bar.epoch({"epoch": 1, "loss": 0.25})
    told = capsys.readouterr()
    assert told.out == ""
    assert "inputs/s" in told.err
    assert "epoch 1/1  loss 0.2500" in told.err
