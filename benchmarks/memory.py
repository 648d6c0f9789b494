"""How memory is measured: the high-water mark of a fresh process, over what it held before the call.

Each subject gets a child process of its own, which imports only what it needs, calls the subject once for each batch size
to load code and fill caches, hands free memory back to the system, resets the kernel's high-water mark of resident memory (a 5 written
to /proc/self/clear_refs) and calls again. The mark minus the resident memory just before is what the call needed at
its worst moment: tensors, scratch space of the kernels and NumPy copies alike, whoever allocated them.

glibc usually keeps freed blocks for later, and its threshold for that moves with use; then the next call would seem to
need nothing. The child runs with a fixed low threshold, so that every tensor is mapped when made and unmapped when
freed. Needs Linux and glibc; elsewhere there is no figure.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

_REPEATS = 2
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def peaks(study: str, subject: str, setting: dict[str, Any], batches: Sequence[int]) -> dict[int, float | None]:
    """Extra memory of one call in MiB by batch size, measured in a child process; None where the system cannot tell.

    study: the module of this package whose SUBJECTS hold `subject`. setting: the network, as `Setting.as_dict` gives it.
    """
    if not sys.platform.startswith("linux") or not batches:
        return dict.fromkeys(batches)
    asked = json.dumps({"study": study, "subject": subject, "setting": setting, "batches": batches})
    paths = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if p)]
    env = {**os.environ, **_MALLOC, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", asked], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"The memory of '{subject}' could not be measured:\n{done.stderr}")
    return dict(zip(batches, json.loads(done.stdout.splitlines()[-1]), strict=True))


def extra(run: Any) -> float:
    """What a call of `run` needs at most over what is held before it, in MiB; the mean of two calls."""
    run()
    return mean(_once(run) for _ in range(_REPEATS)) / 1024


def _once(run: Any) -> int:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    kept = run()
    highest = _status("VmHWM")
    del kept
    return highest - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def main(asked: str) -> None:
    import torch

    from benchmarks.study import Setting

    wanted = json.loads(asked)
    subject = import_module(f"benchmarks.{wanted['study']}").SUBJECTS[wanted["subject"]]
    torch.set_num_threads(1)
    setting = Setting(**wanted["setting"])
    print(json.dumps([extra(subject.prepare(setting.network(), setting.inputs(b))) for b in wanted["batches"]]))


if __name__ == "__main__":
    main(sys.argv[1])
