"""DICOM files made ready, safely: from stored values to grey values, as the file says or as the user asks.

Files come from outside. Whatever is in them, the result is finite values or `BadInput`: sizes that a file declares are
checked against limits and against its length before anything is decoded, and every failure of pydicom is a bad file.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray as Array

from pellucid.data.image_file import MOST_PIXELS
from pellucid.errors import BadInput, OptionError, PellucidError, nearest

SUFFIXES = (".dcm", ".dicom", ".ima")
MOST_BYTES = 1 << 31  # of a file
MOST_FRAMES = 1 << 16
INSTALL = "pip install 'pellucid[medical]'"

_DEFLATED = b"1.2.840.10008.1.2.1.99"
# What decodes the syntaxes that pydicom alone does not.
_DECODERS = {
    "JPEG Lossless": "pylibjpeg-libjpeg", "JPEG Extended": "pylibjpeg-libjpeg", "JPEG Baseline": "pylibjpeg-libjpeg", "JPEG-LS": "pyjpegls",
    "JPEG 2000": "pylibjpeg-openjpeg", "High-Throughput": "pylibjpeg-openjpeg", "RLE": "pylibjpeg-rle",
}  # fmt: skip
_GEOMETRY = {
    "ImageOrientationPatient": "PlaneOrientationSequence", "ImagePositionPatient": "PlanePositionSequence", "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence", "SpacingBetweenSlices": "PixelMeasuresSequence",
}  # fmt: skip
_TOLD = (
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID", "Modality", "Laterality",
    "ImageLaterality", "ViewPosition", "PhotometricInterpretation", "ImagerPixelSpacing",
)  # fmt: skip


def has_magic(path: Path) -> bool:
    """Whether a file has the four letters of DICOM behind a preamble of 128 bytes."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def require() -> Any:
    """The package pydicom. Raises `OptionError` where it is not installed."""
    try:
        import pydicom
    except ImportError as error:
        raise OptionError(
            "DICOM files need pydicom.", why="It is not installed.", hint=f"Install the extra: {INSTALL}."
        ) from error
    return pydicom


class Frame:
    """One frame of a file: its attributes, those of enhanced files in their functional groups included.

    dataset: the file's attributes without the pixels. index: of the frame.
    """

    def __init__(self, dataset: Any, index: int = 0) -> None:
        self.dataset = dataset
        self.index = index

    def get(self, name: str, group: str = "") -> Any:
        """The value of an attribute, None where there is none. group: the functional group that may hold it."""
        found = self.dataset.get(name)
        for where in self._groups(group) if found is None and group else ():
            found = where.get(name)
            if found is not None:
                break
        return None if found == "" else found

    def _groups(self, group: str) -> Iterator[Any]:
        per_frame = self.dataset.get("PerFrameFunctionalGroupsSequence") or []
        shared = self.dataset.get("SharedFunctionalGroupsSequence") or []
        for item in [*per_frame[self.index : self.index + 1], *shared[:1]]:
            yield from (item.get(group) or [])[:1]

    def whole(self, name: str, default: int) -> int:
        value = self.get(name)
        return default if value is None else int(value)

    @property
    def frames(self) -> int:
        return max(1, self.whole("NumberOfFrames", 1))

    def per_frame(self, name: str, group: str) -> Any:
        """The value that this frame has for itself, None where the file says it once for all."""
        items = (self.dataset.get("PerFrameFunctionalGroupsSequence") or [])[self.index : self.index + 1]
        return next((found[0].get(name) for item in items if (found := item.get(group))), None)

    def geometry(self) -> dict[str, Any]:
        """Orientation, position (mm, towards left, back and head) and spacing (mm between rows, columns) as plain numbers."""
        found = {name: self.get(name, group) for name, group in _GEOMETRY.items()}
        return {name: _plain(value) for name, value in found.items() if value is not None}

    def told(self) -> dict[str, Any]:
        """What is kept with a sample, so that results can be written back: identities, modality, laterality, geometry."""
        named = {name: str(value) for name in _TOLD if (value := self.get(name)) not in (None, [])}
        return {**named, **self.geometry()}


