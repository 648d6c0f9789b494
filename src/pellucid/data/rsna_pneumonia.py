"""Chest X-rays of the RSNA pneumonia detection challenge (2018): DICOM files, a table of boxes and one of classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid import files
from pellucid.data.csv_table import Table, read_table
from pellucid.data.dicom import DicomSet, Scans
from pellucid.data.dicom_file import require
from pellucid.data.image_file import check_options
from pellucid.data.image_set import Box, Entry
from pellucid.errors import BadInput, OptionError, nearest

BOXES, CLASSES_OF, IMAGES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv", "stage_2_train_images"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
TASKS: Mapping[str, Mapping[str, str]] = {
    "paper": {"Normal": "Normal", "Lung Opacity": "Lung Opacity"},
    "opacity": {"Normal": "no opacity", "No Lung Opacity / Not Normal": "no opacity", "Lung Opacity": "Lung Opacity"},
    "three": {name: name for name in CLASSES},
}


def rsna_pneumonia(source: str | Path, *, task: str = "opacity", **options: Any) -> DicomSet:
    """The part with published labels: `stage_2_train_labels.csv` (patientId, x, y, width, height, Target),
    `stage_2_detailed_class_info.csv` (patientId, class) and `stage_2_train_images/ID.dcm`.

    task: "opacity" (Lung Opacity against the two other classes), "paper" (against Normal alone, the rest left out, as in
    the SoftCAM paper) or "three". Boxes are the truth of Lung Opacity; the others have nothing to be found. The challenge's
    test part has no labels. A `patientId` names a picture, not a person: where the challenge's mapping to NIH file names
    (`pneumonia-challenge-dataset-mappings_2018.json`) lies in the folder, groups are NIH's patients, else pictures.
    Other options are those of `dicom`'s `Scans`. Raises `BadInput` where a table or the folder is not there.
    """
    check_options(options, rsna_pneumonia, Scans)
    require()
    preparation = Scans(**options)
    if task not in TASKS:
        raise OptionError(f"There is no task '{task}'.", hint=nearest(str(task), TASKS))
    root = Path(source)
    boxes, classes = _boxes(_table(root, BOXES, "x", "y", "width", "height", "Target")), _classes(root)
    if not (root / IMAGES).is_dir():
        raise BadInput(f"{root} has no folder {IMAGES}.", hint="Unpack the challenge's archive there.", path=root)
    renamed = TASKS[task]
    names = tuple(dict.fromkeys(renamed.values()))
    patients = _patients(root)
    entries = tuple(
        Entry(
            root / IMAGES / f"{key}.dcm", key, names.index(renamed[classes[key]]), patients.get(key, key),
            boxes=found, no_truth=not found, meta={"class": classes[key]},
        )
        for key, found in boxes.items() if classes[key] in renamed
    )  # fmt: skip
    return DicomSet(entries, names, preparation)


def _table(root: Path, name: str, *columns: str) -> Table:
    if not (root / name).is_file():
        raise BadInput(f"{root} has no {name}.", hint="Name the folder that holds the challenge's tables.", path=root)
    table = read_table(root / name)
    for column in ("patientId", *columns):
        if column not in table.header:
            raise OptionError(
                f"{name} has no column '{column}'.", why=f"Its columns: {', '.join(table.header)}.", path=table.source
            )
    return table


def _boxes(table: Table) -> dict[str, tuple[Box, ...]]:
    """Picture -> boxes (x0, y0, x1, y1), none where its Target is 0."""
    found: dict[str, tuple[Box, ...]] = {}
    for number, row in enumerate(table.rows):
        before = found.setdefault(row["patientId"], ())
        if row["Target"] == "0":
            continue
        try:
            x, y, width, height = (float(row[c]) for c in ("x", "y", "width", "height"))
        except ValueError as error:
            raise BadInput(
                f"{table.where(number)} has no box.", why=str(error), hint="Mend the row.", path=table.source
            ) from error
        found[row["patientId"]] = (*before, (x, y, x + width, y + height))
    return found


def _classes(root: Path) -> dict[str, str]:
    """Picture -> class; without the table of classes it is not known which of those without boxes are normal."""
    table = _table(root, CLASSES_OF, "class")
    found = {row["patientId"]: row["class"] for row in table.rows}
    for number, row in enumerate(table.rows):
        if row["class"] not in CLASSES:
            raise BadInput(
                f"{table.where(number)} has the class '{row['class']}'.",
                why=f"Known: {', '.join(CLASSES)}.",
                hint="Get the table again.",
                path=table.source,
            )
    listed = {row["patientId"] for row in read_table(root / BOXES).rows}
    missing = sorted(listed - set(found))
    if missing:
        raise BadInput(
            f"{CLASSES_OF} does not list {len(missing)} pictures, {missing[0]} among them.",
            hint="Get both tables of one stage.",
            path=table.source,
        )
    return found


def _patients(root: Path) -> dict[str, str]:
    """Picture -> NIH patient, from the first number of the NIH file name (00012345_007.png)."""
    path = root / MAPPING
    if not path.is_file():
        return {}
    try:
        return {str(row["subset_img_id"]): str(row["img_id"]).partition("_")[0] for row in files.read_json(path)}
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"{path} is not the challenge's mapping.",
            why=f"{type(error).__name__}: {error}",
            hint="Get it again, or take it away.",
            path=path,
        ) from error
