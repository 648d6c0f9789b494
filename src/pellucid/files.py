"""Files that are whole or absent: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pellucid.errors import BadInput, ResourceError


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `data` so that a reader sees the old file or the new one, never a part.

    Raises `ResourceError` where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp makes private files; these are ordinary ones
        Path(temporary).replace(path)
    except OSError as error:
        raise ResourceError(
            f"Could not write {path}.",
            why=str(error),
            hint="Free some space or choose a folder that can be written.",
            path=path,
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
    return path


def delete_unfinished(folder: str | Path, *patterns: str) -> None:
    """Delete what killed processes had half written: the temporary files of `write_bytes` that the patterns name."""
    for pattern in patterns:
        for part in Path(folder).glob(pattern):
            part.unlink(missing_ok=True)


def remove(path: str | Path) -> None:
    """Delete a file, where there is one. Raises `ResourceError` where that is not allowed."""
    path = Path(path)
    try:
        if path.exists():
            path.unlink()
    except OSError as error:
        raise ResourceError(
            f"Could not delete {path}.", why=str(error), hint="Check the permissions of the folder.", path=path
        ) from error


def write_text(path: str | Path, text: str) -> Path:
    """UTF-8 text, whole or not at all (see `write_bytes`)."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    """JSON with sorted keys, so that equal values give equal bytes. Not-a-number is written as null."""
    return write_text(
        path, json.dumps(finite(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    )


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises `BadInput` where there is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"There is no file {path}.", hint="Check the path.", path=path) from error
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} is not a readable JSON file.", why=str(error), hint="Write it again.", path=path
        ) from error


def plain(value: Any) -> Any:
    """The same value as JSON gives it back: lists for tuples, text for names."""
    return json.loads(json.dumps(finite(value)))


def finite(value: Any) -> Any:
    """The same structure with floats that JSON cannot say (nan, inf) as None."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def sha256(path: str | Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
