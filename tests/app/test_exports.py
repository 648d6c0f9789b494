"""Files hold the numbers of the explanation, and lie where their input lies."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import ndarray as Array
from PIL import Image
from starlette.testclient import TestClient

import pellucid as pl
from app.kit import ask, client_of, numbers, problem, series
from data.scans import dicom_file, nifti_file
from data.test_dicom_results import SHAPE, attributes, patient
from pellucid.app.exports import plain_name
from pellucid.app.served import Served
from pellucid.app.service import Settings
from pellucid.data import open_data
from pellucid.data.dicom_results import in_source
from pellucid.files import plain
from pellucid.networks import reading_for

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")
hd = pytest.importorskip("highdicom")


def exported(client: TestClient, file: Path, format: str, **fields: str) -> Any:
    asked = {"format": format, **fields}
    answer = client.post("/v1/export", files={"file": (file.name, file.read_bytes())}, data=asked)
    assert answer.status_code == 200, answer.text[:500]
    return answer


def explained(served: Served, file: Path, target: Any = None, **options: Any) -> pl.Explanation:
    """The same question in Python, from the file itself."""
    x = open_data(file, **reading_for(served.network, str(file), {}))[0].input[None]
    return pl.explain(served.network, x, target, **options)[0]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A slice that lies askew in the patient, with pixels three times as high as wide."""
    pixels = np.random.default_rng(3).integers(0, 4096, SHAPE).astype(np.uint16)
    return dicom_file(tmp_path / "CT 7.dcm", pixels, **attributes(), WindowCenter=2000, WindowWidth=4000)


def test_a_picture_is_the_overlay(client: TestClient, models: dict[str, Served], photo: Path) -> None:
    answer = exported(client, photo, "png", target="pear")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'attachment; filename="fruit-evidence.png"'
    drawn = explained(models["softcam"], photo, "pear").overlay(width=720)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(answer.content))), np.array(drawn))


@pytest.mark.parametrize("method", ["evidence", "grad_cam"])
def test_numbers_are_read_back_bit_by_bit(
    client: TestClient, models: dict[str, Served], photo: Path, method: str
) -> None:
    read = np.load(io.BytesIO(exported(client, photo, "npz", target="plum", method=method).content))
    e = explained(models["softcam"], photo, "plum", method=method)
    assert read["map"].tobytes() == e.map.numpy().tobytes()
    assert read["score"].tobytes() == e.score.numpy().tobytes()
    told = json.loads(str(read["explanation"]))
    assert (told["method"], told["complete"]) == (method, e.complete)
    assert told["geometry"] == plain(e.geometry.as_dict())
    assert told["target"] == plain(e.target.as_dict())


def test_the_picture_that_is_shown_is_the_one_that_is_exported(client: TestClient, photo: Path) -> None:
    """With what was erased of it."""
    fields = {"target": "pear", "erase": "[[8, 16, 40, 32]]"}
    read = np.load(io.BytesIO(exported(client, photo, "npz", **fields).content))
    assert read["map"][0].tobytes() == numbers(ask(client, photo, **fields)["map"]).tobytes()
    whole = np.load(io.BytesIO(exported(client, photo, "npz", target="pear").content))
    assert not np.array_equal(read["map"], whole["map"])


@pytest.mark.parametrize("turned", [np.eye(4), np.array([[0, -2.0, 0.3, 5], [1.2, 0, 0.1, -7], [0.1, 0.2, 3, 11], [0, 0, 0, 1]])])  # fmt: skip
def test_a_volume_keeps_its_affine(
    client: TestClient, all_ranks: dict[str, Served], tmp_path: Path, turned: Array
) -> None:
    values = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    file = nifti_file(tmp_path / "head.nii.gz", values, turned)
    asked = {"model": "volumes", "target": "yes"}
    cells, whole = (
        nibabel.Nifti1Image.from_bytes(
            gzip.decompress(exported(client, file, "nifti", grid=grid, **asked).content)
        )
        for grid in ("cells", "input")
    )  # fmt: skip
    e = explained(all_ranks["volumes"], file, "yes")
    assert cells.get_fdata(dtype=np.float32).tobytes() == e.map[0].numpy().tobytes()
    assert whole.get_fdata(dtype=np.float32).tobytes() == e.at_input_size()[0].numpy().tobytes()
    # The readers turn volumes to the patient's axes, so samples are in another order, at the same mm.
    ours = {tuple(np.round(whole.affine @ [*index, 1], 3)) for index in np.ndindex(16, 16, 16)}
    theirs = {tuple(np.round(turned @ [*index, 1], 3)) for index in np.ndindex(16, 16, 16)}
    assert ours == theirs
    start, jump = np.array(e.geometry.start), np.array(e.geometry.jump)
    np.testing.assert_allclose(cells.affine @ [1, 0, 1, 1], whole.affine @ [*(start + jump * [1, 0, 1]), 1], atol=1e-4)


