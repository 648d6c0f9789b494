"""What was found out about each name, what is left to run, and what may be concluded for names that are not run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.zoo.survey import Facts
from pellucid import files

LARGEST = 200_000_000  # parameters
FLOAT64, FLOAT32 = 1e-9, 1e-4  # what |cells + constant - logit| over the logits' spread may be
EXACT_KINDS = ("exact", "exact_at_this_image")
TRIES = 6  # members of one signature that are tried for a verdict

TOKEN, HEADS, POOLED, TRACE = (
    "class token",
    "several heads or class tokens",
    "no classifier or pooled vector",
    "cannot be traced",
)
LIMITS = ("over the time limit", "over the memory limit")


@dataclass(frozen=True)
class Record:
    """One name's run.

    outcome: "converted", "refused", "failed" (the network itself does not run here) or one of `LIMITS`. kind: of the
    certificate. message: why not. float32, float64: largest |cells + constant - logit| of the original network, over
    the logits' spread. float64_by: "the same conversion" in double precision, or "a second conversion". code: digest
    of the compiler's source. seconds: processor time.
    """

    name: str
    outcome: str
    code: str
    kind: str | None = None
    message: str = ""
    reason: str = ""
    size: tuple[int, ...] = ()
    float32: float | None = None
    float64: float | None = None
    float64_by: str = ""
    constant_share: float | None = None
    cells_share: float | None = None
    grid: tuple[int, ...] = ()
    stride: tuple[float, ...] = ()
    registered: bool = False
    receptive_field: tuple[float, ...] | None = None
    whole_input: bool = False
    cut: str = ""
    head: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> tuple[str, str] | None:
        """Kind and reason; None where the run does not tell."""
        if self.outcome == "converted":
            return str(self.kind), ""
        return ("refused", self.reason) if self.outcome == "refused" else None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Record:
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**plain)


class Store:
    """A folder with one file per name and kind of knowledge, each written whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, what: str, name: str) -> Path:
        source, _, own = name.partition(":")
        return self.folder / what / source / f"{own}.json"

    def record(self, name: str) -> Record | None:
        path = self.path("records", name)
        return Record.from_dict(files.read_json(path)) if path.exists() else None

    def facts(self, name: str) -> Facts | None:
        path = self.path("facts", name)
        return Facts.from_dict(files.read_json(path)) if path.exists() else None

    def keep(self, what: Record | Facts) -> None:
        files.write_json(self.path("records" if isinstance(what, Record) else "facts", what.name), asdict(what))

    def forget(self, name: str) -> None:
        files.remove(self.path("records", name))


def reason_class(message: str, facts: Facts) -> str:
    """The kind of reason behind a refusal. What the network is decides where the message does not say."""
    text = message.lower()
    if "cannot be traced" in text:
        return TRACE
    if "output is" in text or "attach a classifier" in text:
        return POOLED
    if facts.heads > 1:
        return HEADS
    if facts.token_head or "class token" in text:
        return TOKEN
    return "other: " + (message.splitlines() or [""])[0]


def wrong(record: Record, facts: Facts) -> str:
    """Why a conversion is not what its certificate says; empty where it is.

    A network whose class token feeds the head must not be called exact, however well the numbers agree.
    """
    if record.outcome != "converted" or record.kind not in EXACT_KINDS:
        return ""
    for name, found, allowed in (("float64", record.float64, FLOAT64), ("float32", record.float32, FLOAT32)):
        if found is None or not found <= allowed:
            return f"{name} parity is {found}, at most {allowed:g} is allowed"
    return "a class token feeds the head" if facts.token_head else ""


def groups(facts: Iterable[Facts]) -> dict[str, list[Facts]]:
    """Names of one source that agree in signature, the smallest first."""
    found: dict[str, list[Facts]] = defaultdict(list)
    for one in sorted(facts, key=lambda f: (f.parameters, f.name)):
        found[f"{one.name.partition(':')[0]} {one.signature}"].append(one)
    return dict(found)


def plan(facts: Iterable[Facts], records: Mapping[str, Record], every: Sequence[str] = ("torchvision",)) -> list[str]:
    """The names to run next, the smallest first.

    Of each signature its smallest member and one more; all members where two disagree; all names of the sources in
    `every`. Networks over `LARGEST` are never run.
    """
    wanted: list[Facts] = []
    for members in groups(facts).values():
        able = [f for f in members if f.parameters <= LARGEST and not f.error]
        left = [f for f in able if f.name not in records]
        verdicts = [v for f in able if f.name in records and (v := records[f.name].verdict)]
        if members[0].name.partition(":")[0] in every or len(set(verdicts)) > 1:
            wanted += left
        elif len(able) - len(left) < TRIES:
            wanted += left[: max(0, 2 - len(verdicts))]
    return [f.name for f in sorted(wanted, key=lambda f: (f.parameters, f.name))]


@dataclass(frozen=True)
class Row:
    """One name with its verdict. by: "run", "assigned from NAME" or "" (no verdict); note: why it was not run itself."""

    facts: Facts
    kind: str
    by: str
    reason: str
    message: str
    note: str
    record: Record | None

    @property
    def source(self) -> str:
        return self.facts.name.partition(":")[0]


def rows(facts: Iterable[Facts], records: Mapping[str, Record]) -> list[Row]:
    """A row per name. Names without a run of their own take the verdict on which all runs of their signature agree.

    Nothing is concluded from a wrong conversion.
    """
    found = []
    for members in groups(facts).values():
        run = [f for f in members if f.name in records and records[f.name].verdict]
        settled = len({records[f.name].verdict for f in run}) == 1 and not any(wrong(records[f.name], f) for f in run)
        for one in members:
            own = records.get(one.name)
            if own is not None and own.verdict is not None:
                found.append(Row(one, own.verdict[0], "run", own.verdict[1], own.message, "", own))
            elif settled:
                like = records[run[0].name]
                assert like.verdict is not None
                note = _not_run(one, own)
                found.append(
                    Row(one, like.verdict[0], f"assigned from {like.name}", like.verdict[1], like.message, note, own)
                )
            else:
                why = one.error or (own.message if own is not None else "")
                found.append(Row(one, "not run", "", "", why, _not_run(one, own), own))
    return sorted(found, key=lambda r: (SOURCE_ORDER.get(r.source, 9), r.facts.family, r.facts.name))


SOURCE_ORDER = {"torchvision": 0, "timm": 1}


def _not_run(facts: Facts, record: Record | None) -> str:
    if facts.error:
        return "cannot be built"
    if facts.parameters > LARGEST:
        return f"skipped: over {LARGEST // 1_000_000} M parameters"
    return record.outcome if record is not None else ""


def refused(record: Record, message: str, facts: Facts) -> Record:
    """The record of a refusal."""
    return replace(record, outcome="refused", message=message, reason=reason_class(message, facts))
