"""DICOM trees, files and tables of files as pictures: one sample per file, or per frame where a file has several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy import ndarray as Array
from PIL import Image

from pellucid.data import dicom_file
from pellucid.data.csv_table import listed
from pellucid.data.dicom_file import SUFFIXES, Frame, has_magic, modality_values, oriented, read_frame, read_header
from pellucid.data.image_file import Picture, Preparation, check_options, prepared
from pellucid.data.image_set import Entry, ImageSet, visible
from pellucid.data.tree_labels import tree_labels
from pellucid.errors import BadInput, OptionError, nearest

Pair = tuple[float, float]
GROUPS = {"patient": "PatientID", "study": "StudyInstanceUID", "series": "SeriesInstanceUID"}


@dataclass(frozen=True)
class Scans(Preparation):
    """How a DICOM picture becomes an input: all of `Preparation`, and how stored values become grey ones.

    window: (low, high) in the values of the modality (Hounsfield units in CT) that become black and white; three such
    pairs give the three channels a window each. voi, where no window is given: "file" (the first look-up table or window
    of the file, or the range of the picture's own values), the number or the name of one of them, "range" (least to
    largest value) or "bits" (full range of the stored bits). frames: of files that hold several, "all" or "first".
    """

    window: Any = None
    voi: int | str = "file"
    frames: Literal["all", "first"] = "all"

    def __post_init__(self) -> None:
        pairs = _pairs(self.window)
        object.__setattr__(self, "window", None)
        super().__post_init__()
        object.__setattr__(self, "window", pairs[0] if pairs is not None and len(pairs) == 1 else pairs)
        if pairs is not None and len(pairs) not in (1, 1 if self.grey else 3):
            raise OptionError(
                f"There are {len(pairs)} windows.",
                why=f"An input has {1 if self.grey else 3} channels: one window for all, or one for each.",
                hint="Give window='[[-1000, 400], [-160, 240], [-500, 1300]]', for example.",
            )
        if self.frames not in ("all", "first"):
            raise OptionError(
                f"There is no choice of frames '{self.frames}'.", hint=nearest(str(self.frames), ("all", "first"))
            )

    def grey_values(self, frame: Frame, stored: Array) -> list[Array]:
        """The planes of the input from 0 to 1: one, or one per window."""
        if self.window is None:
            return [dicom_file.shown(frame, stored, self.voi)]
        values = modality_values(frame, stored)
        if not np.isfinite(values).all():
            raise BadInput("The picture holds values that are no numbers.", hint="Get the file again.")
        pairs = _pairs(self.window) or ()
        return [oriented(frame, np.clip((values - low) / (high - low), 0, 1)) for low, high in pairs]


def _pairs(window: Any) -> tuple[Pair, ...] | None:
    if window is None:
        return None
    rows = [window] if isinstance(window[0], int | float) else window
    pairs = tuple((float(p[0]), float(p[1])) for p in rows if len(p) == 2)
    if len(pairs) < len(rows) or not all(low < high for low, high in pairs):
        raise OptionError(
            f"window is {window!r}.", why="The low end must be below the high end.", hint="Give window='[low, high]'."
        )
    return pairs


@dataclass(frozen=True)
class DicomSet(ImageSet):
    """A data set of DICOM pictures. A bad file raises `BadInput` when it is read, not before.

    The samples' meta data keep what is needed to write results back: identities, orientation, position and spacing.
    """

    def _picture(self, entry: Entry) -> tuple[Picture, Mapping[str, Any]]:
        preparation: Any = self.preparation
        try:
            with dicom_file.quietly():
                frame, stored = read_frame(entry.path, entry.frame)
                planes = [stored] if stored.ndim == 3 else preparation.grey_values(frame, stored)
                told = frame.told()
            pictures = [Image.fromarray(p if p.ndim == 3 else p.astype(np.float32)) for p in planes]
            picture = prepared(pictures, preparation, entry.path)
        except (BadInput, OptionError):
            raise
        except Exception as error:  # attributes of any kind may be damaged
            raise dicom_file.broken(entry.path, error) from error
        layout = picture.layout
        place = {"scaled": layout.scaled, "corner": layout.corner, "size": layout.size}
        return picture, {**told, "frame": entry.frame, "placed": place}


def dicom(
    source: str | Path | Sequence[str | Path],
    *,
    labels: str | Path | None = "auto",
    classes: Sequence[str] | None = None,
    group: Literal["patient", "study", "series", "none"] = "patient",
    path: str = "",
    label: str | None = "",
    mask: str | None = "",
    boxes: str | None = "",
    name: str | None = "",
    mask_values: int | Sequence[int] | None = None,
    mask_absent: Literal["unknown", "empty"] = "unknown",
    negative: str | None = None,
    **options: Any,
) -> DicomSet:
    """The pictures of a tree of DICOM files, of a list of them, or of a table `dicom:TABLE.csv` with a column `path`.

    labels: "folder" (the first folder below the tree's root is the class), a CSV file with a column `label` and one of
    path, name, series or patient, None, or "auto": the folders where some of them hold more than one patient.
    group: what must not be split: the patient, or where a file names none its study or series. For a table: path,
    label, mask, boxes, name, mask_values, mask_absent, negative as of `csv_table`. Other options are those of `Scans`.

    Files without pictures (reports, plans, DICOMDIR) are left out and listed. Raises `BadInput` where there is no DICOM file,
    `OptionError` for labels that do not fit or where pydicom is not installed.
    """
    check_options(options, dicom, Scans)
    dicom_file.require()
    preparation = Scans(**options)
    if group not in (*GROUPS, "none"):
        raise OptionError(f"There is no group '{group}'.", hint=nearest(str(group), (*GROUPS, "none")))
    place = Path(source) if isinstance(source, str | Path) else None
    if place is not None and place.suffix.lower() in (".csv", ".tsv"):
        columns = {"path": path, "label": label, "mask": mask, "boxes": boxes, "group": "", "name": name}
        table = listed(place, columns, classes, mask_values, mask_absent, negative)
        entries, _ = _with_headers(table.entries, group, preparation, listed=True)
        return DicomSet(entries, table.classes, preparation, table.mask_values)
    found = files_of(source, "DICOM", is_dicom)
    entries, left_out = _with_headers(
        [Entry(p, n) for n, p in found.items()], group, preparation, listed=place is None or place.is_file()
    )
    if not entries:
        raise nothing(source, "DICOM", f"{len(left_out)} files hold no pictures.")
    known, names = tree_labels([dict(e.meta) for e in entries], labels, classes)
    labelled = tuple(replace(e, label=k, meta={}) for e, k in zip(entries, known, strict=True))
    return DicomSet(labelled, names, preparation, left_out=left_out)


def _with_headers(
    entries: Sequence[Entry], group: str, preparation: Scans, *, listed: bool
) -> tuple[tuple[Entry, ...], dict[str, str]]:
    """One entry per frame, with its group; and the files that hold no picture. A bad file stays, to be said when read."""
    made: list[Entry] = []
    left_out: dict[str, str] = {}
    for entry in entries:
        try:
            with dicom_file.quietly():
                frame = read_header(entry.path)
                count = 1 if preparation.frames == "first" else frame.frames
                held = {key: str(frame.get(attribute) or "") for key, attribute in GROUPS.items()}
                if frame.get("Rows") is None and not listed:
                    left_out[entry.name] = f"no picture: {frame.get('Modality') or 'of unknown modality'}"
                    continue
        except Exception:  # said when it is read
            count, held = 1, dict.fromkeys(GROUPS, "")
        made += _frames(entry, count, held, group)
    return tuple(made), left_out


def _frames(entry: Entry, count: int, held: Mapping[str, str], group: str) -> Iterator[Entry]:
    order = list(GROUPS)[list(GROUPS).index(group) :] if group in GROUPS else []
    own = entry.group or next((held[key] for key in order if held[key]), "")
    named = {"path": entry.name, "name": Path(entry.name).stem, "series": held["series"], "patient": held["patient"]}
    many = min(count, dicom_file.MOST_FRAMES)
    for k in range(many):
        name = entry.name if many == 1 else f"{entry.name}#{k:0{len(str(many - 1))}d}"
        yield replace(entry, name=name, group=own, frame=k, meta={**named, **entry.meta})


def is_dicom(path: Path) -> bool:
    """Whether a file is one of DICOM pictures or objects, by its name or its mark."""
    if path.name.upper() == "DICOMDIR":
        return False
    return path.suffix.lower() in SUFFIXES or has_magic(path)


def files_of(source: str | Path | Sequence[str | Path], kind: str, wanted: Any) -> dict[str, Path]:
    """The files of a tree by their path below it, one file, or those of a list. Raises `BadInput` where there is none."""
    if not isinstance(source, str | Path):
        paths = [Path(p) for p in source]
        names = [p.name for p in paths]
        return dict(zip(names if len(set(names)) == len(names) else map(str, paths), paths, strict=True))
    root = Path(source)
    if not root.is_dir():
        if not root.exists():
            raise BadInput(f"There is no file or folder {root}.", hint="Check the path.", path=root)
        return {root.name: root}
    found = {p.relative_to(root).as_posix(): p for p in walked(root) if wanted(p)}
    if not found:
        raise nothing(source, kind, "Looked at every file below it.")
    return found


def walked(root: Path) -> Iterator[Path]:
    """The files below a folder, by path, without hidden ones."""
    for path in visible(root):
        if path.is_dir() and not path.is_symlink():
            yield from walked(path)
        elif path.is_file():
            yield path


def nothing(source: Any, kind: str, why: str) -> BadInput:
    """What is said where a source has none of the files it should have."""
    return BadInput(f"There are no {kind} pictures in {source}.", why=why, hint="Check the path.")
