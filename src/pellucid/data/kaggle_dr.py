"""Fundus photographs of the Kaggle diabetic retinopathy detection challenge (EyePACS, 2015): a table and a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.data.csv_table import Table, read_table
from pellucid.data.folder import numbered
from pellucid.data.image_file import SUFFIXES, preparation_from
from pellucid.data.image_set import Entry, ImageSet
from pellucid.errors import BadInput, OptionError, nearest

GRADES = ("no DR", "mild", "moderate", "severe", "proliferative")
TABLES = {"train": ("trainLabels.csv",), "test": ("retinopathy_solution.csv", "testLabels.csv")}
FOLDERS = {"train": ("train", "images", "."), "test": ("test", "images", ".")}


def kaggle_dr(source: str | Path, *, split: str = "train", disease: int | None = None, **options: Any) -> ImageSet:
    """The data set as published: `DIR/trainLabels.csv` (image, level) with `DIR/train/10_left.jpeg`, and so on.

    split: "train"; "test" (`retinopathy_solution.csv` and `test/`, its part Public or Private in the meta data) or "all".
    disease: the grade from which on an eye is ill, which makes two classes (1 and 2 are those of the SoftCAM paper); None: the five
    grades. Both eyes of a patient are one group. Other options are those of `Preparation`.
    Raises `BadInput` where the table or the folder is not there.
    """
    root = Path(source)
    preparation = preparation_from(options, kaggle_dr)
    if disease is not None and disease not in range(1, len(GRADES)):
        raise OptionError(f"disease is {disease!r}.", why="It is a grade from 1 to 4.", hint="Give disease=1.")
    if split not in (*TABLES, "all"):
        raise OptionError(f"There is no part '{split}'.", hint=nearest(split, (*TABLES, "all")))
    names = GRADES if disease is None else ("healthy", "disease")
    there = {part: found for part in TABLES if (found := _first(root, TABLES[part])) is not None}
    wanted = tuple(there) if split == "all" else (split,)
    if not wanted or not set(wanted) <= set(there):
        raise BadInput(
            f"{root} has no labels of the part '{split}'.",
            why=f"Looked for {' and '.join(t for part in (wanted or TABLES) for t in TABLES[part])}.",
            hint="Name the folder that holds the challenge's tables.",
            path=root,
        )
    parts = {part: _entries(root, there[part], part, disease) for part in wanted}
    return ImageSet(tuple(e for of in parts.values() for e in of), names, preparation, parts=numbered(parts))


def _first(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _entries(root: Path, table: Path, part: str, disease: int | None) -> list[Entry]:
    rows = read_table(table)
    for column in ("image", "level"):
        if column not in rows.header:
            raise OptionError(
                f"{table.name} has no column '{column}'.", why=f"Its columns: {', '.join(rows.header)}.", path=table
            )
    folder = next((root / f for f in FOLDERS[part] if (root / f).is_dir()), root)
    return [_entry(folder, rows, k, row, disease) for k, row in enumerate(rows.rows)]


def _entry(folder: Path, table: Table, number: int, row: Mapping[str, str], disease: int | None) -> Entry:
    level = row["level"]
    if level not in map(str, range(len(GRADES))):
        raise BadInput(
            f"{table.where(number)} has the level '{level}'.", why="0 to 4 are known.", hint="Mend it.", path=table.source
        )  # fmt: skip
    grade, name = int(level), row["image"]
    stem = name.rsplit(".", 1)[0] if Path(name).suffix.lower() in SUFFIXES else name
    path = next(
        (p for s in (".jpeg", *sorted(SUFFIXES)) if (p := folder / f"{stem}{s}").is_file()), folder / f"{stem}.jpeg"
    )
    patient, _, eye = stem.rpartition("_")
    meta = {"grade": level, "laterality": eye, **({"usage": row["Usage"]} if "Usage" in row else {})}
    return Entry(path, stem, grade if disease is None else int(grade >= disease), patient or stem, meta=meta)
