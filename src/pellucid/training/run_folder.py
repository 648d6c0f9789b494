"""The run folder: who may write in it, what happened in it, and the digests of all that it holds."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pellucid import __version__, files
from pellucid.errors import IntegrityError, ResourceError
from pellucid.models import storage
from pellucid.training import checkpoint

KIND = "run"
_PACKAGES = ("torch", "numpy", "lightning-fabric", "safetensors")
_NOT_LISTED = ("manifest.json", "lock")


_UNFINISHED = ("state/.*.part", ".model.safetensors.*.part")


@contextmanager
def claimed(folder: str | Path) -> Iterator[None]:
    """Hold the folder's lock. Raises `ResourceError` while another living process (or training) holds it.

    What a killed process had half written (weights, states) is deleted: a run that is killed often would fill the disk.

    The operating system drops the lock when its holder ends, however it ends; a lock file left behind means nothing.
    """
    path = Path(folder) / "lock"
    handle = _lock(path)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        files.delete_unfinished(folder, *_UNFINISHED)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ResourceError(
                f"Could not write {path}.", why=str(error), hint="Choose a folder that can be written.", path=path
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except OSError as error:
            os.close(handle)
            holder = path.read_text() if path.exists() else ""
            raise ResourceError(
                f"Another training is at work in {path.parent}.",
                why=f"Its lock is held: {holder}",
                hint="Wait for it to end, or choose another folder.",
                path=path,
            ) from error
        os.close(handle)  # the former holder removed the file in between: lock the new one


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.fstat(handle).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def log(folder: str | Path, event: str, **facts: Any) -> None:
    """Add one line to log.jsonl: the only file with times in it."""
    path = Path(folder) / "log.jsonl"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **files.finite(facts)}
    files.write_text(path, before + json.dumps(line, ensure_ascii=False) + "\n")


def write_manifest(folder: str | Path, facts: Mapping[str, Any]) -> Path:
    """manifest.json: format, versions, `facts`, and the SHA-256 of every file of the folder."""
    folder = Path(folder)
    return storage.write_manifest(
        folder, contents(folder), **{**facts, "kind": KIND, "versions": versions(), "git": commit()}
    )


def refresh_manifest(folder: str | Path) -> Path:
    """Note the digests again after a file was added to the run (scores, a report); the rest stays as it was."""
    known = storage.read_manifest(folder)
    facts = {k: v for k, v in known.items() if k not in ("format", "files")}
    return storage.write_manifest(folder, contents(Path(folder)), **facts)


def forget(folder: str | Path) -> None:
    """Remove what a training would go on from, so that the next one starts from the beginning."""
    folder = Path(folder)
    for name in ("manifest.json", "log.jsonl"):
        files.remove(folder / name)
    checkpoint.remove(folder / "state")


def finished(folder: str | Path) -> bool:
    """Whether the folder holds a run that came to its end. A model saved there without a run does not count."""
    return (Path(folder) / "manifest.json").exists() and storage.read_manifest(folder).get("kind") == KIND


def check(folder: str | Path, *names: str) -> dict[str, Any]:
    """The manifest, after comparing the digests of `names` (all files where none is given).

    Raises `IntegrityError` for a file that is missing or differs, `BadInput` where there is no manifest.
    """
    folder = Path(folder)
    manifest = storage.read_manifest(folder)
    noted = manifest["files"]
    for name in names or sorted(noted):
        path = folder / name
        if name not in noted or not path.is_file() or files.sha256(path) != noted[name]:
            raise IntegrityError(
                f"{path} is damaged.",
                why="It differs from what manifest.json notes.",
                hint="Train again, or restore the file.",
                path=path,
            )
    return manifest


def contents(folder: Path) -> list[str]:
    """The files of a run, as sorted relative names; temporary files, the lock and the manifest itself are left out."""
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return sorted(name for name in (p.relative_to(folder).as_posix() for p in found) if name not in _NOT_LISTED)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "pellucid": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of the working directory, where there is one."""
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


__all__ = ["check", "claimed", "contents", "finished", "forget", "log", "refresh_manifest", "write_manifest"]
