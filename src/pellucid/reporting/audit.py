"""What an audit says, as plain data. Whoever fills it in has done all calculation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from pellucid import files
from pellucid.record import Interval
from pellucid.reporting.report import Picture

FORMAT = 1
CANNOT_TELL: tuple[str, ...] = (
    "An audit finds what it looks for. Zones that nobody declared, drawings that move about, and causes that change the whole picture are not found by it.",
    "A shortcut is judged on the samples at hand. Where the marker goes with no class in them, only rendered or painted markers can show it.",
    "Intervals over patients speak of this very network. What training of this kind teaches shows only over several trainings.",
    "An interval says how a figure would vary with other patients of the same kind, not with other devices, hospitals or years.",
    "A map shows what the network used, right or wrong. It is not called a reason here.",
    "Meeting the limits of a policy is not conformity with any law. Nobody but the responsible body can declare that.",
)


@dataclass(frozen=True)
class Figure:
    """A number with its interval, under a key that limits and later audits find it by.

    unit: what was resampled ("patients", "trainings"; "counted" for a plain count). p_value: of no effect or difference,
    adjusted: corrected. sized: a limit speaks of its size, whatever the sign.
    """

    key: str
    interval: Interval
    unit: str = "patients"
    p_value: float | None = None
    adjusted: float | None = None
    sized: bool = False

    def __str__(self) -> str:
        mean = self.interval.mean
        if self.unit != "counted":
            return f"{self.interval}, n {self.interval.n}"
        return f"{mean:.0f}" if mean == round(mean) else f"{mean:.2g}"

    def as_dict(self) -> dict[str, Any]:
        own = {k: v for k, v in asdict(self).items() if k not in ("interval", "key")}
        return {**asdict(self.interval), **own}


Cell: TypeAlias = str | int | float | Figure | None


@dataclass(frozen=True)
class Sheet:
    """A table. about: how to read it. command: what repeats its numbers."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    command: str
    about: str = ""


@dataclass(frozen=True)
class Block:
    """One of the nine. serves: the rules that it was made for. What is blank in `facts` prints as "not provided".

    pictures: in strips of what belongs together.
    """

    number: int
    title: str
    serves: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    pictures: tuple[tuple[Picture, ...], ...] = ()

    def figures(self) -> Iterator[tuple[Figure, Sheet]]:
        """Every figure, with the sheet it stands on."""
        for sheet in self.sheets:
            for row in sheet.rows:
                yield from ((cell, sheet) for cell in row if isinstance(cell, Figure))


@dataclass(frozen=True)
class LimitLine:
    """A limit of the policy, and whether the figure lies within it. line: in the policy's file, 0: nobody knows."""

    key: str
    asked: str
    met: bool
    words: str
    line: int = 0


@dataclass(frozen=True)
class AuditPage:
    """Everything on the page, in its order. made: when, in UTC. commands: what repeats the whole."""

    title: str
    made: str
    summary: tuple[str, ...]
    blocks: tuple[Block, ...]
    limits: tuple[LimitLine, ...]
    judged_by: str
    regulations: Sequence[Mapping[str, str]]
    checked: str
    commands: tuple[str, ...]
    cannot_tell: tuple[str, ...] = CANNOT_TELL

    @property
    def failed(self) -> tuple[LimitLine, ...]:
        return tuple(line for line in self.limits if not line.met)

    def figures(self) -> dict[str, tuple[Figure, Sheet]]:
        """Every figure by its key, with the sheet it stands on."""
        return {figure.key: (figure, sheet) for block in self.blocks for figure, sheet in block.figures()}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without the pictures."""
        figures = {key: {**f.as_dict(), "command": sheet.command} for key, (f, sheet) in self.figures().items()}
        blocks = [
            {
                "number": b.number, "title": b.title, "serves": b.serves, "facts": files.plain(dict(b.facts)), "sentences": b.sentences,
                "sheets": [{"title": s.title, "about": s.about, "head": s.head, "command": s.command, "rows": [[_plain(cell) for cell in row] for row in s.rows]} for s in b.sheets],
            }
            for b in self.blocks
        ]  # fmt: skip
        return {
            "format": FORMAT, "title": self.title, "made": self.made, "summary": self.summary, "judged_by": self.judged_by,
            "limits": [asdict(line) for line in self.limits], "figures": figures, "blocks": blocks, "regulations": list(self.regulations), "checked": self.checked,
            "cannot_tell": self.cannot_tell, "commands": self.commands,
        }  # fmt: skip


def _plain(cell: Cell) -> Any:
    return {"figure": cell.key, **cell.as_dict()} if isinstance(cell, Figure) else cell
