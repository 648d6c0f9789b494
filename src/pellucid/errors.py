"""What can go wrong, said to the person who has to act on it.

    PellucidError                 exit code
    ├── ConversionError           2   the network cannot be made self-explainable as asked
    ├── TargetError               2   what is to be explained does not fit the network's output
    ├── LayerError                2   no such layer, or a layer that cannot be read
    ├── OptionError               2   an unknown or impossible option, column, class or configuration key
    ├── BadInput                  3   a file or tensor that is not what it should be
    ├── AuditFailed               4   an audit policy was not met
    ├── IntegrityError            5   a damaged artefact or an unsafe file
    └── ResourceError             6   memory, disk or permission

Every error says what happened, why, and how to go on: the three lines a user sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class PellucidError(Exception):
    """Base of all errors that pellucid raises on purpose.

    message: what happened; why: what was expected and what came; hint: what to do; path: the file concerned.
    """

    exit_code = 1

    def __init__(self, message: str, *, why: str = "", hint: str = "", path: str | Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.hint = hint
        self.path = None if path is None else str(path)

    def __str__(self) -> str:
        return "\n".join(line for line in (self.message, self.why, self.hint) if line)

    def as_dict(self) -> dict[str, str | None]:
        """The error as the `--json` mode and the REST service print it."""
        text = f"{self.message} ({self.why})" if self.why else self.message
        return {"code": type(self).__name__, "message": text, "hint": self.hint, "path": self.path}


class ConversionError(PellucidError):
    exit_code = 2


class TargetError(PellucidError):
    exit_code = 2


class LayerError(PellucidError):
    exit_code = 2


class OptionError(PellucidError):
    exit_code = 2


class BadInput(PellucidError):
    exit_code = 3


class AuditFailed(PellucidError):
    exit_code = 4


class IntegrityError(PellucidError):
    exit_code = 5


class ResourceError(PellucidError):
    exit_code = 6


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word, or all of them when they are few."""
    words = [str(k) for k in known]
    close = get_close_matches(str(word), words, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    listed = ", ".join(words[:20]) + (", ..." if len(words) > 20 else "")
    return f"Known: {listed}." if words else "There are none to choose from."