@contextmanager
def quietly() -> Iterator[None]:
    """Without pydicom's warnings: what it warns of is either readable all the same or fails."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def read_header(path: str | Path) -> Frame:
    """The attributes of a file's first frame, without its pixels. Raises `BadInput` for what is no DICOM file."""
    with _opened(path) as stream:
        return Frame(_header(stream, path))


def read_frame(path: str | Path, index: int = 0) -> tuple[Frame, Shaped[Array, "rows columns *colours"]]:
    """One frame with its stored values: `(rows, columns)` grey, or `(rows, columns, 3)` RGB.

    Any transfer syntax that pydicom and its plugins decode. Raises `BadInput` for a file without pixels, one whose
    declared size is too large or more than it holds, a syntax without decoder, and a damaged file.
    """
    pydicom = require()
    with _opened(path) as stream:
        frame = Frame(_header(stream, path), index)
        _check_declared(frame, path)
        syntax = frame.dataset.file_meta.TransferSyntaxUID
        _check_decoder(syntax, path)
        if syntax.is_encapsulated:
            _check_codestream(stream, frame, path)
        else:
            _check_length(stream, frame, path, syntax.is_deflated)
        values = _decoded(stream, frame, path)
        if frame.get("PhotometricInterpretation") == "PALETTE COLOR":
            values = pydicom.pixels.apply_color_lut(values, frame.dataset)
            return frame, _eight_bits(values[..., :3], 8 * values.dtype.itemsize)
        if values.ndim == 3:
            return frame, _eight_bits(values, frame.whole("BitsStored", 8 * values.dtype.itemsize))
        if values.ndim != 2:
            raise ValueError(f"its pixels have the shape {values.shape}")
        return frame, values


def _decoded(stream: _Bounded, frame: Frame, path: str | Path) -> Array:
    pydicom = require()
    syntax = frame.dataset.file_meta.TransferSyntaxUID
    source: Any = stream
    if frame.frames == 1 or syntax.is_deflated:  # a whole file is read more tolerantly than one frame out of a stream
        stream.seek(0)
        source = pydicom.dcmread(stream, force=True)
        source.file_meta = frame.dataset.file_meta
    try:
        values: Array = pydicom.pixels.pixel_array(source, index=frame.index)
        return values
    except BaseException as error:
        if not isinstance(error, RuntimeError) and type(error).__name__ != "PanicException":
            raise  # the latter is what decoders written in Rust stop with: no `Exception`
        raise BadInput(
            f"{path} could not be decoded.",
            why=f"{syntax.name}: {' '.join(str(error).split())[:200]}",
            hint=f"Get the file again, or install another decoder: pip install {_decoder_for(syntax.name)}.",
            path=path,
        ) from error