def test_a_slice_lies_in_its_volume(client: TestClient, tmp_path: Path) -> None:
    """The sample of a slice that is at a mm is that of the volume's voxel at this mm."""
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    affine[:3, 3] = [-10, 4, 7]
    file = nifti_file(tmp_path / "head.nii.gz", np.random.default_rng(0).random((64, 64, 4)).astype(np.float32), affine)
    data = exported(client, file, "nifti", slice="3").content
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
    assert image.shape == (64, 64, 1)
    # x and y run towards the patient's left and back: the first sample is the last voxel.
    np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], affine @ [63, 63, 3, 1], atol=1e-4)
    np.testing.assert_allclose(image.affine @ [63, 0, 0, 1], affine @ [0, 63, 3, 1], atol=1e-4)


def test_a_parametric_map_lies_on_its_picture(client: TestClient, models: dict[str, Served], scan: Path) -> None:
    answer = exported(client, scan, "dicom-pm", target="pear")
    assert answer.headers["content-disposition"] == 'attachment; filename="CT-7-evidence.map.dcm"'
    read = hd.imread(io.BytesIO(answer.content))
    sample = open_data(scan, **reading_for(models["softcam"].network, str(scan), {}))[0]
    expected = in_source(explained(models["softcam"], scan, "pear"), sample.meta)[0]
    assert read.pixel_array.tobytes() == expected.tobytes()
    assert expected.any()
    volume = read.get_volume()
    for row, column in ((0, 0), (23, 0), (5, 39)):
        index = volume.map_reference_to_indices(np.array([patient(row, column)]))[0]
        value = volume.array[tuple(np.rint(index).astype(int))]
        assert value == expected[row, column]


