"""What arrives in a file reaches the network and the page unspoilt; what is no such file is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import pellucid as pl
from app.kit import ask, client_of, numbers, problem, series
from cli.kit import bomb
from data.damage import damaged, inflate_dicom, inflate_nifti
from data.scans import dicom_file, nifti_file
from pellucid.app.served import Served
from pellucid.data import open_data
from pellucid.networks import reading_for

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")


def scan(path: Path, **attributes: Any) -> Path:
    """12 bits, 64 x 64, so that nothing has to be scaled."""
    pixels = (np.arange(64 * 64).reshape(64, 64) % 4096).astype(np.uint16)
    told = {
        "BitsStored": 12,
        "HighBit": 11,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "WindowCenter": 40,
        "WindowWidth": 400,
    }
    return dicom_file(path, pixels, **{**told, "PixelSpacing": [0.5, 0.25], **attributes})  # fmt: skip


def test_a_scan_keeps_its_twelve_bits(client: TestClient, tmp_path: Path) -> None:
    told = ask(client, scan(tmp_path / "scan.dcm"), "scan.dcm")["input"]
    expected = np.arange(64 * 64).reshape(1, 64, 64) % 4096 - 1024.0
    assert np.array_equal(numbers(told["values"]), expected)
    assert told["window"] == {"center": 40.0, "width": 400.0}
    assert told["unit"] == "HU"
    assert told["spacing"] == [0.5, 0.25]


def test_a_scan_in_another_window_is_another_input(
    client: TestClient, models: dict[str, Served], tmp_path: Path
) -> None:
    path = scan(tmp_path / "scan.dcm")
    told = ask(client, path, "scan.dcm", window="[-500, 1000]", target="pear")
    network = models["softcam"].network
    x = open_data(path, **reading_for(network, str(path), {"window": [-1000, 0]}))[0].input[None]
    assert told["score"] == pytest.approx(float(pl.explain(network, x, "pear").score[0]), abs=1e-5)
    assert told["input"]["window"] == {"center": -500.0, "width": 1000.0}
    assert told["score"] != ask(client, path, "scan.dcm", target="pear")["score"]


def test_frames_are_slices(client: TestClient, tmp_path: Path) -> None:
    frames = np.stack([np.full((64, 64), 100 * k, np.uint16) for k in range(3)])
    path = dicom_file(tmp_path / "cine.dcm", frames)
    told = ask(client, path, "cine.dcm", slice="2")["input"]
    assert (told["slices"], told["slice"]) == (3, 2)
    assert (numbers(told["values"]) == 200).all()
    answer = client.post("/v1/explain", files={"file": ("cine.dcm", path.read_bytes())}, data={"slice": "3"})
    assert "holds 3" in problem(answer, 422)["detail"]


def test_a_slice_of_a_volume(client: TestClient, tmp_path: Path) -> None:
    """Slices lie across the third axis, the patient's right on the left and the front on top."""
    x, y, z = np.meshgrid(np.arange(64), np.arange(64), np.arange(5), indexing="ij")
    path = nifti_file(tmp_path / "head.nii.gz", (x + 100 * y + 10_000 * z).astype(np.float32))
    told = ask(client, path, "head.nii.gz", slice="3")["input"]
    values = numbers(told["values"])[0]
    assert (told["slices"], told["slice"], told["rank"]) == (5, 3, 2)
    assert values[0, 0] == 63 + 100 * 63 + 30_000
    assert values[-1, -1] == 30_000
    assert values[0, 1] == values[0, 0] - 1
    assert ask(client, path, "head.nii.gz")["input"]["slice"] == 2


def test_a_volume_as_a_whole(client: TestClient, all_ranks: dict[str, Served], tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    path = nifti_file(tmp_path / "head.nii", values)
    told = ask(client, path, "head.nii", model="volumes", target="yes")
    network = all_ranks["volumes"].network
    x = open_data(path, **reading_for(network, str(path), {}))[0].input[None]
    e = pl.explain(network, x, "yes")
    np.testing.assert_allclose(numbers(told["map"]), e.map[0].numpy(), atol=1e-5)
    assert told["input"]["size"] == [16, 16, 16]
    assert len(told["ledger"][0]["box"]) == 6


def test_a_signal(client: TestClient, all_ranks: dict[str, Served], tmp_path: Path) -> None:
    path = series(tmp_path / "beats.txt")
    told = ask(client, path, "beats.txt", model="signals", target="yes", slice="1", erase="[[10, 30]]")
    network = all_ranks["signals"].network
    values = np.loadtxt(path, delimiter=",")[:, 1:]
    shown = numbers(told["input"]["values"])
    assert (told["input"]["slices"], told["input"]["rank"]) == (3, 1)
    np.testing.assert_allclose(shown[0, 30:], values[1, 30:], atol=1e-6)
    assert not np.allclose(shown[0, 10:30], values[1, 10:30], atol=1e-3)
    whole = ask(client, path, "beats.txt", model="signals", target="yes", slice="1")
    x = open_data(f"ucr:{path}")[1].input[None]
    np.testing.assert_allclose(numbers(whole["map"]), pl.explain(network, x, "yes").map[0].numpy(), atol=1e-5)


def test_an_archive_of_images(client: TestClient, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "set.npz", train_images=images[:3], train_labels=np.zeros((3, 1), int), test_images=images[3:], test_labels=np.zeros((1, 1), int))  # fmt: skip
    told = ask(client, tmp_path / "set.npz", "set.npz", slice="3")["input"]
    np.testing.assert_allclose(numbers(told["values"]).transpose(1, 2, 0), images[3] / 255, atol=1e-6)
    assert told["slices"] == 4


def test_sixteen_bits_of_a_picture(client: TestClient, tmp_path: Path) -> None:
    deep = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    shown = numbers(ask(client, tmp_path / "deep.png", "deep.png")["input"]["values"])
    np.testing.assert_allclose(shown[0], deep / 65535, atol=1e-6)


def test_kind_is_seen_in_the_content(client: TestClient, tmp_path: Path) -> None:
    """Whatever a file is called."""
    assert ask(client, scan(tmp_path / "scan.dcm"), "IM0001")["input"]["unit"] == "HU"


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("empty.png", b"", "empty"),
        ("noise.bin", bytes(range(256)) * 4, "no kind"),
        ("words.png", b"this is no picture at all", "words.png"),
        ("cut.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cut.png"),
        ("page.html", b"<html><body>hello</body></html>", "page.html"),
    ],
)
def test_no_such_file(client: TestClient, name: str, data: bytes, word: str) -> None:
    told = problem(client.post("/v1/explain", files={"file": (name, data)}), 422)
    assert word in f"{told['title']} {told['detail']}"
    assert "pellucid-" not in str(told), "the place of a file on the server is nobody's business"


