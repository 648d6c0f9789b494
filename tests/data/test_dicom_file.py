"""DICOM files: pydicom's own set against pydicom, made ones with values known by hand, and damaged ones."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
import warnings
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.damage import damaged, inflate_dicom
from data.scans import dicom_file
from pellucid.data.dicom_file import Lut, Window, modality_values, read_frame, read_header, shown, views
from pellucid.errors import BadInput

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset as Attributes  # noqa: E402

REAL = Path(pydicom.__file__).parent / "data" / "test_files"
# Those whose pictures need a decoder that is no package of the test set, and those that are broken on purpose.
NEED_MORE = {"GDCMJ2K_TextGBR": "openjpeg", "JPGExtended": "libjpeg", "SC_rgb_jpeg_gdcm": "libjpeg"}
BROKEN = {"JPEG-lossy", "JPEG2000-embedded-sequence-delimiter", "MR_truncated", "badVR", "no_meta"}
PICTURES = sorted(
    p.stem
    for start in ("693", "CT", "ExplVR_BigEnd", "J2K", "JPEG2", "JPEGLS", "MR", "SC", "examples", "image", "liver", "rtdose")
    for p in REAL.glob(f"{start}*.dcm")
    if p.stem not in {*NEED_MORE, *BROKEN} and "NoMeta" not in p.stem
)  # fmt: skip


def by_pydicom(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, force=True)
        pixels = data.pixel_array
        several = int(data.get("NumberOfFrames") or 1) > 1
        return data, pixels[0] if several else pixels


@pytest.mark.parametrize("name", PICTURES)
def test_the_real_files_hold_what_pydicom_reads(name: str) -> None:
    data, pixels = by_pydicom(REAL / f"{name}.dcm")
    frame, found = read_frame(REAL / f"{name}.dcm")
    if name == "examples_palette":
        pixels = pydicom.pixels.apply_color_lut(pixels, data)
    if found.ndim == 2:
        assert np.array_equal(found, pixels)
        wanted = pydicom.pixels.apply_modality_lut(pixels, data)
        assert np.allclose(modality_values(frame, found), wanted, atol=1e-9)
    else:
        most = np.iinfo(pixels.dtype).max
        assert np.abs(found - pixels / most * 255).max() <= 0.5
    assert len(PICTURES) > 40


@pytest.mark.parametrize("name", ["MR_small", "693_J2KI", "examples_overlay", "J2K_pixelrep_mismatch"])
def test_the_files_own_windows_are_those_of_pydicom(name: str) -> None:
    data, _ = by_pydicom(REAL / f"{name}.dcm")
    frame, pixels = read_frame(REAL / f"{name}.dcm")
    count = len(views(frame))
    assert count == (1 if isinstance(data.WindowCenter, float) else len(data.WindowCenter))
    for k in range(count):
        values = modality_values(frame, pixels)
        wanted = pydicom.pixels.apply_windowing(values, data, index=k)
        signed, bits = data.PixelRepresentation, data.BitsStored
        slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
        low = (-(2 ** (bits - 1)) if signed else 0) * slope + intercept
        high = (2 ** (bits - signed) - 1) * slope + intercept
        assert np.allclose(shown(frame, pixels, k), (wanted - low) / (high - low), atol=1e-9)


def test_windows_by_name(tmp_path: Path) -> None:
    frame, pixels = read_frame(REAL / "examples_overlay.dcm")
    assert np.array_equal(shown(frame, pixels, "WINDOW2"), shown(frame, pixels, 1))
    assert not np.array_equal(shown(frame, pixels, "WINDOW2"), shown(frame, pixels))
    with pytest.raises(BadInput, match="no window or table 'BONE'"):
        shown(frame, pixels, "BONE")
    with pytest.raises(BadInput, match="no window or table 2"):
        shown(frame, pixels, 2)


def test_window_functions_by_hand() -> None:
    values = np.array([-1000.0, 0, 29.5, 39.5, 100, 139, 1000])
    # Centre 40, width 100, LINEAR: black up to 40 - .5 - 99/2 = -10, white above 89.
    assert np.allclose(Window(40, 100)(values), [0, 10 / 99, 39.5 / 99, 0.5, 1, 1, 1])
    assert np.allclose(Window(40, 100, "LINEAR_EXACT")(values), [0, 0.1, 0.395, 0.495, 1, 1, 1])
    assert np.allclose(Window(40, 100, "SIGMOID")(np.array([40.0, 65])), [0.5, 1 / (1 + np.exp(-1))])
    assert Window(10, 1)(np.array([9.0, 9.5, 9.6])).tolist() == [0, 0, 1]
    for wrong in (Window(1, 0), Window(1, 0.5), Window(1, -3, "SIGMOID"), Window(1, 5, "CUBIC")):
        with pytest.raises(ValueError, match="window"):
            wrong(values)


def test_values_of_the_modality_and_the_side_of_white(tmp_path: Path) -> None:
    pixels = np.array([[0, 1024], [1064, 4095]], np.int16)
    told = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    frame, stored = read_frame(dicom_file(tmp_path / "a.dcm", pixels, **told))
    assert modality_values(frame, stored).tolist() == [[-1024, 0], [40, 3071]]
    grey = shown(frame, stored)
    assert np.allclose(grey, [[0, (0 - 39.5) / 399 + 0.5], [(40 - 39.5) / 399 + 0.5, 1]])
    turned = dicom_file(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1", **told)
    assert np.allclose(shown(*read_frame(turned)), 1 - grey)
    assert np.allclose(shown(frame, stored, "range"), (pixels / 4095))
    assert np.allclose(shown(frame, stored, "bits"), (pixels + 32768.0) / 65535)


def test_padding_does_not_stretch_the_range(tmp_path: Path) -> None:
    pixels = np.array([[-2000, 10], [20, 30]], np.int16)
    made = dicom_file(tmp_path / "a.dcm", pixels, PixelPaddingValue=-2000)
    assert np.allclose(shown(*read_frame(made)), [[0, 0], [0.5, 1]])
    flat = dicom_file(tmp_path / "b.dcm", np.full((2, 2), 7, np.uint16))
    assert shown(*read_frame(flat)).tolist() == [[0, 0], [0, 0]]


def table(entries: list[int], first: int, bits: int, name: str = "") -> Attributes:
    item = Attributes()
    item.add_new(0x00283002, "US", [len(entries), first, bits])
    item.add_new(0x00283006, "US", entries)
    if name:
        item.LUTExplanation = name
    return item


def test_tables_of_modality_and_display(tmp_path: Path) -> None:
    pixels = np.array([[0, 10], [11, 500]], np.uint16)
    modality = dicom_file(tmp_path / "m.dcm", pixels, ModalityLUTSequence=[table([5, 70, 900], 10, 16)])
    assert modality_values(*read_frame(modality)).tolist() == [[5, 5], [70, 900]]
    own = dicom_file(tmp_path / "v.dcm", pixels, VOILUTSequence=[table([0, 51, 255], 10, 8, "FIRST"), table([255, 0], 0, 8)],
                     WindowCenter=5, WindowWidth=11)  # fmt: skip
    frame, stored = read_frame(own)
    assert np.allclose(shown(frame, stored), [[0, 0], [0.2, 1]])  # values far above 255 are not wrapped round
    assert np.allclose(shown(frame, stored, 1), [[1, 0], [0, 0]])
    assert np.allclose(shown(frame, stored, 2), Window(5, 11)(pixels.astype(float)))
    assert [type(v) for v in views(frame)] == [Lut, Lut, Window]
    assert np.array_equal(shown(frame, stored, "FIRST"), shown(frame, stored, 0))


def test_twelve_bits_with_something_above_them(tmp_path: Path) -> None:
    plain = np.array([[0, 1], [2048, 4095]], np.uint16)
    made = dicom_file(tmp_path / "u.dcm", plain | 0xF000, BitsStored=12, HighBit=11)
    assert np.array_equal(read_frame(made)[1], plain)
    signed = np.array([[0, -1], [-2048, 2047]], np.int16)
    made = dicom_file(tmp_path / "s.dcm", signed & 0x0FFF, BitsStored=12, HighBit=11)
    assert np.array_equal(read_frame(made)[1], signed)
    high = dicom_file(tmp_path / "h.dcm", (plain << 4).astype(np.uint16), BitsStored=12, HighBit=15)
    with pytest.raises(BadInput, match="upper bits"):
        read_frame(high)


def test_frames_and_their_own_attributes(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 2, 2)
    groups = []
    for k in range(3):
        item, place, window, value = Attributes(), Attributes(), Attributes(), Attributes()
        place.ImagePositionPatient = [0, 0, 2.5 * k]
        window.WindowCenter, window.WindowWidth = 5, 11 + k
        value.RescaleSlope, value.RescaleIntercept = k + 1, 0
        item.PlanePositionSequence, item.FrameVOILUTSequence = [place], [window]
        item.PixelValueTransformationSequence = [value]
        groups.append(item)
    shared, spacing = Attributes(), Attributes()
    spacing.PixelSpacing = [0.5, 0.25]
    shared.PixelMeasuresSequence = [spacing]
    made = dicom_file(tmp_path / "e.dcm", pixels, PerFrameFunctionalGroupsSequence=groups, SharedFunctionalGroupsSequence=[shared])  # fmt: skip
    for k in range(3):
        frame, stored = read_frame(made, k)
        assert np.array_equal(stored, pixels[k])
        assert np.array_equal(modality_values(frame, stored), pixels[k] * (k + 1.0))
        assert frame.geometry() == {"ImagePositionPatient": [0, 0, 2.5 * k], "PixelSpacing": [0.5, 0.25]}
        assert views(frame) == [Window(5, 11 + k)]
    with pytest.raises(BadInput, match="no frame 3"):
        read_frame(made, 3)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("rtplan", "no picture"),
        ("test-SR", "no picture"),
        ("waveform_ecg", "no picture"),
        ("MR_truncated", "could not be read"),
        ("badVR", "could not be read"),
        ("JPEG2000-embedded-sequence-delimiter", "contradicts itself"),
    ],
)
def test_what_has_no_picture_or_a_broken_one(name: str, match: str) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        read_frame(REAL / f"{name}.dcm")
    assert caught.value.hint
    assert caught.value.path == str(REAL / f"{name}.dcm")


@pytest.mark.parametrize("name", sorted(NEED_MORE))
def test_a_missing_decoder_is_named(name: str) -> None:
    if util.find_spec(NEED_MORE[name]):
        assert np.array_equal(read_frame(REAL / f"{name}.dcm")[1], by_pydicom(REAL / f"{name}.dcm")[1])
        return
    with pytest.raises(BadInput, match="decode") as caught:
        read_frame(REAL / f"{name}.dcm")
    assert "pip install pylibjpeg" in caught.value.hint


def test_an_unknown_syntax_is_said(tmp_path: Path) -> None:
    made = dicom_file(tmp_path / "a.dcm", np.zeros((2, 2), np.uint16))
    syntax = b"1.2.840.10008.1.2.4.100\0"  # MPEG2, which is film
    data = pydicom.dcmread(made)
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax.decode().strip("\0"))
    data.PixelData = pydicom.encaps.encapsulate([b"\0\0"])
    data["PixelData"].is_undefined_length = True
    data.save_as(made)
    with pytest.raises(BadInput, match="nothing here reads") as caught:
        read_frame(made)
    assert "MPEG2" in caught.value.why


def test_other_files_are_no_dicom(tmp_path: Path) -> None:
    for content in (b"", b"text" * 100, b"\x89PNG\r\n" + b"\0" * 300):
        path = tmp_path / "a.dcm"
        path.write_bytes(content)
        with pytest.raises(BadInput):
            read_header(path)
    with pytest.raises(BadInput, match="There is no file"):
        read_frame(tmp_path / "none.dcm")


def test_declared_sizes_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    made = dicom_file(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16))
    data = pydicom.dcmread(made)
    for rows, columns, match in ((65535, 65535, "too large"), (5000, 5000, "ends before"), (0, 4, "no pixels")):
        data.Rows, data.Columns = rows, columns
        data.save_as(made)
        with pytest.raises(BadInput, match=match):
            read_frame(made)


def test_a_packed_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    import zlib

    made = dicom_file(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16))
    data = pydicom.dcmread(made)
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(made)
    assert read_frame(made)[1].tolist() == np.zeros((4, 4)).tolist()
    whole = made.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    zeros = b"".join(pack.compress(bytes(1 << 20)) for _ in range(400)) + pack.flush()
    made.write_bytes(whole[:start] + zeros)
    before = time.process_time()
    with pytest.raises(BadInput, match="too large"):
        read_frame(made)
    assert time.process_time() - before < 5


MUTATED = ("CT_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless",
           "examples_palette", "examples_overlay", "image_dfl", "SC_rgb_jpeg_dcmtk", "SC_rgb_rle_16bit_2frame", "rtdose", "examples_ybr_color",
           "liver_1frame", "SC_ybr_full_422_uncompressed", "JPEGLSNearLossless_16", "SC_jpeg_no_color_transform", "examples_jpeg2k")  # fmt: skip


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_files_give_finite_pixels_or_bad_input(count: int, tmp_path: Path) -> None:
    from pellucid.data.dicom import dicom

    originals = [(REAL / f"{name}.dcm").read_bytes() for name in MUTATED]
    path, ended = tmp_path / "a.dcm", {"read": 0, "refused": 0}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _, content in damaged(originals, count, 1024, inflate_dicom):
        path.write_bytes(content)
        before = time.process_time()
        try:
            sample = dicom(path, size=64)[0]
        except BadInput:
            ended["refused"] += 1
        else:
            assert bool(sample.input.isfinite().all())
            ended["read"] += 1
        assert time.process_time() - before < 2
    assert min(ended.values()) > count // 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1 << 20  # KiB


class PanicException(BaseException):
    """What PyO3 raises where Rust panics: no `Exception`."""


@pytest.mark.parametrize(("raised", "told"), [(PanicException, BadInput), (KeyboardInterrupt, KeyboardInterrupt)])
def test_a_decoder_that_panics(raised: type[BaseException], told: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def stop(*arguments: Any, **options: Any) -> None:
        raise raised("index out of bounds")

    monkeypatch.setattr(pydicom.pixels, "pixel_array", stop)
    with pytest.raises(told, match="could not be decoded" if told is BadInput else "out of bounds"):
        read_frame(dicom_file(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16)))


def test_without_pydicom_the_extra_is_named(tmp_path: Path) -> None:
    path = dicom_file(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16))
    code = f"""
import sys
sys.modules["pydicom"] = sys.modules["nibabel"] = None
from pellucid.data import open_data, reader_for
from pellucid.errors import OptionError
for source in ({str(path)!r}, "dicom_series:" + {str(tmp_path)!r}, "nifti:" + {str(path)!r}):
    try:
        open_data(source)
    except OptionError as error:
        assert "pellucid[medical]" in error.hint, error
    else:
        raise SystemExit(1)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
