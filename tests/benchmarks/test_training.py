"""The two loops take turns, and a training that is killed ends as if it was not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning_fabric")

from benchmarks import kills, training


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def test_the_loops_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on when it is read, and only then, a step of either loop takes one tick."""
    monkeypatch.setattr(training, "BATCH", 4)
    monkeypatch.setattr(training, "SIDE", 16)
    monkeypatch.setattr(training, "network", small)
    ticks = iter(range(10_000))
    monkeypatch.setattr(training.time, "process_time", lambda: float(next(ticks)))
    found = training.steps(training.RECIPES["entropy of the contrast"], 5)
    assert found.pairs >= 5
    assert (found.low, found.median, found.high) == (1.0, 1.0, 1.0)


def test_the_plain_loop_sees_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BATCH", 4)
    monkeypatch.setattr(training, "network", small)
    seen: list[int] = []
    monkeypatch.setattr(training, "noise", lambda i: (seen.append(i), torch.zeros(3, 16, 16))[1])
    step = training.plain_loop(3)
    for _ in range(3):
        step()
    assert sorted(seen) == list(range(12))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_two_kills(processes: int, tmp_path: Path) -> None:
    asked = ["--kills", "2", "--epochs", "60", "--processes", str(processes), "--out", str(tmp_path / "r")]
    assert kills.main(asked) == 0
