"""Errors as people see them: three lines (what, why, how to fix), one exit code, no traceback unless asked for."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import Any

import typer

from pellucid.errors import BadInput, PellucidError, ResourceError, nearest

_MEMORY = ("out of memory", "can't allocate memory")


def exit_code(error: BaseException, arguments: Sequence[str]) -> int:
    """Print the error and return the exit code. An error nobody expected is written to a log whose path is shown."""
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        return 0  # whoever read the output has seen enough (`pellucid ... | head`)
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # the parser takes the end of a damaged file for that of the user's input
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _interrupted(arguments)
    if "--debug" in arguments:
        traceback.print_exception(error)
    known = as_known(error)
    if known is None:
        return _unexpected(error, arguments)
    _tell(known, arguments)
    return known.exit_code


def as_known(error: BaseException) -> PellucidError | None:
    """The error as one of ours, where it is one or means one (wrong usage, memory, disk, permission)."""
    if isinstance(error, PellucidError):
        return error
    if hasattr(error, "format_message"):
        return _usage(error)
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(m in str(error) for m in _MEMORY)):
        return ResourceError("The memory is used up.", why=text, hint="Use a smaller --batch-size or size=.")
    if isinstance(error, OSError) and error.errno in (EDQUOT, ENOSPC, EROFS):
        return ResourceError(
            "A file could not be written.",
            why=text,
            hint="Free some space, or choose another folder.",
            path=error.filename,
        )
    if isinstance(error, PermissionError):
        return ResourceError(
            "A file may not be used.",
            why=text,
            hint="Change its permissions, or choose another one.",
            path=error.filename,
        )
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) and error.filename:
        return BadInput(f"{error.filename} cannot be read.", why=text, hint="Check the path.", path=str(error.filename))
    return None


def _usage(error: Any) -> PellucidError:
    """A complaint of the command line's parser."""
    choices = getattr(error, "possibilities", None)
    command = getattr(getattr(error, "ctx", None), "command_path", "pellucid")
    usage = PellucidError(
        str(error.message if choices else error.format_message()),
        why="The command line was not understood.",
        hint=nearest(error.option_name, choices) if choices else f"See: {command} --help",
    )
    usage.exit_code = 2
    return usage


def _interrupted(arguments: Sequence[str]) -> int:
    again = shlex.join(["pellucid", *arguments])
    if "--json" in arguments:
        print(json.dumps({"code": "Interrupted", "message": "Interrupted.", "hint": again, "path": None}))
    else:
        print(f"\nInterrupted; what is done is saved.\nGo on with:  {again}", file=sys.stderr)
    return 130


def _unexpected(error: BaseException, arguments: Sequence[str]) -> int:
    log = Path(tempfile.mkdtemp(prefix="pellucid-")) / "error.log"
    log.write_text(f"pellucid {shlex.join(arguments)}\n\n" + "".join(traceback.format_exception(error)))
    what = f"Internal error: {type(error).__name__}: {error}"
    known = PellucidError(what, why=f"The log is {log}.", hint="Report it with the log.", path=log)
    _tell(known, arguments, code="InternalError")
    return 1


def _tell(error: PellucidError, arguments: Sequence[str], code: str = "") -> None:
    """Always three lines, whatever the error left out; with --json the same as an object."""
    usage = type(error) is PellucidError and error.exit_code == 2
    if "--json" in arguments:
        print(json.dumps({**error.as_dict(), "code": code or ("UsageError" if usage else type(error).__name__)}))
        return
    lines = (
        error.message,
        error.why or "This was not what the command needs.",
        error.hint or "See: pellucid --help",
    )
    for label, text in zip(("error", "why", "fix"), lines, strict=True):
        print(f"{label + ':':<7}{' '.join(text.split())}", file=sys.stderr)
