"""What is put on record of each decision, in a chain: every record names the digest of the one before it.

`decisions.jsonl` holds a record per line. A byte that is changed anywhere changes the digest of its line, which the next
line (and for the last one the manifest) knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid import files
from pellucid.errors import IntegrityError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pellucid.explanation import Explanation

FILE = "decisions.jsonl"
START = "0" * 64  # what the first record names
REGIONS = 4


def write_chain(path: str | Path, records: Iterable[Mapping[str, Any]]) -> str:
    """Write the records; the digest of the last one."""
    previous, lines = START, []
    for record in records:
        line = json.dumps(files.finite({**record, "previous": previous}), sort_keys=True, ensure_ascii=False)
        lines.append(line)
        previous = sha256(line.encode()).hexdigest()
    files.write_text(path, "".join(f"{line}\n" for line in lines))
    return previous


def check_chain(path: str | Path, head: str) -> int:
    """The number of records, after each was found to be the one that its successor names.

    head: the digest of the last record. Raises `IntegrityError` for a chain that is broken, and says where.
    """
    previous, number = START, 0
    for number, line in enumerate(Path(path).read_bytes().splitlines(keepends=True), start=1):
        try:
            named = json.loads(line)["previous"]
        except (ValueError, KeyError, TypeError) as error:
            raise _broken(path, number, f"It cannot be read: {error}.") from error
        if named != previous:
            raise _broken(path, max(number - 1, 1), "Its digest is not the one that the next record names.")
        if not line.endswith(b"\n"):
            raise _broken(path, number, "It is cut off.")
        previous = sha256(line[:-1]).hexdigest()
    if previous != head:
        raise _broken(path, number, "Its digest is not the one noted in the manifest.")
    return number


def _broken(path: str | Path, number: int, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path}: record {number} is not the one that was written.", why=why, hint="Restore the file from a copy, or audit again.", path=path
    )  # fmt: skip


def decided(network: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """What is put on record of the network's answer to each input: the class it decides for, and what speaks for it.

    A network without evidence has its score only. The digest of the map is over its float32 numbers.
    """
    from pellucid import api, targets
    from pellucid.call import has_evidence

    if not has_evidence(network):
        return [{"explanation": None}] * len(x)
    first = api.explain(network, x, method="evidence")
    target = targets.gauge_free(first.target, first.logits, getattr(network, "task", None))
    whole = first if target is first.target else api.explain(network, x, target, method="evidence")
    return [{"explanation": _explained(one)} for one in whole]


def _explained(e: Explanation) -> dict[str, Any]:
    cells = e.contributions()
    ledger = e.ledger(k=REGIONS)
    return {
        "target": ledger.target,
        "score": ledger.score,
        "ledger": [vars(row) for row in ledger.rows],
        "residual": float(cells.residual[0]),
        "map_sha256": sha256(cells.cells[0].detach().cpu().float().contiguous().numpy().tobytes()).hexdigest(),
        "text": {"short": e.text("short"), "technical": e.text("technical")},
    }
