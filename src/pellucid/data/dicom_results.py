"""Maps as DICOM objects that lie on the pictures they explain: Parametric Maps and Segmentations.

Both have the source's own rows and columns, orientation, position and spacing, and refer to it; what the preparation cut
off the picture has no evidence. Written with highdicom, which checks what it writes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array

from pellucid import __version__, spatial
from pellucid.data import dicom_file
from pellucid.data.dicom_file import Frame
from pellucid.data.placement import Meta, in_file, seen
from pellucid.errors import BadInput, OptionError
from pellucid.explanation import Explanation

SHARE = 0.2  # of the strongest value: what belongs to a segment, as to the regions of a ledger
_SCHEME = "99PELLUCID"
_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
_REMOVED_HOW = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Rows", "Columns")


def in_source(e: Explanation, meta: Meta) -> Float[Array, "planes rows columns"]:
    """The map of one input at every pixel of its file, in the map's unit; 0 where the network has not looked.

    Interpolated between cells once, at the file's own resolution.
    """
    geometry = in_file(e.geometry, meta)
    values = spatial.upsample(e.map[0].detach().float().cpu(), geometry).where(seen(meta), torch.tensor(0.0))
    return values.numpy().reshape(-1, *geometry.input_size[-2:])


def parametric_map(e: Explanation, meta: Meta, sources: Sequence[Any]) -> bytes:
    """A Parametric Map: signed 32-bit floats that are real-world values as they stand, and refer to `sources`.

    meta: of the sample. sources: the headers of its files, in the order of the input's slices. Raises `BadInput` for
    sources that are incomplete, `OptionError` where highdicom is not installed.
    """
    hd = _require()
    values = in_source(e, meta)
    limit = float(np.abs(values).max())
    target = _line(e.target.describe(e.classes))
    unit = ("1", "UCUM", "no units") if e.complete else ("[arb'U]", "UCUM", "arbitrary unit")
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="evidence" if e.complete else _line(e.method, 16),
        lut_explanation=_line(f"{'parts of the logit' if e.in_logits else e.method}: {target}"),
        unit=hd.sr.CodedConcept(*unit),
        value_range=(float(values.min()), float(values.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=hd.sr.CodedConcept("evidence", _SCHEME, "Signed evidence for an answer"),
    )
    kind = partial(
        hd.pm.ParametricMap,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[_window(2 * limit or 1.0)],
        series_number=9001,
        series_description=_line(f"Evidence: {target}"),
    )
    made = _made(kind, e, meta, sources, values)
    made.Laterality = str(sources[0].get("Laterality") or sources[0].get("ImageLaterality") or "")
    return _encoded(made)


def _window(width: float) -> Any:
    """Around zero; of the exact kind, since the usual one is at least 1 wide."""
    hd = _require()
    return hd.VOILUTTransformation(window_center=0.0, window_width=width, voi_lut_function="LINEAR_EXACT")


def segmentation(e: Explanation, meta: Meta, sources: Sequence[Any], share: float = SHARE) -> bytes:
    """Two binary segments: what speaks for the target and what speaks against it.

    A pixel belongs to one where its evidence reaches `share` of the strongest in the picture. Else as `parametric_map`.
    """
    hd = _require()
    values = in_source(e, meta)
    least = max(share * float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
    pixels = np.stack([values >= least, values <= -least], -1).astype(np.uint8)
    target = _line(e.target.describe(e.classes))
    colours = {"for": (213, 94, 0), "against": (0, 114, 178)}
    segments = [
        _segment(k + 1, f"evidence {side} {target}", side, colours[side], e, share) for k, side in enumerate(colours)
    ]
    kind = partial(
        hd.seg.Segmentation,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        omit_empty_frames=False,
        series_number=9002,
        series_description=_line(f"Evidence, {share:.0%} of the strongest: {target}"),
    )
    return _encoded(_made(kind, e, meta, sources, pixels))


def _segment(number: int, label: str, side: str, rgb: tuple[int, int, int], e: Explanation, share: float) -> Any:
    hd = _require()
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="pellucid",
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        parameters={"method": e.method, "share": f"{share:g}"},
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=_line(label),
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=hd.sr.CodedConcept(f"evidence-{side}", _SCHEME, f"Evidence {side} the answer"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=CIELabColor.from_rgb(*rgb),
    )


def _made(kind: Callable[..., Any], e: Explanation, meta: Meta, sources: Sequence[Any], pixels: Array) -> Any:
    """The object, with what is told of every result."""
    hd = _require()
    with _refusing():
        headers = [_completed(source) for source in sources]
        return kind(
            source_images=headers,
            pixel_array=pixels,
            series_instance_uid=hd.UID(),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="pellucid",
            manufacturer_model_name=_line(str(e.provenance.get("network") or "network")),
            software_versions=__version__,
            device_serial_number="none",
            content_label="EVIDENCE",
            content_description=_line(f"{e.method}; not for diagnosis"),
            specific_character_set="ISO_IR 192",
            **_places(headers[0], meta),
        )


def _encoded(made: Any) -> bytes:
    stream = io.BytesIO()
    with _refusing():
        made.save_as(stream)
    return stream.getvalue()


@contextmanager
def _refusing() -> Iterator[None]:
    """highdicom and pydicom refuse incomplete sources in many ways; all are a source that cannot be used."""
    try:
        with dicom_file.quietly():
            yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            "No DICOM result can be written for this source.",
            why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            hint="Export NIfTI or NPZ instead, or complete the source's attributes.",
        ) from error


def _completed(source: Any) -> Any:
    """A header with what may be empty but has to be there, and a place."""
    missing = [name for name in _NEEDED if source.get(name) in (None, "")]
    if missing:
        raise BadInput(
            "The source cannot be referred to.", why=f"It has no {', '.join(missing)}.", hint="Export NIfTI or NPZ."
        )
    header = deepcopy(source)
    for name in _EMPTY:
        if name not in header:
            setattr(header, name, None)
    if header.get("PatientIdentityRemoved") == "YES" and not any(name in header for name in _REMOVED_HOW):
        header.DeidentificationMethod = "not told by the source"
    header.NumberOfFrames = frames = Frame(header).frames
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = _require().UID()
    if _require().spatial.get_image_coordinate_system(header) is None:
        _put_somewhere(header, frames)
    return header


def _put_somewhere(header: Any, frames: int) -> None:
    """Photographs and radiographs lie nowhere in the patient: theirs is a frame of reference of their own, from the first
    pixel on, in steps of the spacing where they tell one and of 1 mm where they do not.
    """
    hd = _require()
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing") or [1.0, 1.0]
    header.FrameOfReferenceUID = hd.UID()
    header.PixelSpacing, header.SliceThickness, header.ImageOrientationPatient = spacing, 1.0, [1, 0, 0, 0, 1, 0]
    if frames == 1:
        header.ImagePositionPatient = [0, 0, 0]
    shared = hd.PixelMeasuresSequence(pixel_spacing=[float(v) for v in spacing], slice_thickness=1.0)
    header.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=shared,
            PlaneOrientationSequence=hd.PlaneOrientationSequence("PATIENT", header.ImageOrientationPatient),
        )
    ]
    header.PerFrameFunctionalGroupsSequence = [
        _item(PlanePositionSequence=hd.PlanePositionSequence("PATIENT", [0, 0, k])) for k in range(frames)
    ]


def _item(**values: Any) -> Any:
    made = dicom_file.require().Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _places(header: Any, meta: Meta) -> dict[str, Any]:
    """Of a file with several frames: where the one that is explained lies, or all of a volume in the volume's order."""
    if header.NumberOfFrames == 1:
        return {}
    places = [np.array(Frame(header, k).geometry()["ImagePositionPatient"]) for k in range(header.NumberOfFrames)]
    direction = np.array(Frame(header).geometry()["ImageOrientationPatient"])
    normal = np.cross(direction[:3], direction[3:])
    chosen = sorted(places, key=lambda p: float(normal @ p)) if "slices" in meta else [places[meta["frame"]]]
    return {"plane_positions": [_require().PlanePositionSequence("PATIENT", p.tolist()) for p in chosen]}


def _line(text: str, most: int = 64) -> str:
    """A text as DICOM's short strings take it: no control characters, no backslash, at most 64 letters."""
    plain = "".join(c if c.isprintable() and c != "\\" else " " for c in text)
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"


def _require() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise OptionError(
            "DICOM results need highdicom.",
            why="It is not installed.",
            hint=f"Install the extra: {dicom_file.INSTALL}.",
        ) from error
    return highdicom
