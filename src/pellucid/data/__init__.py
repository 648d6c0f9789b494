"""Readers: from files and generators to samples. Importing this package loads no torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.errors import BadInput, OptionError, nearest
from pellucid.registry import Leaf, ReaderRow

if TYPE_CHECKING:
    from pellucid.sample import Dataset

_PREPARATION = ("pellucid.data.image_file:Preparation",)

_SCANS = ("pellucid.data.dicom:Scans",)
_VOLUMES = ("pellucid.data.volume:Volumes",)

READERS: Mapping[str, ReaderRow] = {
    "csv_table": ReaderRow(
        "pellucid.data.csv_table:csv_table",
        "Images listed in a table, with masks, boxes and groups where known.",
        sources="TABLE.csv (path,label[,mask,boxes,group,name])",
        settings=_PREPARATION,
    ),
    "dicom": ReaderRow(
        "pellucid.data.dicom:dicom",
        "DICOM files, one sample per picture or frame, grouped by patient.",
        sources="FOLDER of DICOM files, SCAN.dcm, a list of them, or dicom:TABLE.csv",
        settings=_SCANS,
    ),
    "dicom_series": ReaderRow(
        "pellucid.data.dicom_series:dicom_series",
        "Series of DICOM slices as volumes.",
        sources="dicom_series:FOLDER",
        settings=_VOLUMES,
    ),
    "folder": ReaderRow(
        "pellucid.data.folder:folder",
        "One folder of images per class, also within folders train, val and test.",
        sources="FOLDER/[train/]CLASS/*.png|jpg|tif|webp|...",
        settings=_PREPARATION,
        parts=("train", "val", "test"),
    ),
    "image_set": ReaderRow(
        "pellucid.data.image_set:image_set",
        "Images without labels.",
        sources="IMAGE, a list of them, or a flat FOLDER",
        settings=_PREPARATION,
    ),
    "kaggle_dr": ReaderRow(
        "pellucid.data.kaggle_dr:kaggle_dr",
        "Kaggle diabetic retinopathy (EyePACS 2015) as published.",
        sources="kaggle_dr:FOLDER (trainLabels.csv, train/)",
        settings=_PREPARATION,
        parts=("train", "test"),
    ),
    "kermany_oct": ReaderRow(
        "pellucid.data.kermany_oct:kermany_oct",
        "Retinal OCT of Kermany et al. (2018) as published, grouped by patient.",
        sources="kermany_oct:FOLDER (train/NORMAL/NORMAL-1384-1.jpeg, test/)",
        settings=_PREPARATION,
        parts=("train", "val", "test"),
    ),
    "lesionlab": ReaderRow(
        "pellucid.data.lesionlab:lesionlab",
        "Synthetic images with exact lesion masks and counterfactuals.",
        sources="lesionlab:fundus, lesionlab:oct or lesionlab:xray",
        settings=("pellucid.data.lesionlab:LesionLab", "pellucid.data.lesionlab:Knobs"),
    ),
    "medmnist": ReaderRow(
        "pellucid.data.medmnist:medmnist",
        "MedMNIST in two and three dimensions, all its tasks.",
        sources="medmnist:NAME, or FILE.npz in that layout",
        settings=(*_PREPARATION, *_VOLUMES),
        parts=("train", "val", "test"),
    ),
    "nifti": ReaderRow(
        "pellucid.data.nifti:nifti",
        "NIfTI volumes with their place in the patient, and masks.",
        sources="FOLDER of .nii or .nii.gz, VOLUME.nii.gz, a list of them, or nifti:TABLE.csv",
        settings=_VOLUMES,
    ),
    "rsna_pneumonia": ReaderRow(
        "pellucid.data.rsna_pneumonia:rsna_pneumonia",
        "Chest X-rays with boxes of the RSNA challenge (2018) as published.",
        sources="rsna_pneumonia:FOLDER (stage_2_train_labels.csv, stage_2_train_images/)",
        settings=_SCANS,
    ),
    "ucr": ReaderRow(
        "pellucid.data.ucr:ucr",
        "Time series in the text formats of the UCR and UEA archives, also with several channels.",
        sources="SERIES.ts|arff, a table of numbers with the label first (.txt, .csv, .tsv), ucr:FILE, or a list of them",
        settings=("pellucid.data.ucr:Signals",),
    ),
}

_TABLES = (".csv", ".tsv")
_SERIES = (".ts", ".arff")
_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm")
_DICOM = (".dcm", ".dicom", ".ima")
_NIFTI = (".nii", ".nii.gz")
_LOOKED_AT = 1000  # files of a folder, to find out of what kind they are


def open_data(source: str | Path | Sequence[str | Path], **options: Any) -> Dataset:
    """The data set behind a source: `lesionlab:fundus`, a folder, a .csv table, image files, scans, time series, or a list.

    A folder is read by what is in it: pictures, DICOM files or NIfTI volumes. A name before a colon chooses the reader.

    A table is one of time series where its first line has at least three cells and nothing but numbers behind the first;
    any other lists images. `ucr:FILE` always names time series.

    Options are those of the reader (see `READERS`). Raises `BadInput` for a source that no reader knows and
    `OptionError` for an unknown option.
    """
    reader = READERS[reader_for(source)].load()
    place = parted(source)[1] if isinstance(source, str | Path) else ""
    parameters = inspect.signature(reader).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        for name in options:
            if name not in known:
                raise OptionError(f"The reader '{reader.__name__}' has no option '{name}'.", hint=nearest(name, known))
    dataset: Dataset = reader(place or source, **options)
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
        kinds = {"ucr" if _is_series(s) else _kind(Path(s)) for s in source}
        return kinds.pop() if len(kinds) == 1 else "image_set"
    prefix, place = parted(source)
    named = prefix.partition(":")[0]
    if named and not place:
        return named
    path = Path(place)
    if not path.exists():
        raise BadInput(
            f"There is no data source '{source}'.",
            why="It is no file, no folder and no reader's name.",
            hint=_suggest(path),
            path=path,
        )
    if named:
        return named
    if path.is_dir():
        return _kind_within(path)
    if _is_series(path):
        return "ucr"
    if path.suffix.lower() in _TABLES:
        return "csv_table"
    if path.suffix.lower() == ".npz":
        return "medmnist"
    if path.suffix.lower() in _IMAGES or _kind(path) != "image_set":
        return _kind(path)
    raise BadInput(
        f"No reader knows files like {path.name}.",
        why=f"Its suffix is '{path.suffix}'.",
        hint=f"Sources: {_sources()}.",
        path=path,
    )


def parted(source: str | Path) -> tuple[str, str]:
    """What a source says of its reader, and where its file is: ("ucr:", FILE), ("", PATH), or ("lesionlab:fundus", "")."""
    reader, colon, rest = str(source).partition(":")
    if reader == "lesionlab" or (reader == "medmnist" and colon and not Path(rest).suffix):
        return str(source), ""
    return (f"{reader}:", rest) if colon and reader in READERS else ("", str(source))


def _kind(path: Path) -> str:
    """The reader of a single file of pictures, by its name or its first bytes."""
    name = path.name.lower()
    if name.endswith(_NIFTI):
        return "nifti"
    return "dicom" if name.endswith(_DICOM) or (not name.endswith(_IMAGES) and _has_magic(path)) else "image_set"


def _kind_within(folder: Path) -> str:
    """The reader of a folder: that of its first file of a known kind; pictures where there is none."""
    for _, path in zip(range(_LOOKED_AT), _files_below(folder), strict=False):
        if path.name.lower().endswith(_IMAGES):
            break
        if _kind(path) != "image_set":
            return _kind(path)
    return "folder"


def _files_below(folder: Path) -> Iterator[Path]:
    try:
        inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        return  # the reader says so
    for path in inside:
        if path.is_dir() and not path.is_symlink():
            yield from _files_below(path)
        elif path.is_file():
            yield path


def _has_magic(path: Path) -> bool:
    """Whether a file is DICOM by the four letters behind its preamble."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _is_series(source: str | Path) -> bool:
    """Whether a file holds time series, by its name or, for a table, by its first line."""
    prefix, place = parted(source)
    path = Path(place)
    if prefix == "ucr:" or path.suffix.lower() in _SERIES:
        return True
    return path.suffix.lower() in (*_TABLES, ".txt") and path.is_file() and _all_numbers(path)


def _all_numbers(path: Path) -> bool:
    """Whether the first line of a table has at least three cells and nothing but numbers behind the first."""
    try:
        with path.open(encoding="latin-1") as stream:
            line = stream.readline(1 << 16)
    except OSError:
        return False
    separator = next((s for s in ",;\t" if s in line), None)
    cells = [cell.strip() for cell in line.split(separator)]
    whole = cells[1:] if line.endswith("\n") else cells[1:-1]
    try:
        return len([float(cell) for cell in whole if cell != "?"]) >= 2
    except ValueError:
        return False


def _sources() -> str:
    return "; ".join(row.sources for row in READERS.values())


def _suggest(path: Path) -> str:
    """The nearest name in the same folder, or what sources there are."""
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, names) if names else ""
    return hint if hint.startswith("Did") else f"Sources: {_sources()}."


__all__ = ["READERS", "open_data", "options_of", "parted", "reader_for"]
