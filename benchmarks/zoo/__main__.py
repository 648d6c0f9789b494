"""`python -m benchmarks.zoo`: convert the classification networks of torchvision and timm; write docs/models.md and .csv.

What was found out about a name is kept under --folder, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.zoo import networks, records, tables, workers
from benchmarks.zoo.measure import code_digest
from benchmarks.zoo.records import Record, Store
from benchmarks.zoo.survey import Facts, survey
from pellucid import files


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=networks.SOURCES, help="one of the two libraries; writes no tables")
    parser.add_argument("--only", metavar="PATTERNS", help="run these names (a*,b*), each of them; writes no tables")
    parser.add_argument("--redo", metavar="PATTERNS", help="forget the records of these names first")
    parser.add_argument(
        "--stale", action="store_true", help="forget the records that another version of the compiler made"
    )
    parser.add_argument("--all", action="store_true", help="run every name; assign none")
    parser.add_argument("--tables", action="store_true", help="write the tables from the records so far; run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="names at a time (default 2)")
    parser.add_argument(
        "--limit", type=float, default=120, metavar="SECONDS", help="of processor time for one name (default 120)"
    )
    parser.add_argument(
        "--memory", type=int, default=6144, metavar="MIB", help="resident memory of one name (default 6144)"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/zoo"), help="where records are kept (default runs/zoo)"
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the tables go (default docs)")
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """Exit status 1 when a network is called exact and is not."""
    asked = _arguments().parse_args(given)
    store = Store(asked.folder)
    facts = {f.name: f for f in _surveyed(store, [asked.source] if asked.source else networks.SOURCES)}
    known = {name: r for name in facts if (r := store.record(name)) is not None}
    for name in [n for n, r in known.items() if _forget(r, asked.redo, asked.stale)]:
        store.forget(name)
        del known[name]
    complete = asked.tables or _run(facts, known, store, asked)
    found = records.rows(facts.values(), known)
    if not (asked.source or asked.only):
        left = records.plan(facts.values(), known)
        codes = sorted({r.code for r in known.values() if r.code})
        command = " ".join(["python -m benchmarks.zoo", *(["--all"] if asked.all else [])])
        files.write_text(asked.out / "models.csv", tables.as_csv(found))
        files.write_text(asked.out / "models.md", tables.as_markdown(found, command, codes, complete and not left))
        print(f"Wrote {asked.out / 'models.md'} and models.csv")
    return _summary(found, known)


def _surveyed(store: Store, sources: Sequence[str]) -> list[Facts]:
    names = [name for source in sources for name in networks.names(source)]
    known = {n: f for n in names if (f := store.facts(n)) is not None and not f.error}
    missing = [n for n in names if n not in known]
    for i, name in enumerate(missing, 1):
        known[name] = survey(name)
        store.keep(known[name])
        if i % 100 == 0 or i == len(missing):
            print(f"looked at {i} of {len(missing)} names", flush=True)
    return [known[n] for n in names]


def _matches(name: str, pattern: str) -> bool:
    """Whether one of the comma-separated patterns fits the name, with or without its source."""
    return any(fnmatch(name, p) or fnmatch(name.partition(":")[2], p) for p in pattern.split(","))


def _forget(record: Record, redo: str | None, stale: bool) -> bool:
    return (redo is not None and _matches(record.name, redo)) or (stale and record.code != code_digest())


def _run(facts: dict[str, Facts], known: dict[str, Record], store: Store, asked: argparse.Namespace) -> bool:
    """Rounds until nothing is left: what two members of a signature say decides whether others are needed."""
    limits = workers.Limits(asked.limit, asked.memory, asked.jobs)
    every = networks.SOURCES if asked.all or asked.only else ("torchvision",)
    chosen = {n: f for n, f in facts.items() if asked.only is None or _matches(n, asked.only)}

    def keep(record: Record) -> None:
        known[record.name] = record
        print(_line(record, len(known)), flush=True)

    while wanted := records.plan(chosen.values(), known, every):
        print(f"{len(wanted)} names to run", flush=True)
        try:
            workers.run([chosen[n] for n in wanted], store, limits, keep, code=code_digest())
        except KeyboardInterrupt:
            print("Stopped; the same command goes on from here.")
            return False
    return True


def _line(record: Record, count: int) -> str:
    said = record.kind if record.outcome == "converted" else record.outcome
    parity = "" if record.float64 is None else f"float64 {record.float64:.1e}  float32 {record.float32:.1e}  "
    why = record.reason or record.message.partition("\n")[0][:100]
    return f"{count:5}  {record.name:<48} {said:<20} {parity}{record.seconds:.1f} s  {why}".rstrip()


def _summary(found: Sequence[records.Row], known: dict[str, Record]) -> int:
    for source in networks.SOURCES:
        kinds = Counter(r.kind for r in found if r.source == source)
        if kinds:
            print(f"{source}: " + ", ".join(f"{kinds[k]} {k}" for k in tables.KINDS if kinds[k]))
    codes = {r.code for r in known.values()}
    if len(codes) > 1:
        print(f"Records come from {len(codes)} versions of the compiler: --stale runs the older ones again.")
    bad = tables.wrongs(found)
    for line in bad:
        print(f"WRONG {line}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