def test_too_many_pixels(client: TestClient, tmp_path: Path) -> None:
    data = bomb(tmp_path / "bomb.png").read_bytes()
    assert "40 million" in problem(client.post("/v1/explain", files={"file": ("bomb.png", data)}), 422)["detail"]


def test_too_many_voxels_are_seen_before_they_are_unpacked(client: TestClient, tmp_path: Path) -> None:
    """400 x 400 x 400 zeros are a few kilobytes when packed."""
    path = nifti_file(tmp_path / "large.nii.gz", np.zeros((400, 400, 400), np.uint8))
    told = problem(client.post("/v1/explain", files={"file": ("large.nii.gz", path.read_bytes())}), 422)
    assert "64,000,000" in told["detail"]


def test_an_archive_that_unpacks_to_too_much(client: TestClient, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "large.npz", train_images=np.zeros((2000, 400, 400), np.uint8))
    told = problem(client.post("/v1/explain", files={"file": ("x.npz", (tmp_path / "large.npz").read_bytes())}), 422)
    assert "unpacks" in told["detail"]


def test_a_file_for_another_network(client: TestClient, tmp_path: Path, photo: Path) -> None:
    path = series(tmp_path / "beats.txt")
    told = problem(client.post("/v1/explain", files={"file": ("beats.txt", path.read_bytes())}), 422)
    assert told["title"] == "The file holds series."
    problem(client.post("/v1/explain", files={"file": ("a.png", photo.read_bytes())}, data={"model": "signals"}), 422)


def test_a_series_of_another_length(client: TestClient, tmp_path: Path) -> None:
    """A convolutional network takes it; one value is too short for three strides, which is the file's fault."""
    told = ask(client, series(tmp_path / "long.txt", length=200), "long.txt", model="signals")
    assert told["input"]["size"] == [200]
    answer = client.post("/v1/explain", files={"file": ("a.txt", b"1,0.5,0.25\n")}, data={"model": "signals"})
    assert answer.status_code in (200, 422), answer.text[:300]


def originals(folder: Path) -> dict[str, tuple[list[bytes], int, Any]]:
    """Good files by kind, the bytes that count as their head, and how they are made to declare more than they hold."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
    pictures = []
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        stream = io.BytesIO()
        image.save(stream, kind)
        pictures.append(stream.getvalue())
    volume = np.random.default_rng(1).random((8, 8, 8)).astype(np.float32)
    np.savez(folder / "set.npz", train_images=np.zeros((2, 32, 32), np.uint8), train_labels=np.zeros((2, 1), int))

    def grown(copy: bytearray, chance: Any) -> None:
        at = chance.randrange(min(200, len(copy) - 4))
        copy[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x01\x00\x00"))

    return {
        "x.png": (pictures, 64, grown),
        "x.dcm": ([scan(folder / "a.dcm").read_bytes()], 400, inflate_dicom),
        "x.nii": ([nifti_file(folder / "a.nii", volume).read_bytes()], 352, inflate_nifti),
        "x.nii.gz": ([nifti_file(folder / "b.nii.gz", volume).read_bytes()], 30, grown),
        "x.npz": ([(folder / "set.npz").read_bytes()], 200, grown),
        "x.txt": ([series(folder / "a.txt").read_bytes()], 40, grown),
    }


def send_damaged(models: dict[str, Served], folder: Path, count: int, seed: int) -> dict[int, int]:
    """How often each status was answered to `count` damaged files."""
    import time

    found: dict[int, int] = {}
    kinds = originals(folder)
    with client_of(models) as client:
        for name, (files, head, inflate) in kinds.items():
            for _, data in damaged(files, -(-count // len(kinds)), head, inflate, seed):
                start = time.process_time()
                answer = client.post("/v1/explain", files={"file": (name, data)}, data={"with_input": "false"})
                assert time.process_time() - start < 2, name
                assert answer.status_code < 500, (name, answer.text)
                found[answer.status_code] = found.get(answer.status_code, 0) + 1
    return found


def test_damaged_files_are_read_or_refused(models: dict[str, Served], tmp_path: Path) -> None:
    found = send_damaged(models, tmp_path, 2000, seed=0)
    assert set(found) == {200, 422}


@pytest.mark.slow
def test_ten_thousand_damaged_files(models: dict[str, Served], tmp_path: Path) -> None:
    import resource

    found = send_damaged(models, tmp_path, 10_000, seed=1)
    print(found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB")
    assert set(found) == {200, 422}
