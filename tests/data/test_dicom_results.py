"""DICOM results hold the map's own numbers, and lie where their source lies."""

from __future__ import annotations

import io
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray as Array

from data.scans import dicom_file
from pellucid import spatial
from pellucid.data import open_data
from pellucid.data.dicom_file import read_header
from pellucid.data.dicom_results import in_source, parametric_map, segmentation
from pellucid.errors import BadInput
from pellucid.explanation import Explanation
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget

pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom")

# Rows and columns turned out of every plane of the body, and pixels three times as high as wide.
TURN = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
ROW, COLUMN = TURN[0], TURN[1]
SPACING = (1.5, 0.5)
ORIGIN = np.array([-31.0, 12.5, 40.0])
SHAPE = (24, 40)
GAP = 4.0


def attributes(k: int = 0) -> dict[str, Any]:
    position = ORIGIN + k * GAP * np.cross(ROW, COLUMN)
    return {
        "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.9", "PatientID": "p7",
        "PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 100", "InstanceNumber": k + 1,
        "ImageOrientationPatient": [f"{v:.12f}" for v in (*ROW, *COLUMN)], "ImagePositionPatient": [f"{v:.9f}" for v in position],
        "PixelSpacing": list(SPACING), "SliceThickness": GAP,
    }  # fmt: skip


def patient(row: float, column: float, k: int = 0) -> Array:
    """Where a pixel lies, in mm: DICOM part 3, C.7.6.2.1.1, by hand."""
    return ORIGIN + k * GAP * np.cross(ROW, COLUMN) + row * SPACING[0] * COLUMN + column * SPACING[1] * ROW


def explained(cells: Array, geometry: Geometry, *, complete: bool = True) -> Explanation:
    found = torch.from_numpy(cells.astype(np.float32))[None]
    score = found.sum().reshape(1)
    return Explanation(
        found, geometry, ClassTarget(torch.tensor([1])), score, torch.zeros(1, 2), "evidence", complete=complete,
        provenance={"task": "multiclass", "network": "Tiny"}, classes=("gesund", "Läsion"),
    )  # fmt: skip


def scan(tmp_path: Path, **reading: Any) -> tuple[Sample, list[Any]]:
    pixels = np.zeros(SHAPE, np.uint16)
    path = dicom_file(tmp_path / "a.dcm", pixels, **attributes())
    sample: Sample = open_data(path, **{"size": 16, "crop": "resize", **reading})[0]
    return sample, [read_header(path).dataset]


def floats(stream: Any) -> Any:
    """An image as highdicom reads it, with its pixels decoded: it cannot decode one frame of floats alone."""
    image = hd.imread(stream)
    assert image.pixel_array is not None
    return image


def random_map(size: int = 16, grid: int = 16) -> Explanation:
    geometry = Geometry.of_samples((size, size)) if grid == size else Geometry.unregistered((grid, grid), (size, size))
    return explained(np.random.default_rng(0).normal(size=(grid, grid)), geometry)


def test_numbers_are_read_back_bit_by_bit(tmp_path: Path) -> None:
    """With pydicom and with highdicom, where the input has the file's own pixels."""
    sample, sources = scan(tmp_path, size=list(SHAPE))
    e = explained(np.random.default_rng(0).normal(size=SHAPE), Geometry.of_samples(SHAPE))
    data = parametric_map(e, sample.meta, sources)
    plain = pydicom.dcmread(io.BytesIO(data))
    assert plain.SOPClassUID == "1.2.840.10008.5.1.4.1.1.30"
    assert np.frombuffer(plain.FloatPixelData, "<f4").tobytes() == e.map[0].numpy().tobytes()
    read = floats(io.BytesIO(data))
    assert read.get_frame(1, dtype=np.float32).tobytes() == e.map[0].numpy().tobytes()
    np.testing.assert_array_equal(
        read.get_frame(1, dtype=np.float32, apply_real_world_transform=True), e.map[0].numpy()
    )


