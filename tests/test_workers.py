"""Jobs are done in order, on one thread, in one process or several, and none outlives who asked for it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pellucid.workers import work


def note(folder: Path, name: str) -> None:
    (folder / name).write_text(str(torch.get_num_threads()))


def fail(folder: Path, name: str) -> None:
    raise ValueError(name)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_done_on_one_thread(tmp_path: Path, processes: int) -> None:
    threads, ticks = torch.get_num_threads(), []
    work([(note, (tmp_path, name)) for name in "abc"], processes, lambda: ticks.append(1))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys("abc", "1")
    assert len(ticks) == 3
    assert torch.get_num_threads() == threads


def test_a_failure_is_raised_and_threads_are_as_before(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match="second"):
        work([(note, (tmp_path, "first")), (fail, (tmp_path, "second")), (note, (tmp_path, "third"))], 1)
    assert torch.get_num_threads() == threads
    assert [p.name for p in tmp_path.iterdir()] == ["first"]


NAPPING = """
import os, sys, time
from pathlib import Path
from pellucid.workers import work

def nap(name):
    Path(sys.argv[1], name).write_text(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    work([(nap, ("a",)), (nap, ("b",))], 2, lambda: None)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to see processes")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script, names = tmp_path / "napping.py", (tmp_path / "a", tmp_path / "b")
    script.write_text(NAPPING)
    parent = subprocess.Popen([sys.executable, script, tmp_path])
    wait_until(lambda: all(name.exists() and name.read_text() for name in names))
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(Path("/proc", name.read_text()).exists() for name in names))


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
