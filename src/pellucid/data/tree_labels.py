"""Classes for the files of a tree: from the folders they lie in, or from a table that names files, series or patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pellucid.data.csv_table import class_names, class_of, read_table
from pellucid.errors import OptionError, nearest

KEYS = ("path", "name", "series", "patient")


def tree_labels(
    items: Sequence[Mapping[str, str]], labels: str | Path | None, classes: Sequence[str] | None
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """The class of every item, and the names of the classes in order.

    items: what names each: its `path` below the root, and where known `name` (without suffix), `series` and `patient`.
    labels: "folder": the first folder; None: no labels; "auto": the folders, unless they seem to be one for each
    patient; a CSV file: its column `label` by the first of the columns path, name, series, patient that it has.
    Items that the table does not name have no class. Raises `OptionError` for a table that fits no item.
    """
    if labels is None or (labels == "auto" and not _folders_are_classes(items)):
        return (None,) * len(items), tuple(classes or ())
    if labels in ("auto", "folder"):
        found: list[str | None] = [_folder(item) or None for item in items]
        names = tuple(classes) if classes is not None else tuple(sorted({f for f in found if f}))
        for name in found:
            if name is not None and name not in names:
                raise OptionError(f"The folder '{name}' is not a class.", hint=nearest(name, names))
        return tuple(None if f is None else names.index(f) for f in found), names
    return _from_table(items, Path(labels), classes)


def _folder(item: Mapping[str, str]) -> str:
    first, slash, _ = item["path"].partition("/")
    return first if slash else ""


def _folders_are_classes(items: Sequence[Mapping[str, str]]) -> bool:
    """Whether there are several first folders, every file lies in one, and some hold more than one patient."""
    patients: dict[str, set[str]] = {}
    for item in items:
        patients.setdefault(_folder(item), set()).add(item.get("patient") or item["path"])
    return "" not in patients and len(patients) > 1 and max(map(len, patients.values())) > 1


def _from_table(
    items: Sequence[Mapping[str, str]], source: Path, classes: Sequence[str] | None
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    table = read_table(source)
    key = next((k for k in KEYS if k in table.header), None)
    if key is None or "label" not in table.header:
        raise OptionError(
            f"{source.name} does not say which label is whose.",
            why=f"Its columns: {', '.join(table.header)}.",
            hint=f"Name one column 'label' and one {' or '.join(KEYS)}.",
            path=source,
        )
    names = class_names(table, "label", classes)
    known = {row[key]: class_of(table, k, row["label"], names) for k, row in enumerate(table.rows)}
    found = tuple(known.get(item.get(key, "")) for item in items)
    if all(label is None for label in found):
        raise OptionError(
            f"{source.name} names none of the files.",
            why=f"Its column {key} has '{next(iter(known))}'; the first file's {key} is '{items[0].get(key, '')}'.",
            hint="Write the names as they are.",
            path=source,
        )
    return found, names
