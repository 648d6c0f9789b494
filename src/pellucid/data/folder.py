"""A folder with one folder of images per class; or a flat folder of images without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.data.image_file import SUFFIXES, preparation_from
from pellucid.data.image_set import Entry, ImageSet, image_set, visible
from pellucid.errors import BadInput, OptionError, nearest


def folder(source: str | Path, *, classes: Sequence[str] | None = None, **options: Any) -> ImageSet:
    """Images labelled by the folder they lie in, at any depth; classes are sorted by name, or given in order by `classes`.

    Hidden files and files without an image's suffix are ignored. A folder that holds images and no folder with
    images is read without labels. Other options are those of `Preparation`. Raises `BadInput` for a missing or empty folder
    and `OptionError` for a class without folder.
    """
    root = Path(source)
    if not root.is_dir():
        raise BadInput(f"There is no folder {source}.", hint="Check the path.", path=root)
    members = {p.name: found for p in visible(root) if p.is_dir() and (found := _images(p))}
    loose = [p for p in visible(root) if p.is_file() and p.suffix.lower() in SUFFIXES]
    if members and loose:
        raise BadInput(
            f"{source} holds images both in folders and beside them.",
            why=f"{len(loose)} images, {loose[0].name} among them, have no class.",
            hint="Move them into a class folder or elsewhere.",
            path=root,
        )
    preparation = preparation_from(options, folder)
    if classes is None and not members:
        return image_set(root, **options)
    names = tuple(classes) if classes is not None else tuple(members)
    _check_classes(names, tuple(members), root)
    entries = [Entry(p, p.relative_to(root).as_posix(), label=k) for k, name in enumerate(names) for p in members[name]]
    return ImageSet(tuple(entries), names, preparation)


def _images(root: Path) -> list[Path]:
    """The image files below a folder, by path, without hidden ones."""
    found: list[Path] = []
    for path in visible(root):
        if path.is_dir() and not path.is_symlink():
            found += _images(path)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            found.append(path)
    return found


def _check_classes(names: tuple[str, ...], folders: tuple[str, ...], root: Path) -> None:
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
