from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pellucid.errors import IntegrityError, ResourceError
from pellucid.training import run_folder

HOLD = """
import sys, time
from pellucid.training import run_folder
with run_folder.claimed(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_trainers_are_kept_apart(tmp_path: Path) -> None:
    with run_folder.claimed(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        with pytest.raises(ResourceError, match="Another training is at work") as caught, run_folder.claimed(tmp_path):
            pass
        assert str(os.getpid()) in caught.value.why
    assert not (tmp_path / "lock").exists()
    with run_folder.claimed(tmp_path):
        pass


def test_the_lock_of_a_killed_trainer_is_taken_over(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ResourceError, match="Another training"), run_folder.claimed(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert (tmp_path / "lock").exists()
    with run_folder.claimed(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_what_a_killed_trainer_had_half_written_is_deleted(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from pellucid import files
from pellucid.training import run_folder
with run_folder.claimed(sys.argv[1]):
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    files.write_bytes(Path(sys.argv[1]) / sys.argv[2], b"half of it")
"""
    kept = {"state/last.pt": b"old", "model.safetensors": b"old", "evaluate/.scores.json.x.part": b"another's"}
    for name, content in kept.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for name in ("state/last.pt", "model.safetensors"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path), name], check=False)
        assert list((tmp_path / name).parent.glob(".*.part"))
    with run_folder.claimed(tmp_path):
        assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {*kept, "lock"}
    assert all((tmp_path / name).read_bytes() == content for name, content in kept.items())


def test_the_lock_is_dropped_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broke"), run_folder.claimed(tmp_path):
        raise ValueError("broke")
    assert not (tmp_path / "lock").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="Could not write"), run_folder.claimed(tmp_path / "file" / "run"):
        pass


def test_manifest_notes_every_file(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "state" / "b.txt").write_text("two")
    (tmp_path / ".c.part").write_text("never")
    (tmp_path / "lock").write_text("never")
    assert not run_folder.finished(tmp_path)
    run_folder.write_manifest(tmp_path, {"seed": 7})
    assert run_folder.finished(tmp_path)
    manifest = run_folder.check(tmp_path)
    assert manifest["files"] == {
        "a.txt": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
        "state/b.txt": "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
    }
    assert (manifest["seed"], manifest["kind"]) == (7, "run")
    assert manifest["versions"]["python"] == sys.version.split()[0]
    (tmp_path / "a.txt").write_text("eno")
    run_folder.check(tmp_path, "state/b.txt")
    with pytest.raises(IntegrityError, match=r"a\.txt is damaged"):
        run_folder.check(tmp_path)
    run_folder.refresh_manifest(tmp_path)
    assert run_folder.check(tmp_path)["seed"] == 7
    (tmp_path / "a.txt").unlink()
    with pytest.raises(IntegrityError, match=r"a\.txt is damaged"):
        run_folder.check(tmp_path)


def test_a_changed_manifest_is_noticed(tmp_path: Path) -> None:
    path = run_folder.write_manifest(tmp_path, {"seed": 7})
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    with pytest.raises(IntegrityError):
        run_folder.check(tmp_path)


def test_log_lines_are_added(tmp_path: Path) -> None:
    run_folder.log(tmp_path, "started", epoch=0)
    run_folder.log(tmp_path, "epoch", loss=float("nan"))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line.get("epoch"), line.get("loss")) for line in lines] == [
        ("started", 0, None),
        ("epoch", None, None),
    ]
    assert all(time.strptime(line["time"][:19], "%Y-%m-%dT%H:%M:%S") for line in lines)
