"""Readers: from files and generators to samples. Importing this package loads no torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.errors import BadInput, OptionError, nearest
from pellucid.registry import Leaf, ReaderRow

if TYPE_CHECKING:
    from pellucid.sample import Dataset

_PREPARATION = ("pellucid.data.image_file:Preparation",)

READERS: Mapping[str, ReaderRow] = {
    "csv_table": ReaderRow(
        "pellucid.data.csv_table:csv_table",
        "Images listed in a table, with masks, boxes and groups where known.",
        sources="TABLE.csv (path,label[,mask,boxes,group,name])",
        settings=_PREPARATION,
    ),
    "folder": ReaderRow(
        "pellucid.data.folder:folder",
        "One folder of images per class.",
        sources="FOLDER/CLASS/*.png|jpg|tif|webp|...",
        settings=_PREPARATION,
    ),
    "image_set": ReaderRow(
        "pellucid.data.image_set:image_set",
        "Images without labels.",
        sources="IMAGE, a list of them, or a flat FOLDER",
        settings=_PREPARATION,
    ),
    "lesionlab": ReaderRow(
        "pellucid.data.lesionlab:lesionlab",
        "Synthetic images with exact lesion masks and counterfactuals.",
        sources="lesionlab:fundus",
        settings=("pellucid.data.lesionlab:LesionLab", "pellucid.data.lesionlab:Knobs"),
    ),
}

_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm")


def open_data(source: str | Path | Sequence[str | Path], **options: Any) -> Dataset:
    """The data set behind a source: `lesionlab:fundus`, a folder, a .csv table, an image file or a list of them.

    Options are those of the reader (see `READERS`). Raises `BadInput` for a source that no reader knows and
    `OptionError` for an unknown option.
    """
    reader = READERS[reader_for(source)].load()
    parameters = inspect.signature(reader).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        for name in options:
            if name not in known:
                raise OptionError(f"The reader '{reader.__name__}' has no option '{name}'.", hint=nearest(name, known))
    dataset: Dataset = reader(source, **options)
    return dataset


def options_of(source: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """Every option that `open_data` takes for this source."""
    row = READERS[reader_for(source)]
    own = [p.name for p in inspect.signature(row.load()).parameters.values() if p.kind is p.KEYWORD_ONLY]
    more = [f.name for path in row.settings for f in fields(Leaf(path, "").load())]
    return tuple(dict.fromkeys(name for name in own + more if name != "kind"))  # the kind is part of the source


def reader_for(source: str | Path | Sequence[str | Path]) -> str:
    """The registry key of the reader that a source needs."""
    if not isinstance(source, str | Path):
        return "image_set"
    if str(source).partition(":")[0] == "lesionlab":
        return "lesionlab"
    path = Path(source)
    if path.is_dir():
        return "folder"
    if not path.exists():
        raise BadInput(
            f"There is no data source '{source}'.",
            why="It is no file, no folder and no reader's name.",
            hint=_suggest(path),
            path=path,
        )
    if path.suffix.lower() in (".csv", ".tsv"):
        return "csv_table"
    if path.suffix.lower() in _IMAGES:
        return "image_set"
    raise BadInput(
        f"No reader knows files like {path.name}.",
        why=f"Its suffix is '{path.suffix}'.",
        hint=f"Sources: {_sources()}.",
        path=path,
    )


def _sources() -> str:
    return "; ".join(row.sources for row in READERS.values())


def _suggest(path: Path) -> str:
    """The nearest name in the same folder, or what sources there are."""
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, names) if names else ""
    return hint if hint.startswith("Did") else f"Sources: {_sources()}."


__all__ = ["READERS", "open_data", "options_of", "reader_for"]
