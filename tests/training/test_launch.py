"""Several processes through torch's elastic launch: a death is survived, machines meet, errors reach the user."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric")

import pellucid
from pellucid.errors import BadInput, OptionError, ResourceError
from pellucid.training import launch as launching
from pellucid.training.launch import Processes, launch
from training.processes import AS_IF_NOT, done, fail, met, survived

TESTS = Path(__file__).parents[1]
PATHS = f"{Path(pellucid.__file__).parents[1]}{os.pathsep}{TESTS}"


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def python(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *arguments], env=environment, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    """One of two processes is killed in the second step; both go on, to the end that one process alone comes to."""
    assert launch(Processes(devices=2, max_restarts=1, device="cpu"), survived, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    whole = done(AS_IF_NOT)
    for key, value in whole["weights"].items():
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-9, atol=1e-9)
        assert torch.equal(first["weights"][key], second["weights"][key])
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    began = [(e["event"], e["step"]) for e in events if e["event"] in ("started", "resumed")]
    assert began == [("started", 0), ("resumed", 1)]


MACHINE = """
import sys
from pathlib import Path
from pellucid.training import launch as launching
from pellucid.training.launch import Processes, launch
from training.processes import met
if __name__ == "__main__":
    first = launch(Processes(devices=1, nodes=2, rdzv=sys.argv[1], device="cpu"), met, Path(sys.argv[2]))
    Path(sys.argv[2], "other").write_text(str(first))
"""


def test_two_machines_meet(tmp_path: Path) -> None:
    """Two launchers that know of each other only through --rdzv; one of them has the first process."""
    (tmp_path / "machine.py").write_text(MACHINE)
    meeting = f"127.0.0.1:{free_port()}"
    with python(str(tmp_path / "machine.py"), meeting, str(tmp_path)) as other:
        first = launch(Processes(devices=1, nodes=2, rdzv=meeting, device="cpu"), met, tmp_path)
        assert other.wait() == 0
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["3 of 2"] * 2
    assert (tmp_path / "other").read_text() == str(not first)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodes": 2}, "do not know where to meet"),
        ({"nodes": 2, "rdzv": "node1"}, "HOST:PORT is needed"),
        ({"nodes": 2, "rdzv": ":29500"}, "HOST:PORT is needed"),
        ({"devices": 2, "device": "cuda:1"}, "accelerator of its own"),
        ({"devices": 2, "device": "mps"}, "accelerator of its own"),
    ],
)
def test_what_does_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Processes(**given).check()


def test_one_process_needs_nothing() -> None:
    Processes(device="cuda:7").check()
    assert not Processes().several


def test_accelerators_are_counted() -> None:
    too_many = torch.cuda.device_count() + 2
    with pytest.raises(ResourceError, match="CUDA devices were found"):
        Processes(devices=too_many, device="cuda").check()


def test_machines_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "PATIENCE", 1)
    with pytest.raises(ResourceError, match="did not meet") as caught:
        launch(Processes(nodes=2, rdzv=f"127.0.0.1:{free_port()}", device="cpu"), met, Path())
    assert caught.value.exit_code == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("known", BadInput, "The file is damaged.\nIt ends early.\nCopy it again."),
        ("bug", ZeroDivisionError, "by hand"),
        ("odd", RuntimeError, "Odd: by hand"),
        ("killed", ResourceError, "started again 0 times.\nIt was ended by SIGKILL"),
    ],
)
def test_errors_reach_the_launcher(how: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        launch(Processes(devices=2, max_restarts=0, device="cpu"), fail, how)


WORDS = ("-m", "pellucid", "train", "lesionlab:fundus", "--model", "pellucid:s8", "--device", "cpu", "n_images=24", "size=64", "batch_size=8", "lr=0.01", "save_every_steps=1")  # fmt: skip


@pytest.mark.slow
def test_two_machines_train_as_two_processes_do(tmp_path: Path) -> None:
    """The command line on two "machines" of this one, and with two processes: the same weights, bit by bit."""
    several = ("--nodes", "2", "--rdzv", f"127.0.0.1:{free_port()}", "--out", str(tmp_path / "nodes"), "epochs=2")
    machines = [python(*WORDS, *several) for _ in range(2)]
    assert [machine.communicate()[1] and machine.returncode for machine in machines] == [0, 0]
    with python(*WORDS, "--devices", "2", "--out", str(tmp_path / "devices"), "epochs=2") as one:
        assert (one.communicate()[1] and one.returncode) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("nodes", "devices")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_ctrl_c_of_several_processes(tmp_path: Path) -> None:
    """The state is saved and the command that goes on is told; no process is left."""
    words = (*WORDS, "--devices", "2", "--out", str(tmp_path / "r"), "epochs=200")
    with python(*words) as job:
        while not (tmp_path / "r" / "state" / "last.pt").exists():
            assert job.poll() is None
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        _, told = job.communicate()
    assert job.returncode == 130
    assert "Go on with:  pellucid train lesionlab:fundus" in told
    assert not (tmp_path / "r" / "lock").exists()
    events = [json.loads(line)["event"] for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert events[-1] == "interrupted"


@pytest.mark.slow
def test_a_bad_command_is_three_lines(tmp_path: Path) -> None:
    with python(*WORDS, "--devices", "2", "--out", str(tmp_path / "r"), "epochs=1", "freeze=nothing") as job:
        _, told = job.communicate()
    assert job.returncode == 2
    assert [line.split(":")[0] for line in told.splitlines()[-3:]] == ["error", "why", "fix"]
    assert "Traceback" not in told
