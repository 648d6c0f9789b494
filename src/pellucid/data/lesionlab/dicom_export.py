"""LesionLab as DICOM files of 12 bits, for whatever reads them: a table beside them tells labels, patients and masks."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pellucid import files
from pellucid.data import dicom_file
from pellucid.data.lesionlab.dataset import LesionLab
from pellucid.data.lesionlab.recipe import Recipe

BITS = 12
# Modality and storage class: photographs of the eye with 16 bits per colour, secondary captures, digital radiographs.
_STORED_AS = {
    "fundus": ("OP", "1.2.840.10008.5.1.4.1.1.77.1.5.2"),
    "oct": ("OPT", "1.2.840.10008.5.1.4.1.1.7"),
    "xray": ("DX", "1.2.840.10008.5.1.4.1.1.1.1"),
}
_GREY = {
    "PhotometricInterpretation": "MONOCHROME2", "RescaleIntercept": 0, "RescaleSlope": 1,
    "WindowCenter": 2 ** (BITS - 1), "WindowWidth": 2**BITS,
}  # fmt: skip
_COLOUR = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}


def write_dicom(data: LesionLab, folder: str | Path) -> Path:
    """Write every image as NAME.dcm, its mask as NAME.png, and `index.csv` (path,label,mask,group,name) that lists them.

    The values are those of the picture before normalisation, 0 to 4095, in grey or RGB. Equal data give equal bytes.
    Returns the path of the table. Raises `OptionError` without pydicom.
    """
    dicom_file.require()
    folder, rows = Path(folder), [["path", "label", "mask", "group", "name"]]
    for index in range(len(data)):
        recipe, sample = data.recipe(index), data[index]
        assert sample.mask is not None
        assert isinstance(sample.label, int)
        files.write_bytes(folder / f"{sample.name}.dcm", encoded(recipe))
        files.write_bytes(folder / f"{sample.name}.png", _png(sample.mask.numpy()))
        rows.append([f"{sample.name}.dcm", data.classes[sample.label], f"{sample.name}.png", sample.group, sample.name])
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return files.write_text(folder / "index.csv", table.getvalue())


def encoded(recipe: Recipe) -> bytes:
    """The picture as the bytes of a DICOM file."""
    pydicom = dicom_file.require()
    modality, storage = _STORED_AS[recipe.setting.kind]
    stored = np.rint(recipe.picture() * np.float32(2**BITS - 1)).astype("<u2").transpose(1, 2, 0)
    rows, columns, colours = stored.shape
    instance = _uid(recipe, recipe.name, sorted(recipe.without), recipe.marker, recipe.swapped)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, instance
    attributes: dict[str, Any] = {
        "SOPClassUID": storage, "SOPInstanceUID": instance,
        "StudyInstanceUID": _uid(recipe, recipe.group), "SeriesInstanceUID": _uid(recipe, recipe.group, "series"),
        "PatientID": recipe.group, "PatientName": "LesionLab^Synthetic", "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "Drawn: no patient was imaged",
        "Modality": modality, "SeriesDescription": "LesionLab: synthetic, not realistic medicine", "ImageComments": recipe.name,
        "Rows": rows, "Columns": columns, "BitsAllocated": 16, "BitsStored": BITS, "HighBit": BITS - 1, "PixelRepresentation": 0,
        "SamplesPerPixel": colours, **(_GREY if colours == 1 else _COLOUR),
        "PixelData": stored.tobytes(),
    }  # fmt: skip
    dataset = pydicom.dataset.Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.file_meta = meta
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _uid(recipe: Recipe, *parts: Any) -> str:
    """An identifier that is equal for equal things: a number of 128 bits under the root for such."""
    described = repr((recipe.setting, recipe.patient, parts))
    return f"2.25.{int(hashlib.sha256(described.encode()).hexdigest()[:32], 16)}"


def _png(mask: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
