"""Two processes take the steps of one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

pytest.importorskip("lightning_fabric")

from pellucid.errors import BadInput, OptionError
from pellucid.training.launch import Processes, launch
from pellucid.training.ranks import Ranks
from training import processes
from training.processes import AS_IF_NOT, CASES, done

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in Linux's /proc")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What two processes give for every case: the folder of their runs, and what each has seen."""
    out = tmp_path_factory.mktemp("pair")
    mp.spawn(processes.together, args=(2, out / "store", out, list(CASES)), nprocs=2)
    return out, [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_are_one(pair: Any, name: str) -> None:
    """Weights within 1e-9 after all steps, and at each step the loss and the penalty that both have added up."""
    alone, (first, second) = done(CASES[name]), (found[name] for found in pair[1])
    for key, value in alone["weights"].items():
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-9, atol=1e-9)
        assert torch.equal(first["weights"][key], second["weights"][key]), key
    assert len(alone["steps"]) == len(first["steps"]) == len(second["steps"])
    assert len(alone["steps"]) == CASES[name].steps or not CASES[name].steps
    for step, one, two in zip(alone["steps"], first["steps"], second["steps"], strict=True):
        assert [a + b for a, b in zip(one, two, strict=True)] == pytest.approx(step, rel=1e-9, abs=1e-12)
    assert first["history"] == second["history"]
    for row, other in zip(alone["history"], first["history"], strict=True):
        assert other == pytest.approx(row, rel=1e-9)
    assert first["skipped"] == second["skipped"] == alone["skipped"]
    assert first["best"] == second["best"] == alone["best"]


@on_linux
def test_no_thread_outlives_the_group(pair: Any) -> None:
    """Such a thread aborts the process where it drops the last reference to a tensor while Python ends."""
    if not any(found["threads in the group"] for found in pair[1]):
        pytest.skip("this version of torch gives the threads of a group no names")
    assert [(pair[0] / f"{rank}.threads").read_text() for rank in range(2)] == ["", ""]


@on_linux
def test_no_thread_outlives_a_failed_training(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="of 23 samples cannot be used"):
        launch(Processes(devices=2, max_restarts=0, device="cpu"), processes.bad_training, tmp_path)
    assert [(tmp_path / f"{rank}.threads").read_text() for rank in range(2)] == ["", ""]


def test_errors_of_one_are_errors_of_all(pair: Any) -> None:
    first, second = (found["failures"] for found in pair[1])
    assert first == second
    another, bad, paper, different, stopped, _ = first
    assert "lr was 0.01, now 0.5" in another
    assert bad.startswith("BadInput: ")
    assert "of 23 samples cannot be used" in bad
    assert "2 processes share the batch" in paper
    assert "The processes were given different trainings.\nDifferent: data" in different
    assert stopped.startswith("TrainingInterrupted: Training was interrupted after 0 epochs and 2 batches")


def test_one_process_goes_on_where_two_were_stopped(pair: Any) -> None:
    """Nothing in this network sees the share of a batch, so the number of processes may change on the way."""
    went_on, whole = done(AS_IF_NOT, pair[0] / "stopped"), done(AS_IF_NOT)
    for key, value in whole["weights"].items():
        torch.testing.assert_close(went_on["weights"][key], value, rtol=1e-9, atol=1e-9)
    for row, other in zip(whole["history"], went_on["history"], strict=True):
        assert other == pytest.approx(row, rel=1e-9)
    events = [json.loads(line) for line in (pair[0] / "stopped" / "log.jsonl").read_text().splitlines()]
    assert [(e["event"], e.get("processes")) for e in events if e["event"] in ("started", "resumed")] == [
        ("started", 2),
        ("resumed", 1),
    ]


def test_batch_statistics_keep_the_number_of_processes(pair: Any) -> None:
    with pytest.raises(OptionError, match="those of 2 parts of each batch"):
        done(processes.STATISTICS, pair[0] / "statistics")


def test_a_finished_run_is_read_by_one(pair: Any) -> None:
    name = "weights and penalty"
    found = done(CASES[name], pair[0] / name)
    assert found["steps"] == []
    assert all(torch.equal(v, pair[1][0][name]["weights"][k]) for k, v in found["weights"].items())


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_all_and_in_order(count: int) -> None:
    for size in range(8):
        shares = [Ranks(rank, count).share(range(size)) for rank in range(count)]
        assert [i for share in shares for i in share] == list(range(size))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
