"""The state of a training on disk: whole or absent, checked by its own digest, the one before it kept."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid import files
from pellucid.errors import IntegrityError, ResourceError

FORMAT = 1
LAST, PREVIOUS = "last.pt", "previous.pt"


def save(folder: str | Path, state: Mapping[str, Any]) -> Path:
    """Write `folder`/last.pt; what was there becomes previous.pt. At any moment one of the two is whole.

    state: tensors, numbers, strings, and dicts and lists of them. Raises `ResourceError` where it cannot be written.
    """
    folder = Path(folder)
    content = {**state, "format": FORMAT}
    stream = io.BytesIO()
    torch.save({**content, "sha256": digest(content)}, stream)
    last = folder / LAST
    if last.exists():
        try:
            last.replace(folder / PREVIOUS)
        except OSError as error:
            raise ResourceError(
                f"Could not keep {last}.", why=str(error), hint="Check the permissions of the folder.", path=last
            ) from error
    return files.write_bytes(last, stream.getvalue())


def load(folder: str | Path) -> dict[str, Any] | None:
    """The latest state that is whole: last.pt, else previous.pt; None where there is neither.

    No code in a file is run. Raises `IntegrityError` where there are files and none of them can be trusted.
    """
    reasons = []
    for name in (LAST, PREVIOUS):
        path = Path(folder) / name
        if path.exists():
            try:
                return read(path)
            except IntegrityError as error:
                reasons.append(f"{name}: {error.why}")
    if reasons:
        raise IntegrityError(
            f"The training state in {folder} is damaged.",
            why="; ".join(reasons),
            hint="Start again with resume=False.",
            path=folder,
        )
    return None


def read(path: str | Path) -> dict[str, Any]:
    """One state file. Raises `IntegrityError` when it is not what was written."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything; all of it means the same
        raise _damaged(path, f"It cannot be read ({type(error).__name__}).") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise _damaged(path, f"It is no training state of format {FORMAT}.")
    noted = state.pop("sha256", None)
    if noted != digest(state):
        raise _damaged(path, "Its content differs from what was written.")
    return state


def _damaged(path: str | Path, why: str) -> IntegrityError:
    return IntegrityError(f"{path} is damaged.", why=why, hint="Start again with resume=False.", path=path)


def digest(value: Any) -> str:
    """SHA-256 of a nested structure: kinds, keys, numbers, and the bytes of tensors."""
    total = sha256()
    for part in _parts(value):
        total.update(part)
    return total.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        whole = value.detach().cpu().contiguous()
        yield f"tensor {whole.dtype} {tuple(whole.shape)}".encode()
        yield whole.view(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        yield f"dict {len(value)}".encode()
        for key, item in value.items():
            yield repr(key).encode()
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} {len(value)}".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode()


def to_cpu(value: Any) -> Any:
    """The same structure with every tensor copied to the CPU, so that later steps do not change it."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {k: to_cpu(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_cpu(v) for v in value)
    return value


def remove(folder: str | Path) -> None:
    """Forget the state, so that the next training starts from the beginning."""
    for name in (LAST, PREVIOUS):
        files.remove(Path(folder) / name)


__all__ = ["FORMAT", "digest", "load", "read", "remove", "save", "to_cpu"]