def test_a_segmentation_lies_on_its_picture(client: TestClient, models: dict[str, Served], scan: Path) -> None:
    read = hd.seg.segread(io.BytesIO(exported(client, scan, "dicom-seg", target="pear").content))
    sample = open_data(scan, **reading_for(models["softcam"].network, str(scan), {}))[0]
    values = in_source(explained(models["softcam"], scan, "pear"), sample.meta)[0]
    limit = 0.2 * np.abs(values).max()
    found = read.get_pixels_by_source_instance([pydicom.dcmread(scan).SOPInstanceUID])[0]
    np.testing.assert_array_equal(found[..., 0], values >= limit)
    np.testing.assert_array_equal(found[..., 1], values <= -limit)
    assert [s.SegmentLabel for s in read.SegmentSequence] == ["evidence for pear", "evidence against pear"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("format", ["dicom-pm", "dicom-seg"])
@pytest.mark.parametrize("kind", ["scan", "fundus", "xray", "oct"])
def test_an_outside_checker_finds_no_mistake(
    client: TestClient, scan: Path, tmp_path: Path, format: str, kind: str
) -> None:
    from pellucid.data.lesionlab.dicom_export import write_dicom

    if kind != "scan":
        made: Any = open_data(f"lesionlab:{kind}", n_images=1, size=64)
        scan = write_dicom(made, tmp_path / kind).parent / f"{made[0].name}.dcm"
    (tmp_path / "made.dcm").write_bytes(exported(client, scan, format).content)
    found = subprocess.run(["dciodvfy", str(tmp_path / "made.dcm")], capture_output=True, text=True, check=False)
    assert not [line for line in found.stderr.splitlines() if line.startswith("Error")], found.stderr


def test_an_input_of_the_gallery_lies_on_its_own_file(models: dict[str, Served], scan: Path) -> None:
    with client_of(models, Settings(data=str(scan.parent))) as client:
        answer = client.post("/v1/export", data={"input_id": "data-0", "format": "dicom-pm"})
        assert answer.status_code == 200, answer.text
        read = pydicom.dcmread(io.BytesIO(answer.content))
        source = read.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == pydicom.dcmread(scan).SOPInstanceUID


def test_a_series_of_the_gallery_lies_on_its_slices(all_ranks: dict[str, Served], tmp_path: Path) -> None:
    """The evidence of a volume: one frame per slice, each at its slice's place."""
    draws = np.random.default_rng(0)
    for k in (2, 0, 3, 1):
        dicom_file(tmp_path / f"{9 - k}.dcm", draws.integers(0, 900, SHAPE).astype(np.uint16), **attributes(k))
    served, source = all_ranks["volumes"], f"dicom_series:{tmp_path}"
    with client_of({"volumes": served}, Settings(data=source)) as client:
        answer = client.post("/v1/export", data={"input_id": "data-0", "format": "dicom-pm", "target": "yes"})
    assert answer.status_code == 200, answer.text
    image = hd.imread(io.BytesIO(answer.content))
    assert image.pixel_array.shape == (4, *SHAPE)
    volume = image.get_volume()
    sample = served.dataset(source)[0]
    expected = in_source(pl.explain(served.network, sample.input[None], "yes")[0], sample.meta)
    for k in range(4):
        index = volume.map_reference_to_indices(np.array([patient(20, 7, k)]))[0]
        assert volume.array[tuple(np.rint(index).astype(int))] == expected[k, 20, 7]
    assert len({float(plane[20, 7]) for plane in expected}) == 4


def test_what_is_no_dicom_has_no_dicom_result(client: TestClient, photo: Path) -> None:
    for format in ("dicom-pm", "dicom-seg"):
        answer = client.post("/v1/export", files={"file": ("a.png", photo.read_bytes())}, data={"format": format})
        assert "NIfTI" in problem(answer, 422)["hint"]
    answer = client.post("/v1/export", files={"file": ("a.png", photo.read_bytes())}, data={"format": "gif"})
    assert "format" in problem(answer, 422)["detail"]
    problem(client.post("/v1/export", data={"input_id": "0123", "format": "png"}), 404)


def test_one_page_on_a_case(client: TestClient, models: dict[str, Served], photo: Path, tmp_path: Path) -> None:
    """With the numbers of the ledger, as text that can be searched."""
    data = exported(client, photo, "pdf", target="pear", erase="[[8, 16, 40, 32]]").content
    assert data.startswith(b"%PDF-")
    assert data == exported(client, photo, "pdf", target="pear", erase="[[8, 16, 40, 32]]").content
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed")
    (tmp_path / "case.pdf").write_bytes(data)
    ended = subprocess.run(["pdftotext", "-layout", tmp_path / "case.pdf", "-"], capture_output=True, text=True, check=True)  # fmt: skip
    assert ended.stdout.count("\f") == 1, "one page"
    words = " ".join(ended.stdout.split())
    told = ask(client, photo, target="pear", erase="[[8, 16, 40, 32]]")
    for row in told["ledger"]:
        assert row["label"] in words
        assert f"{row['value']:+.4f}" in words or row["label"].startswith("residual")
    assert f"{told['score']:+.4f}" in words
    assert f"{100 * told['prediction']['probabilities'][1]:.1f} %" in words
    for word in ("fruit.png", "Evidence for pear", "8 16 40 32", "Not a medical device", told["input_id"]):
        assert word in words, word


@pytest.mark.parametrize("format", ["png", "npz", "nifti", "pdf"])
def test_signals_and_volumes(client: TestClient, tmp_path: Path, format: str) -> None:
    volume = nifti_file(tmp_path / "head.nii", np.random.default_rng(0).random((16, 16, 16)).astype(np.float32))
    for file, model in ((series(tmp_path / "beats.txt"), "signals"), (volume, "volumes")):
        assert exported(client, file, format, model=model).content


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scan.nii.gz", "scan"), ("a b.png", "a-b"), ('x"; filename="y.exe', "x-filename-y"), ("../../etc/passwd", "passwd"),
        ("Läsion\r\nX: 1.png", "L-sion-X-1"), ("C:\\scans\\7.dcm", "7"), ("", "input"), ("...", "input"), ("a" * 300, "a" * 80),
    ],
)  # fmt: skip
def test_names_are_plain(name: str, expected: str) -> None:
    assert plain_name(name) == expected
