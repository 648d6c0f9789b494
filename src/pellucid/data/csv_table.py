"""A table of image files: `path,label[,mask,boxes,group,name]`, one row per image."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pellucid.data.image_file import preparation_from
from pellucid.data.image_set import Box, Entry, ImageSet
from pellucid.errors import BadInput, OptionError, nearest

STANDARD = ("path", "label", "mask", "boxes", "group", "name")


def csv_table(
    source: str | Path,
    *,
    path: str = "",
    label: str | None = "",
    mask: str | None = "",
    boxes: str | None = "",
    group: str | None = "",
    name: str | None = "",
    classes: Sequence[str] | None = None,
    mask_values: int | Sequence[int] | None = None,
    mask_absent: Literal["unknown", "empty"] = "unknown",
    negative: str | None = None,
    **options: Any,
) -> ImageSet:
    """The images that a CSV file lists (comma, semicolon or tab; UTF-8). Relative paths are relative to the table.

    path, label, mask, boxes, group, name: the columns to use. Left empty, each is the column of that name, which
    only path and label must have; None: there is none. Other columns go to the samples' meta data.
    classes: names in order; labels are names, or their indices. Left out: the labels that occur, sorted.
    boxes: `x0 y0 x1 y1; x0 y0 x1 y1` in pixels of the upright picture. mask_values: which values of a mask file count (None:
    all but 0). mask_absent "empty": a row of the class `negative` (default: the first class) without mask and boxes has
    nothing to be found; "unknown": nobody knows. Other options are those of `Preparation`.

    Raises `OptionError` for columns and labels that do not fit, `BadInput` for a table that cannot be read.
    """
    preparation = preparation_from(options, csv_table)
    columns = {"path": path, "label": label, "mask": mask, "boxes": boxes, "group": group, "name": name}
    found = listed(Path(source), columns, classes, mask_values, mask_absent, negative)
    other = next((e.path for e in found.entries if e.path.name.lower().endswith(_OTHERS)), None)
    if other is not None:
        reader = "nifti" if ".nii" in other.name.lower() else "dicom"
        raise OptionError(
            f"{Path(source).name} lists files that are no pictures, {other.name} among them.",
            why="They have a reader of their own.",
            hint=f"Name it before the table: {reader}:{source}",
            path=source,
        )
    return ImageSet(found.entries, found.classes, preparation, found.mask_values)


_OTHERS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")


@dataclass(frozen=True)
class Listed:
    """What a table lists: files with what is known of them, the classes in order, and which values of masks count."""

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    mask_values: tuple[int, ...] | None


def listed(
    source: Path,
    columns: Mapping[str, str | None],
    classes: Sequence[str] | None = None,
    mask_values: int | Sequence[int] | None = None,
    mask_absent: str = "unknown",
    negative: str | None = None,
) -> Listed:
    """The files of a table, whatever reads them. Arguments and errors are those of `csv_table`; columns: role -> column."""
    if mask_absent not in ("unknown", "empty"):
        raise OptionError(f"There is no mask_absent '{mask_absent}'.", hint=nearest(mask_absent, ("unknown", "empty")))
    table = read_table(source)
    used = _columns(table, columns)
    names = class_names(table, used.get("label"), classes)
    if negative is not None and negative not in names:
        raise OptionError(f"There is no class '{negative}'.", hint=nearest(negative, names))
    nothing = None if mask_absent == "unknown" or not names else names.index(negative) if negative is not None else 0
    entries = tuple(_entry(table, number, used, names, nothing) for number in range(len(table.rows)))
    _unique_names(table, entries)
    values = None if mask_values is None else (mask_values,) if isinstance(mask_values, int) else tuple(mask_values)
    return Listed(entries, names, values)


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file by column, and the line that each stands in."""

    source: Path
    header: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    lines: tuple[int, ...]

    def where(self, number: int) -> str:
        return f"{self.source.name}, line {self.lines[number]}"


def read_table(source: Path) -> Table:
    """A CSV file (comma, semicolon or tab; UTF-8) with a header. Raises `BadInput` for one that cannot be read."""
    if not source.is_file():
        raise BadInput(f"There is no file {source}.", hint="Check the path.", path=source)
    try:
        with source.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(",;\t", key=first.count), strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(
            f"{source} is not a readable CSV file.",
            why=str(error),
            hint="Save it as UTF-8 text with commas.",
            path=source,
        ) from error
    if len(lines) < 2:
        raise BadInput(
            f"{source} has no rows.",
            why="A header and at least one row are needed.",
            hint="Check the file.",
            path=source,
        )
    (_, header), rows = lines[0], lines[1:]
    if len(set(header)) < len(header):
        raise OptionError(
            f"{source} has two columns of one name.",
            why=f"Its header: {', '.join(header)}.",
            hint="Rename one.",
            path=source,
        )
    for line, row in rows:
        if len(row) != len(header):
            raise BadInput(
                f"{source.name}, line {line} has {len(row)} cells.",
                why=f"The header has {len(header)}.",
                hint="Mend the row; quote cells that hold the separator.",
                path=source,
            )
    return Table(
        source, tuple(header), tuple(dict(zip(header, row, strict=True)) for _, row in rows), tuple(n for n, _ in rows)
    )


