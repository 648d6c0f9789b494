"""`/v1/export`: what is shown, as a file: a picture, numbers, a volume, DICOM objects that lie on their source, or a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Form
from fastapi.responses import Response

from pellucid.app.answers import prediction
from pellucid.app.explaining import Shared, received
from pellucid.app.problems import answers
from pellucid.app.schemas import ExportForm, FileFormat
from pellucid.app.service import Explained, Service
from pellucid.data import dicom_file, dicom_results
from pellucid.data.nifti_map import nifti_map
from pellucid.errors import BadInput
from pellucid.explanation import Explanation
from pellucid.render.case_page import case_page
from pellucid.render.overlay import overlay, usual_width

router = APIRouter(prefix="/v1")

_SHARPER = 2.0  # times as wide as in a notebook


@dataclass(frozen=True)
class Format:
    """How one kind of file is named and written."""

    suffix: str
    media: str
    write: Callable[[Service, Explained, ExportForm], bytes]


def _png(service: Service, explained: Explained, form: ExportForm) -> bytes:
    stream = io.BytesIO()
    overlay(explained.one, width=usual_width(explained.one, _SHARPER)).save(stream, "PNG")
    return stream.getvalue()


def _npz(service: Service, explained: Explained, form: ExportForm) -> bytes:
    return npz(explained.one)


def npz(e: Explanation) -> bytes:
    """The arrays of `Explanation.save`, and as `explanation` the text of its JSON."""
    stream = io.BytesIO()
    with TemporaryDirectory(prefix="pellucid-") as name:
        folder = e.save(name)
        with np.load(folder / "explanation.npz", allow_pickle=False) as arrays:
            told = (folder / "explanation.json").read_text(encoding="utf-8")
            np.savez_compressed(stream, **arrays, explanation=np.array(told))
    return stream.getvalue()


def _nifti(service: Service, explained: Explained, form: ExportForm) -> bytes:
    return nifti_map(explained.one, explained.upload.sample.meta, form.grid)


def _parametric_map(service: Service, explained: Explained, form: ExportForm) -> bytes:
    with _sources(service, explained) as headers:
        return dicom_results.parametric_map(explained.one, explained.upload.sample.meta, headers)


def _segmentation(service: Service, explained: Explained, form: ExportForm) -> bytes:
    with _sources(service, explained) as headers:
        return dicom_results.segmentation(explained.one, explained.upload.sample.meta, headers)


def _pdf(service: Service, explained: Explained, form: ExportForm) -> bytes:
    told = prediction(explained.served, explained.one.logits)
    own, calibrated = (
        None if chances is None else dict(zip(told.classes, chances, strict=True))
        for chances in (told.probabilities, told.calibrated)
    )
    name, facts = explained.upload.sample.name, _facts(explained, form)
    return case_page(explained.one, name=name, answers=own, calibrated=calibrated, facts=facts)


def _facts(explained: Explained, form: ExportForm) -> Mapping[str, str]:
    served = explained.served
    certificate = getattr(served.network, "certificate", None)
    boxes = "; ".join(" ".join(f"{v:g}" for v in box) for box in form.erase)
    facts = {
        "model": served.id,
        "conversion": "" if certificate is None else str(certificate.kind),
        "probabilities": served.calibrated.note,
        "erased before it was run": boxes,
        "input": explained.input_id,
    }
    return {name: fact for name, fact in facts.items() if fact}


FORMATS: Mapping[FileFormat, Format] = {
    "png": Format(".png", "image/png", _png),
    "npz": Format(".npz", "application/octet-stream", _npz),
    "nifti": Format(".nii.gz", "application/gzip", _nifti),
    "dicom-pm": Format(".map.dcm", "application/dicom", _parametric_map),
    "dicom-seg": Format(".seg.dcm", "application/dicom", _segmentation),
    "pdf": Format(".pdf", "application/pdf", _pdf),
}
_FILE = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "/export",
    response_class=Response,
    responses={200: {"content": {f.media: _FILE for f in FORMATS.values()}}, **answers(404, 422)},
)
async def export(service: Shared, form: Annotated[ExportForm, Form(media_type="multipart/form-data")]) -> Response:
    """An explanation as a file, under a name made of its input's and its method's. DICOM takes a DICOM file to lie on."""
    with service.slots.one():
        question = await received(service, form)
        explained = await service.explained(question)
        kind = FORMATS[form.format]
        data = await service.writing(lambda: kind.write(service, explained, form))
    name = f"{plain_name(explained.upload.sample.name)}-{explained.one.method}{kind.suffix}"
    return Response(data, headers={"Content-Disposition": f'attachment; filename="{name}"'}, media_type=kind.media)


def plain_name(name: str) -> str:
    """A file's name without folder and suffix, of letters that every system takes."""
    stem = re.split(r"[/\\]", name)[-1].split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:80] or "input"


@contextmanager
def _sources(service: Service, explained: Explained) -> Iterator[Sequence[Any]]:
    """The headers of the input's DICOM files. Raises `BadInput` for an input that comes from none."""
    meta, id = explained.upload.sample.meta, explained.input_id
    if not {"frame", "slices"} & set(meta):
        raise BadInput(
            "The input is no DICOM file.",
            why="A DICOM result lies on the picture that it refers to.",
            hint="Export NIfTI or NPZ, or explain the DICOM file itself.",
        )
    with TemporaryDirectory(prefix="pellucid-") as folder:
        paths = meta.get("slices") or [meta["path"]]
        if not id.startswith("data-"):
            paths = [Path(folder) / "source.dcm"]
            paths[0].write_bytes(service.file(id).data)
        yield [dicom_file.read_header(path).dataset for path in paths]
