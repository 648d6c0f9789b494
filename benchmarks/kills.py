"""`python -m benchmarks.kills`: a training is killed with SIGKILL again and again, and has to end as if it never was.

Each round starts `pellucid train` (or finds it running), waits a random time, and kills either one worker, which the
launcher then starts again, or all processes at once, after which the same command goes on. Half of the waits begin when
the command does (imports, meeting of the processes), half when it has saved a state. After each kill the state on disk is
read. In the end weights and metrics are compared, byte by byte, with those of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pellucid.training import checkpoint

DATA = ("lesionlab:fundus", "n_images=16", "size=64")
RECIPE = ("batch_size=8", "lr=0.01", "precision=32", "save_every_steps=1", "val_fraction=0.25", "penalty=l1", "strength=0.1")  # fmt: skip
COMPARED = ("model.safetensors", "metrics.csv", "metrics.jsonl")


def command(out: Path, processes: int, epochs: int) -> list[str]:
    own = (sys.executable, "-m", "pellucid", "train", *DATA, *RECIPE, f"epochs={epochs}", "--model", "pellucid:s8")
    several = ("--devices", str(processes), "--max-restarts", "1000", "--device", "cpu", "--out", str(out), "--quiet")
    return [*own, *several]


def start(out: Path, processes: int, epochs: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(out, processes, epochs), env={**os.environ, "OMP_NUM_THREADS": "1"})


def workers(parent: int) -> list[int]:
    """The training processes that a launcher has started."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                stat, line = (place / "stat").read_text(), (place / "cmdline").read_bytes()
            except OSError:
                continue  # it has just ended
            if int(stat.rsplit(")", 1)[1].split()[1]) == parent and b"spawn_main" in line:
                found.append(int(place.name))
    return found


def saved(out: Path) -> int:
    """When a state was last written."""
    try:
        return (out / "state" / "last.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def wait(job: subprocess.Popen[bytes], out: Path, chance: random.Random) -> None:
    """Until a random moment, or the end of the job."""
    before = saved(out)
    if chance.random() < 0.5:
        while job.poll() is None and saved(out) == before:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 1.5))
    else:
        time.sleep(chance.uniform(0, 15))


def kill(job: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Kill one worker, or all processes; what was killed."""
    several = workers(job.pid)
    if several and chance.random() < 0.5:
        os.kill(chance.choice(several), signal.SIGKILL)
        return "one worker"
    for process in (job.pid, *several):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.wait()
    return "all"


def killed_run(out: Path, processes: int, epochs: int, kills: int, chance: random.Random) -> Counter[str]:
    """Train to the end with that many kills on the way. How many of each kind there were."""
    done: Counter[str] = Counter()
    job = start(out, processes, epochs)
    while done.total() < kills:
        wait(job, out, chance)
        if job.poll() is not None:
            raise SystemExit(f"It ended with {job.returncode} after {done.total()} kills: raise --epochs.")
        done[kill(job, chance)] += 1
        state = checkpoint.load(out / "state")  # raises where there is a state and none is whole
        place = f"epoch {state['epoch']} batch {state['batch']}" if state else "no state yet"
        print(f"kill {done.total()}: {place}", flush=True)
        if job.poll() is not None:
            job = start(out, processes, epochs)
    if job.wait():
        raise SystemExit(f"It did not go on: exit code {job.returncode}.")
    return done


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=150, help="long enough to be killed that often")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    asked = parser.parse_args(given)
    shutil.rmtree(asked.out, ignore_errors=True)
    whole, cut = asked.out / "whole", asked.out / "killed"
    done = killed_run(cut, asked.processes, asked.epochs, asked.kills, random.Random(asked.seed))
    if start(whole, asked.processes, asked.epochs).wait():
        raise SystemExit("The run that nobody kills failed.")
    differ = [name for name in COMPARED if (whole / name).read_bytes() != (cut / name).read_bytes()]
    told = ", ".join(f"{n} of {what}" for what, n in done.items())
    print(f"{asked.processes} processes, {done.total()} kills ({told}): {'equal' if not differ else 'DIFFERENT: ' + ', '.join(differ)}")  # fmt: skip
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
