"""The results on disk: numbers for machines, tables and figures for people. Nothing is computed here."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pellucid import files
from pellucid.benchmark import page
from pellucid.benchmark.figures import drawn
from pellucid.benchmark.results import Results, Score
from pellucid.record import Table

Tables = Mapping[str, Mapping[str, Table]]


def write(out: Path, found: Results, tables: Tables) -> list[str]:
    """results.json, scores.csv, results.md and figures/; gives their names in `out`."""
    pictures = {f"figures/{name}.svg": data for name, data in drawn(found).items()}
    files.write_json(out / "results.json", _plain(found))
    files.write_text(out / "scores.csv", _means(tables))
    files.write_text(out / "results.md", page.markdown(found, pictures))
    for name, data in pictures.items():
        files.write_bytes(out / name, data)
    return ["plan.json", "results.json", "scores.csv", "results.md", *pictures]


def _plain(value: Any) -> Any:
    """The same as JSON can hold it; what is found out about a row stands in it."""
    if isinstance(value, Score):
        return {"metric": value.metric, "part": value.part}
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        told = [
            name for name in ("holds", "headline", "effect") if isinstance(getattr(type(value), name, None), property)
        ]
        return {**own, **{name: _plain(getattr(value, name)) for name in told}}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _means(tables: Tables) -> str:
    """One line per kind, study, network, training, method and score: the mean over pictures."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("kind", "study", "network", "seed", "method", "metric", "part", "mean", "n", "undefined"))
    for kind, studies in tables.items():
        for study, table in studies.items():
            writer.writerows((kind, study, *line) for line in _lines(table))
    return stream.getvalue()


def _lines(table: Table) -> Iterator[tuple[Any, ...]]:
    values: dict[tuple[str, int, str, str, str], list[float | None]] = defaultdict(list)
    for r in table.records:
        values[r.model, r.seed, r.method, r.metric, r.part].append(r.value)
    for key, found in values.items():
        known = [v for v in found if v is not None]
        yield (*key, repr(sum(known) / len(known)) if known else "", len(known), len(found) - len(known))