def _columns(table: Table, asked: Mapping[str, str | None]) -> dict[str, str]:
    """Role -> column. A column whose name is nearly that of an unused role is a question, not meta data."""
    found: dict[str, str] = {}
    for role, column in asked.items():
        if column is None:
            continue
        if (column or role) in table.header:
            found[role] = column or role
        elif column or role in ("path", "label"):
            raise _no_column(table, column or role, role, given=bool(column))
    used = set(found.values())
    for role, column in asked.items():
        if column == "" and role not in found:
            close = get_close_matches(
                role, [c for c in table.header if c not in used and c not in STANDARD], n=1, cutoff=0.75
            )
            if close:
                raise OptionError(
                    f"{table.source.name} has a column '{close[0]}' and none called '{role}'.",
                    why="It would be left out, and may be a slip of the pen.",
                    hint=f"Give {role}={close[0]} to use it, or rename it.",
                    path=table.source,
                )
    return found


def _no_column(table: Table, column: str, role: str, given: bool) -> OptionError:
    return OptionError(
        f"{table.source.name} has no column '{column}'.",
        why=f"Its columns: {', '.join(table.header)}.",
        hint=nearest(column, table.header) + ("" if given else f" Name it with {role}=..."),
        path=table.source,
    )


def class_names(table: Table, column: str | None, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes as given, else those that occur in the column: numbers by value, then words."""
    if classes is not None:
        return tuple(str(c) for c in classes)
    if column is None:
        return ()
    found = {row[column] for row in table.rows}
    if "" in found:
        number = next(k for k, row in enumerate(table.rows) if not row[column])
        raise OptionError(
            f"{table.where(number)} has no label.", hint="Fill it in, or leave the row out.", path=table.source
        )
    return tuple(sorted(found, key=lambda text: (not text.isdecimal(), int(text) if text.isdecimal() else 0, text)))


def _entry(table: Table, number: int, columns: Mapping[str, str], names: tuple[str, ...], nothing: int | None) -> Entry:
    row = table.rows[number]
    cells = {role: row[column] for role, column in columns.items()}
    if not cells["path"]:
        raise BadInput(
            f"{table.where(number)} has no path.", hint="Fill it in, or leave the row out.", path=table.source
        )
    label = class_of(table, number, cells["label"], names) if "label" in cells else None
    mask, base = cells.get("mask", ""), table.source.parent
    return Entry(
        path=base / cells["path"],
        name=cells.get("name") or cells["path"],
        label=label,
        group=cells.get("group", ""),
        mask=base / mask if mask else None,
        boxes=_boxes(table, number, cells.get("boxes", "")),
        no_truth=nothing is not None and label == nothing,
        meta={c: row[c] for c in table.header if c not in columns.values()},
    )


def class_of(table: Table, number: int, text: str, names: tuple[str, ...]) -> int:
    """The index of the class that a cell names, by its name or its index. Raises `OptionError` for any other."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names) and not any(n.isdecimal() for n in names):
        return int(text)
    raise OptionError(
        f"{table.where(number)}: the label '{text}' is not a class.",
        why=f"Classes: {', '.join(names)}.",
        hint=nearest(text, names),
        path=table.source,
    )


def _boxes(table: Table, number: int, text: str) -> tuple[Box, ...]:
    boxes: list[Box] = []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        try:
            x0, y0, x1, y1 = (float(v) for v in part.split())
        except ValueError as error:
            raise _bad_box(table, number, part) from error
        if not (x0 < x1 and y0 < y1 and abs(x0) + abs(y0) + abs(x1) + abs(y1) < float("inf")):
            raise _bad_box(table, number, part)
        boxes.append((x0, y0, x1, y1))
    return tuple(boxes)


def _bad_box(table: Table, number: int, text: str) -> BadInput:
    return BadInput(
        f"{table.where(number)}: '{text}' is not a box.",
        why="A box is four numbers, the low corner first.",
        hint="Write x0 y0 x1 y1; x0 y0 x1 y1.",
        path=table.source,
    )


def _unique_names(table: Table, entries: tuple[Entry, ...]) -> None:
    first: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if entry.name in first:
            raise BadInput(
                f"{table.where(number)} has the name '{entry.name}' again.",
                why=f"Line {table.lines[first[entry.name]]} has it too; names tell samples apart.",
                hint="Remove one, or add a column 'name'.",
                path=table.source,
            )
        first[entry.name] = number
