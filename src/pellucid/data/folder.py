"""A folder with one folder of images per class; or a flat folder of images without labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pellucid.data.image_file import SUFFIXES, preparation_from
from pellucid.data.image_set import Entry, ImageSet, image_set, visible
from pellucid.errors import BadInput, OptionError, nearest

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def folder(
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    group: str | None = None,
    only: bool = False,
    **options: Any,
) -> ImageSet:
    """Images labelled by the folder they lie in, at any depth; classes are sorted by name, or given in order by `classes`;
    only: leave out the folders that are not among these.

    split: where the folders below are called train, val and test and hold those of the classes, which of them: "train"
    (the default there), "val", "test" or "all". group: a regular expression whose first bracket is the patient in a
    file's path, such as `(\\d+)_[lr]`. Hidden files and files without an image's suffix are ignored. A folder that holds
    images and no folder with images is read without labels. Other options are those of `Preparation`. Raises `BadInput` for
    a missing or empty folder and `OptionError` for a class without folder.
    """
    root = Path(source)
    if not root.is_dir():
        raise BadInput(f"There is no folder {source}.", hint="Check the path.", path=root)
    preparation = preparation_from(options, folder)
    published = _published(root)
    if not published:
        if split not in (None, "all"):
            raise OptionError(f"{source} has no part '{split}'.", why="It has no folders called train and test.", hint="Leave split out.")  # fmt: skip
        members, loose = _classes_in(root), _loose(root)
        if classes is None and not members:
            return image_set(root, **options)
        if members and loose:
            raise _mixed(root, loose)
        names = tuple(classes) if classes is not None else tuple(members)
        _check_classes(names, [name for name in members if name in names or not only], root)
        entries = _entries(root, names, members)
        return ImageSet(_grouped(entries, group), names, preparation)
    wanted = published if split == "all" else {split or "train": published.get(split or "train", root)}
    if not set(wanted) <= set(published):
        raise OptionError(f"{source} has no part '{split or 'train'}'.", why=f"Its parts: {', '.join(published)}.", hint=nearest(str(split), [*published, "all"]))  # fmt: skip
    found = {part: _classes_in(place) for part, place in published.items()}
    names = tuple(classes) if classes is not None else tuple(sorted({name for members in found.values() for name in members}))  # fmt: skip
    everywhere = sorted({name for members in found.values() for name in members if name in names or not only})
    _check_classes(names, everywhere, root)
    parts = {part: _grouped(_entries(root, names, found[part]), group) for part in wanted}
    return ImageSet(tuple(e for of in parts.values() for e in of), names, preparation, parts=numbered(parts))


def numbered(parts: Mapping[str, Sequence[object]]) -> dict[str, tuple[int, ...]]:
    """Indices of the parts, one behind the other; nothing where there is a single one."""
    made, start = {}, 0
    for part, members in parts.items():
        made[part] = tuple(range(start, start + len(members)))
        start += len(members)
    return made if len(made) > 1 else {}


def _published(root: Path) -> dict[str, Path]:
    """Part -> folder, where all folders with images are called like parts, there are two or more, and each holds classes."""
    found = {p.name: p for p in visible(root) if p.is_dir() and _images(p)}
    named = {PARTS[name.lower()]: p for name, p in found.items() if name.lower() in PARTS}
    if len(found) < 2 or len(named) < len(found) or not all(_classes_in(p) for p in named.values()):
        return {}
    return {part: named[part] for part in ("train", "val", "test") if part in named}


def _classes_in(root: Path) -> dict[str, list[Path]]:
    return {p.name: found for p in visible(root) if p.is_dir() and (found := _images(p))}


def _loose(root: Path) -> list[Path]:
    return [p for p in visible(root) if p.is_file() and p.suffix.lower() in SUFFIXES]


def _mixed(root: Path, loose: Sequence[Path]) -> BadInput:
    return BadInput(
        f"{root} holds images both in folders and beside them.",
        why=f"{len(loose)} images, {loose[0].name} among them, have no class.",
        hint="Move them into a class folder or elsewhere.",
        path=root,
    )


def _entries(root: Path, names: Sequence[str], members: Mapping[str, Sequence[Path]]) -> list[Entry]:
    return [
        Entry(p, p.relative_to(root).as_posix(), label=k) for k, name in enumerate(names) for p in members.get(name, ())
    ]


def _grouped(entries: Sequence[Entry], pattern: str | None) -> tuple[Entry, ...]:
    """The entries with the patient that the pattern finds in their names."""
    if pattern is None:
        return tuple(entries)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise OptionError(f"group is '{pattern}'.", why=f"It is no regular expression: {error}.", hint=r"For example (\d+)_left.") from error  # fmt: skip
    found = [compiled.search(e.name) for e in entries]
    if compiled.groups < 1 or not any(found):
        raise OptionError(
            f"group='{pattern}' names no patient.",
            why="It has no bracket." if compiled.groups < 1 else f"It fits no file; the first is {entries[0].name}.",
            hint="Write a regular expression whose first bracket is the patient.",
        )
    return tuple(replace(e, group=m.group(1) or "" if m else "") for e, m in zip(entries, found, strict=True))


def _images(root: Path) -> list[Path]:
    """The image files below a folder, by path, without hidden ones."""
    found: list[Path] = []
    for path in visible(root):
        if path.is_dir() and not path.is_symlink():
            found += _images(path)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            found.append(path)
    return found


def _check_classes(names: Sequence[str], folders: Sequence[str], root: Path) -> None:
    for name in names:
        if name not in folders:
            raise OptionError(
                f"There is no folder of images for the class '{name}' in {root}.", hint=nearest(name, folders)
            )
    for name in folders:
        if name not in names:
            raise OptionError(
                f"The folder '{name}' in {root} is not a class.",
                why=f"Classes: {', '.join(names)}.",
                hint=nearest(name, names),
            )
