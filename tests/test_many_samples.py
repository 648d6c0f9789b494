"""Evaluations of many samples: memory stays flat, and what a kill leaves is gone on with, to the same bytes."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pellucid as pl
from reference.samples import Samples, two
from test_memory import MEBIBYTE, resident

METRICS = ("relevance_mass", "pointing_game", "sparseness")
BATCH = 4


def evaluate(folder: Path, count: int, watch: list[int] | None = None) -> None:
    def note(done: int, parts: int) -> None:
        if watch is not None and done * BATCH % 1000 == 0:
            watch.append(resident())

    found = pl.evaluate(
        two(), Samples(n=count), methods=["evidence"], metrics=METRICS, batch_size=BATCH, folder=folder / "parts", progress=note
    )  # fmt: skip
    found.to_json(folder / "scores.json")


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def killed(folder: Path, count: int, after: float) -> bool:
    """Evaluate in another process and kill it after that many seconds of work; whether it was still at work."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += (
        f"from pathlib import Path; from test_many_samples import evaluate; evaluate(Path({str(folder)!r}), {count})"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while worker.poll() is None and not any(folder.rglob("*.done")):
        time.sleep(0.05)  # importing torch is not what is killed
    time.sleep(after)
    at_work = worker.poll() is None
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    return at_work


def test_a_killed_evaluation_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    clean, cut = tmp_path / "clean", tmp_path / "cut"
    evaluate(clean, 25 * BATCH)
    assert killed(cut, 25 * BATCH, after=0.0)
    assert not (cut / "scores.json").exists()
    before = len(list((cut / "parts").glob("*.done")))
    assert 0 < before < 25
    evaluate(cut, 25 * BATCH)
    assert digests(clean) == digests(cut)


@pytest.mark.slow
def test_ten_thousand_samples_take_no_more_memory_than_two_thousand(tmp_path: Path) -> None:
    held: list[int] = []
    evaluate(tmp_path / "clean", 10_000, held)
    assert len(held) == 10
    assert max(held[2:]) - held[1] < 5 * MEBIBYTE, [h // MEBIBYTE for h in held]
    chance = random.Random(0)
    at_work = [killed(tmp_path / "cut", 10_000, after=chance.uniform(0, 8)) for _ in range(10)]
    assert any(at_work)
    evaluate(tmp_path / "cut", 10_000)
    assert digests(tmp_path / "clean") == digests(tmp_path / "cut")
