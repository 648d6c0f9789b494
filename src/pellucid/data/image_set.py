"""Image files as a data set: what the readers of folders, lists and tables have in common."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid import files
from pellucid.data.image_file import (
    SUFFIXES,
    Picture,
    Preparation,
    place_boxes,
    preparation_from,
    read_mask,
    read_picture,
)
from pellucid.errors import BadInput
from pellucid.sample import Facts, Sample

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Entry:
    """One file and what is known about it.

    label: class index or None. no_truth: nothing is there to be found. frame: which one of a file that holds several.
    """

    path: Path
    name: str
    label: int | None = None
    group: str = ""
    mask: Path | None = None
    boxes: tuple[Box, ...] = ()
    no_truth: bool = False
    meta: Mapping[str, str] = field(default_factory=dict)
    frame: int = 0


@dataclass(frozen=True)
class ImageSet:
    """A data set of image files, read when asked for. A bad file raises `BadInput` when it is read, not before.

    An empty group means that nothing is known: splits then treat the file as a group of its own.
    parts: the published split, name -> indices, where the entries are more than one part of it. left_out: files that
    belong to the source and hold no picture, and why.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...] = ()
    preparation: Preparation = field(default_factory=Preparation)
    mask_values: tuple[int, ...] | None = None
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def laterality(self) -> bool:
        """Whether the classes are sides, so that a picture turned round would be of another class."""
        return sides_in(self.classes)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        picture, found = self._picture(entry)
        return Sample(
            input=picture.input,
            label=entry.label,
            mask=self._mask(entry, picture.layout),
            name=entry.name,
            group=entry.group,
            image=picture.image,
            meta={"path": str(entry.path), "file_size": picture.layout.file, **found, **entry.meta},
        )

    def _picture(self, entry: Entry) -> tuple[Picture, Mapping[str, Any]]:
        """The picture, and what its file says of it."""
        return read_picture(entry.path, self.preparation), {}

    def _mask(self, entry: Entry, layout: Any) -> Tensor | None:
        parts = []
        if entry.mask is not None:
            parts.append(read_mask(entry.mask, layout, self.mask_values))
        if entry.boxes:
            parts.append(place_boxes(entry.boxes, layout))
        if entry.no_truth and not parts:
            width, height = layout.size
            parts.append(torch.zeros(height, width, dtype=torch.bool))
        return torch.stack(parts).any(0) if parts else None

    def facts(self, index: int) -> Facts:
        entry = self.entries[index]
        return Facts(entry.name, entry.label, entry.group)

    def check(self) -> list[BadInput]:
        """Read every file and return what was wrong with the bad ones."""
        bad = []
        for index in range(len(self)):
            try:
                self[index]
            except BadInput as error:
                bad.append(error)
        return bad

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the files' bytes, the labels and the preparation. Where the files lie does not matter."""
        digest = hashlib.sha256(json.dumps([self.classes, asdict(self.preparation), self.mask_values]).encode())
        content = lru_cache(maxsize=2)(files.sha256)  # the frames of one file stand side by side
        for entry in self.entries:
            known = [entry.name, entry.label, entry.group, entry.boxes, entry.no_truth, dict(entry.meta)]
            contents = [content(p) if p is not None and p.is_file() else "" for p in (entry.path, entry.mask)]
            digest.update(json.dumps([known, contents], sort_keys=True).encode())
        return digest.hexdigest()


def sides_in(classes: Sequence[str]) -> bool:
    """Whether class names speak of left or right."""
    return any(re.search(r"(?<![a-z])(left|right)(?![a-z])", name.lower()) for name in classes)


def image_set(source: str | Path | Sequence[str | Path], **options: Any) -> ImageSet:
    """Unlabelled images: one file, a list of files, or the files of one folder. Options are those of `Preparation`.

    Raises `BadInput` where there is no image file; a listed file that is missing or bad raises when it is read.
    """
    preparation = preparation_from(options, image_set)
    if not isinstance(source, str | Path):
        paths = [Path(p) for p in source]
        names = [p.name for p in paths]
        names = names if len(set(names)) == len(names) else [str(p) for p in source]
    elif Path(source).is_dir():
        paths = [p for p in visible(Path(source)) if p.suffix.lower() in SUFFIXES and p.is_file()]
        names = [p.name for p in paths]
    else:
        paths, names = [Path(source)], [Path(source).name]
    if not paths:
        raise BadInput(
            f"There are no images in {source}.",
            why=f"Looked for {', '.join(sorted(SUFFIXES))}.",
            hint="Check the path.",
        )
    return ImageSet(tuple(Entry(p, n) for p, n in zip(paths, names, strict=True)), preparation=preparation)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without hidden files."""
    try:
        return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)
    except OSError as error:
        raise BadInput(
            f"The folder {folder} cannot be read.",
            why=str(error),
            hint="Check the path and its permissions.",
            path=folder,
        ) from error
