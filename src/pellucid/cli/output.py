"""What a command shows while it works and when it is done."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pellucid import files
from pellucid.errors import OptionError


def say(text: str, *, quiet: bool = False) -> None:
    """A line for people. Results go to standard output, everything else here, so that output can be piped."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def show(value: Any) -> None:
    print(json.dumps(files.finite(value), indent=1, ensure_ascii=False, sort_keys=True))


def listed(rows: Sequence[tuple[str, str]]) -> str:
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def check_free(out: Path, kind: str) -> None:
    """Raise `OptionError` for a folder that holds something else than what is to be written: it stays what it is."""
    if not (out / "manifest.json").exists():
        return
    from pellucid.models import storage

    held = storage.read_manifest(out).get("kind", "model or run")
    if held != kind:
        raise OptionError(
            f"{out} holds a model or a run." if held == "model or run" else f"{out} holds {held}.",
            why=f"The {kind} would be mixed up with it.",
            hint="Choose another --out.",
        )


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and remaining time on a terminal, a plain line every ten seconds elsewhere, nothing when quiet."""
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(what) as tick:
            yield tick
    else:
        yield _lines(what)


def _lines(what: str) -> Callable[[int, int], None]:
    start = last = time.monotonic()

    def tick(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last > 10:
            last = now
            left = (total - done) * (now - start) / max(done, 1)
            say(f"{what}: {done} of {total}" + (f", {left:.0f} s left" if done < total else ""))

    return tick


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich import progress as rich
    from rich.console import Console

    start = time.monotonic()
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def tick(done: int, total: int) -> None:
            rate = f"{done / max(time.monotonic() - start, 1e-9):.1f}/s"
            bar.update(task, completed=done, total=total, rate=rate)

        yield tick
