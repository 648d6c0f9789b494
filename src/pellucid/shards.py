"""Long work in parts, each written whole or not at all: what was done stays done after any interruption.

A shard folder holds a plan (the list of parts), one file per part, and a marker per part that is written last. A part
without its marker counts as not done and is written again; the same plan gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pellucid import files
from pellucid.errors import IntegrityError, OptionError


@dataclass(frozen=True)
class Shards:
    """Parts of one piece of work in `folder`. `plan` is JSON-able and says all that decides the result."""

    folder: Path
    plan: Any
    parts: tuple[str, ...]

    @classmethod
    def open(cls, folder: str | Path, plan: Any, parts: Sequence[str]) -> Shards:
        """Start or resume. A folder that holds other work is refused, so that results never mix.

        One process at a time works in a folder: what another had half written when it was killed is deleted.
        """
        folder = Path(folder)
        shards = cls(folder, json.loads(json.dumps(files.finite(plan))), tuple(parts))
        path = folder / "plan.json"
        known = files.read_json(path) if path.exists() else None
        if known != shards._whole_plan():
            if any(folder.glob("*.done")):
                raise OptionError(
                    f"{folder} holds the results of another plan.",
                    why="Its plan.json differs from what was asked for now.",
                    hint="Choose another folder, or delete this one to start again.",
                    path=folder,
                )
            files.write_json(path, shards._whole_plan())
        files.delete_unfinished(folder, ".*.part")
        return shards

    def _whole_plan(self) -> Any:
        return {"plan": self.plan, "parts": list(self.parts)}

    def pending(self) -> Iterator[str]:
        return (part for part in self.parts if not self.done(part))

    def done(self, part: str) -> bool:
        return self._marker(part).exists()

    def write(self, part: str, value: Any) -> None:
        """Write one part as JSON, then its marker with the digest of what was written."""
        path = files.write_json(self.folder / f"{part}.json", value)
        files.write_json(self._marker(part), {"sha256": files.sha256(path)})

    def read(self, part: str) -> Any:
        path = self.folder / f"{part}.json"
        expected = files.read_json(self._marker(part)).get("sha256")
        data = path.read_bytes() if path.exists() else b""
        if sha256(data).hexdigest() != expected:
            raise IntegrityError(
                f"{path} is damaged.",
                why="Its SHA-256 differs from the one noted when it was written.",
                hint=f"Delete {self._marker(part)} and run again.",
                path=path,
            )
        return json.loads(data)

    def _marker(self, part: str) -> Path:
        return self.folder / f"{part}.done"