@dataclass(frozen=True)
class Window:
    """What becomes black and white: `centre` and `width` by the standard's `function`, in the values of the modality."""

    centre: float
    width: float
    function: str = "LINEAR"
    name: str = ""

    def __call__(self, values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """0 (black) to 1 (white): DICOM part 3, C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT)."""
        if self.function == "SIGMOID" and self.width > 0:
            return cast(Array, 1 / (1 + np.exp(np.clip(-4 * (values - self.centre) / self.width, -700, 700))))
        centre, width = self.centre, self.width
        if self.function == "LINEAR" and width >= 1:
            centre, width = centre - 0.5, width - 1
            if width == 0:
                return (values > centre).astype(np.float64)
        elif self.function != "LINEAR_EXACT" or width <= 0:
            raise ValueError(f"its window {self.function} of width {self.width:g} is none")
        return np.clip((values - centre) / width + 0.5, 0, 1)


@dataclass(frozen=True)
class Lut:
    """A look-up table: entry 0 stands for the value `first` and all below; full: the value that is white."""

    entries: Float[Array, "entries"]
    first: int
    full: float
    name: str = ""

    def values(self, stored: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        index = np.clip(np.rint(stored - self.first), 0, len(self.entries) - 1).astype(np.int64)
        return cast(Array, self.entries[index])

    def __call__(self, values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """0 (black) to 1 (white)."""
        return np.clip(self.values(values) / self.full, 0, 1)


def modality_values(frame: Frame, stored: Shaped[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """What the stored values stand for (Hounsfield units, for example): the modality's table, or slope and intercept."""
    values = stored.astype(np.float64)
    tables = frame.get("ModalityLUTSequence")
    if tables:
        return _lut(tables[0], frame).values(values)
    group = "PixelValueTransformationSequence"
    slope, intercept = frame.get("RescaleSlope", group), frame.get("RescaleIntercept", group)
    return values * float(1 if slope is None else slope) + float(0 if intercept is None else intercept)


def shown(frame: Frame, stored: Shaped[Array, "rows columns"], voi: int | str = "file") -> Float[Array, "rows columns"]:
    """Grey values from 0 (black) to 1 (white), as the file asks to be shown.

    voi: "file": the first of the file's tables and windows, or the range of the frame's own values where it has none;
    a number or a name: that one of them (tables count first); "range": from the least to the largest value of the frame;
    "bits": the full range of the bits that are stored. MONOCHROME1 is turned round, so that white is always 1.
    Raises `BadInput` for a table or window that the file does not have.
    """
    values = modality_values(frame, stored)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are no numbers")
    return oriented(frame, _chosen(frame, stored, values, voi)(values))


def oriented(frame: Frame, grey: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """The same with 1 for white, whichever way the file has it."""
    return 1 - grey if frame.get("PhotometricInterpretation") == "MONOCHROME1" else grey


def views(frame: Frame) -> list[Window | Lut]:
    """The tables and then the windows by which the file asks to be shown, in its order."""
    tables = [_lut(item, frame) for item in frame.get("VOILUTSequence", "FrameVOILUTSequence") or []]
    group = "FrameVOILUTSequence"
    centres, widths = (_many(frame.get(name, group)) for name in ("WindowCenter", "WindowWidth"))
    names = [str(n) for n in _many(frame.get("WindowCenterWidthExplanation", group))]
    function = str(frame.get("VOILUTFunction", group) or "LINEAR").upper()
    count = min(len(centres), len(widths))
    names += [""] * (count - len(names))
    return [*tables, *(Window(float(centres[k]), float(widths[k]), function, names[k]) for k in range(count))]


def _chosen(
    frame: Frame, stored: Shaped[Array, "rows columns"], values: Float[Array, "rows columns"], voi: int | str
) -> Any:
    known = [] if voi in ("range", "bits") else views(frame)
    if voi == "file" and known:
        return known[0]
    if voi == "bits":
        return _between(*modality_values(frame, np.array(_limits(stored, frame))))
    if voi in ("file", "range"):
        padding = frame.get("PixelPaddingValue")
        inside = values if padding is None else values[stored != padding]
        return _between(inside.min(), inside.max()) if inside.size else _between(0, 0)
    names = [view.name for view in known]
    if isinstance(voi, int) and voi < len(known):
        return known[voi]
    if isinstance(voi, str) and voi in names:
        return known[names.index(voi)]
    raise BadInput(
        f"The file has no window or table {voi!r}.",
        why=f"It has {len(known)}: {', '.join(f'{k} {n}'.strip() for k, n in enumerate(names)) or 'none'}.",
        hint=nearest(str(voi), [*filter(None, names), "file", "range", "bits"]),
    )


def _between(low: float, high: float) -> Any:
    """Black at `low` and white at `high`; a picture of one value is black."""
    low, high = min(low, high), max(low, high)
    return lambda values: np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def _limits(stored: Array, frame: Frame) -> tuple[int, int]:
    bits = frame.whole("BitsStored", 8 * stored.dtype.itemsize)
    signed = frame.whole("PixelRepresentation", 0)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _lut(item: Any, frame: Frame) -> Lut:
    """A table of a modality or VOI LUT sequence: DICOM part 3, C.11.1.1 and C.11.2.1.1."""
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count or 1 << 16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if frame.dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data[: 2 * count], f"{order}u2")
    entries = np.asarray(data, np.float64).reshape(-1)[:count]
    if not 8 <= bits <= 16 or not len(entries):
        raise ValueError(f"its look-up table has {len(entries)} entries of {bits} bits")
    if first > 32767 and frame.whole("PixelRepresentation", 0):
        first -= 1 << 16  # written as unsigned in files of signed values
    return Lut(entries, first, float(2**bits - 1), str(item.get("LUTExplanation") or ""))


def _many(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if hasattr(value, "append") or isinstance(value, tuple) else [value]


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if hasattr(value, "append") else float(value)


def _eight_bits(values: Array, bits: int) -> Array:
    if values.dtype == np.uint8 and bits == 8:
        return values
    scaled: Array = np.rint(values.astype(np.float64) * (255 / (2**bits - 1)))
    return scaled.clip(0, 255).astype(np.uint8)


# --- what is checked before anything is decoded --------------------------------------------------------------------


class _Bounded(io.BufferedReader):
    """A file of which nobody can ask for more bytes than are left: a declared length is no reason to allocate it."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.length = self.seek(0, io.SEEK_END)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self.length - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def _opened(path: str | Path) -> Iterator[_Bounded]:
    """A file of bearable length; whatever fails inside is reported as a bad file."""
    require()
    source = Path(path)
    try:
        with quietly():
            if not source.is_file():
                raise BadInput(f"There is no file {path}.", hint="Check the path.", path=path)
            if source.stat().st_size > MOST_BYTES:
                raise BadInput(
                    f"{path} is too large.", why=f"At most {MOST_BYTES >> 30} GiB are read.", hint="Split it.", path=path
                )  # fmt: skip
            with _Bounded(source) as stream:
                yield stream
    except PellucidError as error:
        error.path = error.path or str(path)
        raise
    except Exception as error:  # pydicom and the decoders raise many types on damaged files
        raise broken(path, error) from error


def broken(path: str | Path, error: Exception) -> BadInput:
    """What is said of a file whose reading failed in an unforeseen way."""
    return BadInput(
        f"{path} could not be read as DICOM.",
        why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        hint="Get the file again, or remove it.",
        path=path,
    )


def _header(stream: _Bounded, path: str | Path) -> Any:
    pydicom = require()
    head = stream.read(1 << 12)
    magic = head[128:132] == b"DICM"
    if magic and _DEFLATED in head:
        _check_inflated(stream, path)
    stream.seek(0)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=not magic)
    if not magic and "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise BadInput(
            f"{path} is not a DICOM file.",
            why="Its content has neither the mark of one nor the attributes.",
            hint="Remove it, or name another reader.",
            path=path,
        )
    if dataset.file_meta.get("TransferSyntaxUID") is None:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian  # the standard's default
    return dataset


def _check_inflated(stream: _Bounded, path: str | Path) -> None:
    """Refuse a few bytes that unpack to gigabytes: pydicom unpacks them at once."""
    from pydicom.filereader import _read_file_meta_info  # where the packed part begins

    stream.seek(132)
    _read_file_meta_info(stream)
    unpack, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    feed = stream.read(1 << 16)
    while feed and not unpack.eof:
        size += len(unpack.decompress(feed, 1 << 20))
        feed = unpack.unconsumed_tail or stream.read(1 << 16)
        if size > 8 * MOST_PIXELS:
            raise _too_large(path, f"It unpacks to more than {8 * MOST_PIXELS >> 20} MiB.")


def _check_declared(frame: Frame, path: str | Path) -> None:
    for name in ("Rows", "Columns", "BitsAllocated"):
        if frame.get(name) is None:
            kind = frame.get("Modality") or "unknown"
            raise BadInput(
                f"{path} holds no picture.",
                why=f"It has no {name}; its modality is {kind}.",
                hint="Reports, plans and structures have none: leave the file out.",
                path=path,
            )
    rows, columns = frame.whole("Rows", 0), frame.whole("Columns", 0)
    if rows < 1 or columns < 1:
        raise BadInput(f"{path} has no pixels.", why=f"It declares {rows} x {columns}.", hint="Remove it.", path=path)
    if rows * columns > MOST_PIXELS or frame.frames > MOST_FRAMES:
        raise _too_large(path, f"It declares {frame.frames:,} x {rows:,} x {columns:,} pixels.")
    if frame.whole("SamplesPerPixel", 1) not in (1, 3):
        raise BadInput(
            f"{path} has {frame.get('SamplesPerPixel')} colours.", why="1 or 3 are read.", hint="Convert it.", path=path
        )
    stored = frame.whole("BitsStored", frame.whole("BitsAllocated", 8))
    if frame.whole("HighBit", stored - 1) != stored - 1:
        raise BadInput(
            f"{path} keeps its values in upper bits.",
            why=f"Its high bit is {frame.get('HighBit')}, of {stored} bits stored; the standard has given that up.",
            hint="Convert it first.",
            path=path,
        )
    if not 0 <= frame.index < frame.frames:
        raise BadInput(
            f"{path} has no frame {frame.index}.", why=f"It has {frame.frames}.", hint="Check the number.", path=path
        )


def _too_large(path: str | Path, why: str) -> BadInput:
    return BadInput(
        f"{path} is too large.",
        why=f"{why} At most {MOST_PIXELS // 10**6} million pixels and {MOST_FRAMES:,} frames are read.",
        hint="Scale it down first.",
        path=path,
    )


def _check_decoder(syntax: Any, path: str | Path) -> None:
    try:
        able = require().pixels.get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise BadInput(
            f"{path} is written in a way that nothing here reads.",
            why=f"Its transfer syntax is {syntax.name}.",
            hint="Convert it to Explicit VR Little Endian first.",
            path=path,
        ) from error
    if not able:
        raise BadInput(
            f"{path} needs a decoder that is not installed.",
            why=f"Its transfer syntax is {syntax.name}.",
            hint=f"Install it: pip install {_decoder_for(syntax.name)}.",
            path=path,
        )


def _decoder_for(name: str) -> str:
    return next((package for start, package in _DECODERS.items() if name.startswith(start)), "'pylibjpeg[all]'")


def _frame_bytes(frame: Frame) -> int:
    pixels = frame.whole("Rows", 0) * frame.whole("Columns", 0) * frame.whole("SamplesPerPixel", 1)
    if frame.get("PhotometricInterpretation") == "YBR_FULL_422":
        pixels = pixels * 2 // 3
    return pixels * frame.whole("BitsAllocated", 8) // 8


def _check_length(stream: _Bounded, frame: Frame, path: str | Path, deflated: bool) -> None:
    """A frame that is not compressed takes the bytes it takes."""
    at, size = stream.tell(), _frame_bytes(frame)
    if not deflated and at + (frame.index + 1) * size > stream.length + size // 8 + 8:
        raise BadInput(
            f"{path} ends before its pixels do.",
            why=f"A frame takes {size:,} bytes; {max(0, stream.length - at):,} are left for {frame.frames}.",
            hint="Get the file again.",
            path=path,
        )


def _check_codestream(stream: _Bounded, frame: Frame, path: str | Path) -> None:
    """Refuse a compressed frame whose own head declares another size than the file: decoders allocate by it."""
    from pydicom.encaps import get_frame

    start = stream.tell()
    head = stream.read(12)
    stream.seek(start + (12 if head[4:6] in (b"OB", b"OW", b"UN") else 8))
    coded = get_frame(stream, frame.index, number_of_frames=frame.frames)
    found, told = _coded_size(coded), (frame.whole("Rows", 0), frame.whole("Columns", 0))
    if found is not None and found != told:
        raise BadInput(
            f"{path} contradicts itself.",
            why=f"It declares {told[0]} x {told[1]} pixels; the compressed picture has {found[0]} x {found[1]}.",
            hint="Get the file again.",
            path=path,
        )
    stream.seek(start)


def _coded_size(coded: bytes) -> tuple[int, int] | None:
    """Rows and columns in the head of a JPEG, JPEG-LS or JPEG 2000 stream; None for what has no such head (RLE)."""
    if coded[:4] == b"\xff\x4f\xff\x51":  # SIZ: capabilities, then the far corner and the near one
        x1, y1, x0, y0 = (int.from_bytes(coded[k : k + 4], "big") for k in (8, 12, 16, 20))
        return y1 - y0, x1 - x0
    at = coded.find(b"\xff\x4f\xff\x51") if coded[4:8] == b"jP  " else -1
    if at > 0:
        return _coded_size(coded[at:])
    at = 2 if coded[:2] == b"\xff\xd8" else len(coded)
    while at + 9 <= len(coded) and coded[at] == 0xFF:
        if coded[at + 1] in _SIZES:
            return int.from_bytes(coded[at + 5 : at + 7], "big"), int.from_bytes(coded[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(coded[at + 2 : at + 4], "big")
    return None


_SIZES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # markers that hold the size of the picture
