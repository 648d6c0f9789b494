"""The figures as a text table, as Markdown and as JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.study import Row, Setting, Study


def environment() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = ", ".join(f"{k} {facts[k]}" for k in ("cpu family", "model", "stepping") if k in facts)
    return f"{facts.get('model name', platform.machine())} ({numbers})" if numbers else platform.machine()


def as_json(studies: Sequence[Study], setting: Setting, quick: bool) -> dict[str, Any]:
    return {
        "format": 1,
        "quick": quick,
        "environment": environment(),
        "setting": setting.as_dict(),
        "studies": [s.as_dict() for s in studies],
    }


def _columns(study: Study) -> list[list[str]]:
    batches = sorted({batch for row in study.rows for batch in row.memory})
    timed = sorted({batch for row in study.rows for batch in row.times})
    head = ["", "version", *(f"x forward, batch {b}" for b in timed), *(f"MiB, batch {b}" for b in batches)]
    differs = any(row.difference is not None for row in study.rows)
    return [head + ["difference"] * differs, *(_cells(row, timed, batches, differs) for row in study.rows)]


def _cells(row: Row, timed: Sequence[int], batches: Sequence[int], differs: bool) -> list[str]:
    if row.version is None:
        return [row.subject, "absent", *["-"] * (len(timed) + len(batches) + differs)]
    amounts = [row.memory.get(b) for b in batches]
    cells = [row.subject, row.version, *(str(row.times.get(b, "-")) for b in timed)]
    cells += ["-" if a is None else f"{a:.0f}" for a in amounts]
    return cells + ["-" if row.difference is None else f"{row.difference:.0e}" if row.difference else "0"] * differs


def as_text(study: Study, judged: bool = True) -> str:
    """The tables of one study, and its targets where the figures can be judged."""
    table = _columns(study)
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table]
    goals = [
        f"{('met' if g.met else 'MISSED') if judged else '':<6}  {g.what}  {g.measured}".strip() for g in study.goals
    ]
    return "\n".join([study.title, study.about, "", *lines, "", *goals])


REMARKS = "## What is missed, and why"


def remarks(page: str) -> str:
    """What a page says by hand, below its tables."""
    return page[page.index(REMARKS) :] if REMARKS in page else ""


def as_markdown(studies: Sequence[Study], setting: Setting, command: str, said: str = "") -> str:
    """The page. said: what was said by hand below the tables before."""
    facts = environment()
    parts = [
        "# Benchmarks",
        "Time and memory beside the peers, measured in one run. Written by the command below; only the remarks at the end are by hand.",
        f"```\n{command}\n```",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        _method(setting),
    ]
    for study in studies:
        parts += [f"## {study.title}", study.about, pipes(_columns(study)), pipes(_goals(study))]
    return "\n\n".join([*parts, said.strip()]).strip() + "\n"


def _method(setting: Setting) -> str:
    threads = torch.get_num_threads()
    time = "CPU time of the process on one thread" if threads == 1 else f"of the clock, on {threads} threads"
    return (
        f"Time: {time}, every call between two plain forward passes under inference mode on the same batch; the median of "
        f"{setting.pairs} such ratios (fewer for what takes long) with a 95 % bootstrap interval (`benchmarks/protocol.py`). Memory: the high-water mark of resident memory over what "
        "was held before the call, in a fresh process for each subject and batch size (`benchmarks/memory.py`). Weights are random."
    )


def _goals(study: Study) -> list[list[str]]:
    return [["target", "measured", ""], *([g.what, g.measured, "met" if g.met else "missed"] for g in study.goals)]


def pipes(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first line is its head."""
    lines = [f"| {' | '.join(line)} |" for line in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])