def test_it_refers_to_its_source_and_lies_there(tmp_path: Path) -> None:
    sample, sources = scan(tmp_path)
    read = pydicom.dcmread(io.BytesIO(parametric_map(random_map(), sample.meta, sources)))
    shared, frame = read.SharedFunctionalGroupsSequence[0], read.PerFrameFunctionalGroupsSequence[0]
    source = sources[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == source.ImageOrientationPatient
    assert frame.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
    assert shared.PixelMeasuresSequence[0].PixelSpacing == source.PixelSpacing
    assert (read.Rows, read.Columns) == SHAPE
    assert (read.FrameOfReferenceUID, read.StudyInstanceUID) == ("1.2.3.9", "1.2.3")
    assert read.SeriesInstanceUID != source.SeriesInstanceUID
    referred = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert referred.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert read.PatientName == "Müller^Jörg"
    mapping = shared.RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert "Läsion" in mapping.LUTExplanation


@pytest.mark.parametrize(("row", "column"), [(3, 5), (12, 30), (23, 39)])
def test_a_lesion_is_where_it_is_in_the_patient(tmp_path: Path, row: int, column: int) -> None:
    """One hot cell in the map of a turned, anisotropic picture: the result's brightest pixel is at the same mm."""
    sample, sources = scan(tmp_path, size=[48, 120])
    cells = np.zeros((48, 120))
    cells[2 * row : 2 * row + 2, 3 * column : 3 * column + 3] = 1  # the samples of this pixel of the file
    data = parametric_map(explained(cells, Geometry.of_samples((48, 120))), sample.meta, sources)
    read = floats(io.BytesIO(data))
    values = read.get_frame(1, dtype=np.float32)
    assert np.argwhere(values == values.max()).tolist() == [[row, column]]
    volume = read.get_volume()
    where = np.unravel_index(volume.array.argmax(), volume.array.shape)
    np.testing.assert_allclose(volume.affine @ [*where, 1], [*patient(row, column), 1], atol=1e-4)


def test_cells_are_interpolated_once_at_the_files_pixels(tmp_path: Path) -> None:
    """Against bilinear interpolation written out for every pixel, through a crop and another scale."""
    sample, sources = scan(tmp_path, size=16, crop="centre", shorter_side=18)
    geometry = Geometry((4, 4), (16, 16), (1.0, 2.0), (4.0, 3.5), registered=True)
    e = explained(np.random.default_rng(1).normal(size=(4, 4)), geometry)
    found = in_source(e, sample.meta)[0]
    cells, scale = e.map[0].double().numpy(), 18 / 24
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            y = (row + 0.5) * scale - 0.5 - 1  # scaled to 18 x 30, cut at row 1 and column 7
            x = (column + 0.5) * scale - 0.5 - 7
            inside = -0.5 <= y < 15.5 and -0.5 <= x < 15.5
            i, j = np.clip((y - 1) / 4, 0, 3), np.clip((x - 2) / 3.5, 0, 3)
            a, b = min(int(i), 2), min(int(j), 2)
            u, v = i - a, j - b
            value = (
                cells[a, b] * (1 - u) * (1 - v) + cells[a, b + 1] * (1 - u) * v
                + cells[a + 1, b] * u * (1 - v) + cells[a + 1, b + 1] * u * v
            )  # fmt: skip
            assert found[row, column] == pytest.approx(value if inside else 0.0, abs=1e-5), (row, column)
    read = floats(io.BytesIO(parametric_map(e, sample.meta, sources)))
    assert read.get_frame(1, dtype=np.float32).tobytes() == found.tobytes()


def test_segments_are_what_reaches_a_share_of_the_strongest(tmp_path: Path) -> None:
    sample, sources = scan(tmp_path, size=list(SHAPE))
    e = explained(np.random.default_rng(2).normal(size=SHAPE), Geometry.of_samples(SHAPE))
    read = hd.seg.segread(io.BytesIO(segmentation(e, sample.meta, sources)))
    values = e.map[0].numpy()
    limit = 0.2 * np.abs(values).max()
    assert read.number_of_segments == 2
    got = read.get_pixels_by_source_instance([sources[0].SOPInstanceUID])[0]
    np.testing.assert_array_equal(got[..., 0], values >= limit)
    np.testing.assert_array_equal(got[..., 1], values <= -limit)
    assert [d.SegmentLabel for d in read.SegmentSequence] == ["evidence for Läsion", "evidence against Läsion"]


def test_an_empty_map_has_empty_segments(tmp_path: Path) -> None:
    sample, sources = scan(tmp_path)
    e = explained(np.zeros((16, 16)), Geometry.of_samples((16, 16)))
    read = hd.seg.segread(io.BytesIO(segmentation(e, sample.meta, sources)))
    assert read.number_of_segments == 2
    assert not read.pixel_array.any()
    assert not floats(io.BytesIO(parametric_map(e, sample.meta, sources))).get_frame(1, dtype=np.float32).any()


def test_a_series_is_written_slice_by_slice(tmp_path: Path) -> None:
    """The evidence of a volume, on slices whose files are in another order."""
    for k in (2, 0, 3, 1):
        dicom_file(tmp_path / f"{9 - k}.dcm", np.zeros(SHAPE, np.uint16), **attributes(k))
    sample: Sample = open_data(f"dicom_series:{tmp_path}", size=[4, 12, 20], window=[0, 10])[0]
    cells = np.zeros((4, 12, 20))
    cells[2, 5, 7] = 3.0
    e = explained(cells, Geometry.of_samples((4, 12, 20)))
    sources = [read_header(path).dataset for path in sample.meta["slices"]]
    volume = floats(io.BytesIO(parametric_map(e, sample.meta, sources))).get_volume()
    peaks = np.argwhere(volume.array == volume.array.max())
    assert len(peaks) == 4  # two rows and two columns of the file to a sample
    middle = volume.affine @ [*peaks.mean(0), 1]
    np.testing.assert_allclose(middle[:3], patient(2 * 5 + 0.5, 2 * 7 + 0.5, 2), atol=1e-4)


def test_a_frame_of_an_enhanced_file_is_referred_to(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items

    def item(**values: Any) -> Any:
        made = Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    told = [attributes(k) for k in range(3)]
    shared = item(
        PlaneOrientationSequence=Items([item(ImageOrientationPatient=told[0]["ImageOrientationPatient"])]),
        PixelMeasuresSequence=Items([item(PixelSpacing=list(SPACING), SliceThickness=GAP)]),
    )
    frames = [item(PlanePositionSequence=Items([item(ImagePositionPatient=t["ImagePositionPatient"])])) for t in told]
    own = {
        k: v for k, v in told[0].items() if not k.startswith("Image") and k not in ("PixelSpacing", "SliceThickness")
    }
    path = dicom_file(
        tmp_path / "enhanced.dcm", np.zeros((3, *SHAPE), np.uint16), **own, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        SharedFunctionalGroupsSequence=Items([shared]), PerFrameFunctionalGroupsSequence=Items(frames),
    )  # fmt: skip
    sample: Sample = open_data(path, size=list(SHAPE), crop="resize")[2]
    e = explained(np.random.default_rng(2).normal(size=SHAPE), Geometry.of_samples(SHAPE))
    read = pydicom.dcmread(io.BytesIO(parametric_map(e, sample.meta, [read_header(path).dataset])))
    frame = read.PerFrameFunctionalGroupsSequence[0]
    assert frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 3
    np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, patient(0, 0, 2), atol=1e-6)


@pytest.mark.parametrize("kind", ["fundus", "oct", "xray"])
def test_pictures_that_lie_nowhere_in_the_patient(tmp_path: Path, kind: str) -> None:
    """Photographs and radiographs have no place in the patient; the result refers to them, pixel for pixel."""
    from pellucid.data.lesionlab.dicom_export import write_dicom

    made: Any = open_data(f"lesionlab:{kind}", n_images=1, size=64)
    path = write_dicom(made, tmp_path).parent / f"{made[0].name}.dcm"
    sample: Sample = open_data(path, size=32, crop="resize")[0]
    source = read_header(path).dataset
    e = random_map(32, 8)
    read = floats(io.BytesIO(parametric_map(e, sample.meta, [source])))
    assert read.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    np.testing.assert_array_equal(read.get_frame(1, dtype=np.float32), in_source(e, sample.meta)[0])
    segments = hd.seg.segread(io.BytesIO(segmentation(e, sample.meta, [source])))
    assert segments.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert "FrameOfReferenceUID" not in source  # the source is left as it was


def test_a_frame_of_a_film_is_referred_to(tmp_path: Path) -> None:
    path = dicom_file(
        tmp_path / "film.dcm", np.zeros((3, *SHAPE), np.uint8), StudyInstanceUID="1.2", SeriesInstanceUID="1.3",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", Modality="US",
    )  # fmt: skip
    sample: Sample = open_data(path, size=32, crop="resize")[1]
    for write in (parametric_map, segmentation):
        read = pydicom.dcmread(io.BytesIO(write(random_map(32), sample.meta, [read_header(path).dataset])))
        frame = read.PerFrameFunctionalGroupsSequence[0]
        assert frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 2


def test_what_cannot_be_referred_to_is_refused(tmp_path: Path) -> None:
    sample, sources = scan(tmp_path)
    bare, turned = deepcopy(sources[0]), deepcopy(sources[0])
    del bare.StudyInstanceUID
    with pytest.raises(BadInput, match="cannot be referred to"):
        parametric_map(random_map(), sample.meta, [bare])
    del turned.ImageOrientationPatient
    with pytest.raises(BadInput, match="No DICOM result"):
        parametric_map(random_map(), sample.meta, [turned])
    with pytest.raises(BadInput, match="not known where"):
        parametric_map(random_map(), {}, sources)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("write", [parametric_map, segmentation])
@pytest.mark.parametrize("lies", [True, False])
def test_an_outside_checker_finds_no_mistake(tmp_path: Path, write: Any, lies: bool) -> None:
    sample, sources = scan(tmp_path)
    if not lies:
        sources = [deepcopy(sources[0])]
        for name in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(sources[0], name)
    path = tmp_path / "result.dcm"
    path.write_bytes(write(random_map(), sample.meta, sources))
    found = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    errors = [line for line in found.stderr.splitlines() if line.startswith("Error")]
    assert not errors, errors


def test_the_share_of_the_input_that_was_seen(tmp_path: Path) -> None:
    from pellucid.data.placement import in_file, seen

    sample, _ = scan(tmp_path, size=16, crop="centre", shorter_side=16)
    mask = seen(sample.meta)
    assert mask.shape == SHAPE
    assert mask.any(0).sum() == 24  # a square of the file's height
    assert mask.all(1).sum() == 0
    whole = in_file(Geometry.of_samples((16, 16)), sample.meta)
    assert spatial.upsample(torch.ones(1, 16, 16), whole).shape == (1, *SHAPE)
