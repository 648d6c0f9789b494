"""Reading image files: the usual preprocessing to the last bit, every kind of pixel, and hostile files."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.data.image_file import Preparation, place_boxes, read_image, read_mask, read_picture
from pellucid.errors import BadInput, OptionError

SIZES = [(300, 400), (400, 300), (224, 224), (256, 256), (100, 333), (257, 511), (768, 685), (50, 40)]
PLAIN = Preparation(size=(3, 5), crop="resize", mean=(0, 0, 0), std=(1, 1, 1))


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth coloured pattern with some noise, so that resampling matters."""
    generator = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    waves = np.stack([np.sin(x * y + c) for c in range(3)], -1) * 90 + 120
    return np.clip(waves + generator.normal(0, 20, waves.shape), 0, 255).astype(np.uint8)


def saved(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_default_is_torchvisions_preset(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    presets = pytest.importorskip("torchvision.transforms._presets")
    path = saved(tmp_path / f"a{suffix}", noise(*size))
    wanted = presets.ImageClassification(crop_size=224)(Image.open(path).convert("RGB"))
    torch.testing.assert_close(read_image(path).input, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("crop", "shorter"), [(299, 342), (224, 232), (480, 480)])
def test_other_sizes_are_torchvisions_too(tmp_path: Path, crop: int, shorter: int) -> None:
    presets = pytest.importorskip("torchvision.transforms._presets")
    path = saved(tmp_path / "a.png", noise(333, 290))
    wanted = presets.ImageClassification(crop_size=crop, resize_size=shorter)(Image.open(path).convert("RGB"))
    found = read_image(path, size=crop, shorter_side=shorter).input
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_photographs_come_out_as_from_torchvision(test_data: Path) -> None:
    presets = pytest.importorskip("torchvision.transforms._presets")
    paths = sorted((test_data / "photographs_imagenet").glob("*.*"))[:12]
    assert paths
    for path in paths:
        wanted = presets.ImageClassification(crop_size=224)(Image.open(path).convert("RGB"))
        torch.testing.assert_close(read_image(path).input, wanted, atol=1e-6, rtol=0)


def test_resize_ignores_proportions_and_the_image_is_what_the_network_sees(tmp_path: Path) -> None:
    array = noise(90, 60)
    sample = read_image(saved(tmp_path / "a.png", array), size=(20, 40), crop="resize", mean=(0, 0, 0), std=(1, 1, 1))
    wanted = np.asarray(Image.fromarray(array).resize((40, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(sample.image, wanted)
    torch.testing.assert_close(sample.input * 255, torch.tensor(wanted).permute(2, 0, 1).float())
    assert (sample.name, sample.meta["file_size"]) == ("a.png", (90, 60))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", noise(8, 6), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path))
    found = read_image(path, size=upright.size[::-1], crop="resize")
    np.testing.assert_array_equal(found.image, np.asarray(upright))
    assert found.meta["file_size"] == upright.size


def rgb(path: Path, preparation: Preparation = PLAIN) -> np.ndarray:
    return read_picture(path, preparation).input.numpy()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_keep_their_depth_and_a_window_chooses_from_them(tmp_path: Path, suffix: str) -> None:
    values = np.arange(15, dtype=np.uint16).reshape(3, 5) * 4000
    path = saved(tmp_path / f"a{suffix}", values)
    np.testing.assert_allclose(rgb(path), np.broadcast_to(values / 65535, (3, 3, 5)), atol=1e-7)
    windowed = Preparation(size=(3, 5), crop="resize", mean=(0,), std=(1,), grey=True, window=(4000, 20000))
    wanted = np.clip((values.astype(float) - 4000) / 16000, 0, 1)
    np.testing.assert_allclose(rgb(path, windowed), wanted[None], atol=1e-6)


def test_float_files_need_a_window(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", np.linspace(-1, 2, 15, dtype=np.float32).reshape(3, 5))
    with pytest.raises(BadInput, match="window"):
        read_picture(path)
    found = rgb(path, Preparation(size=(3, 5), crop="resize", mean=(0, 0, 0), std=(1, 1, 1), window=(-1, 2)))
    np.testing.assert_allclose(found[0].ravel(), np.linspace(0, 1, 15), atol=1e-6)
    saved(path, np.full((3, 5), np.nan, np.float32))
    with pytest.raises(BadInput, match="no numbers"):
        read_picture(path, Preparation(window=(-1, 2)))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("P", ".png"), ("RGBA", ".png"), ("LA", ".png"), ("L", ".png"), ("1", ".png"), ("CMYK", ".tif")],
)
def test_every_mode_becomes_rgb_or_grey(tmp_path: Path, mode: str, suffix: str) -> None:
    path = saved(tmp_path / f"a{suffix}", noise(5, 3), mode)
    wanted = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(np.round(rgb(path) * 255), wanted.transpose(2, 0, 1))
    grey = Preparation(size=(3, 5), crop="resize", mean=(0,), std=(1,), grey=True)
    np.testing.assert_array_equal(np.round(rgb(path, grey) * 255)[0], np.asarray(Image.open(path).convert("L")))


def test_a_mask_follows_its_picture(tmp_path: Path) -> None:
    """A picture that is white exactly where its mask is set must come out white there, whatever the layout."""
    truth = np.zeros((60, 90), np.uint8)
    truth[12:36, 33:63] = 1
    path = saved(tmp_path / "a.png", np.repeat(truth[..., None] * 255, 3, 2))
    mask = saved(tmp_path / "m.png", truth)
    for preparation in (
        Preparation(size=24, shorter_side=30),
        Preparation(size=(30, 45), crop="resize"),
        Preparation(size=120),
    ):
        picture = read_picture(path, preparation)
        found = read_mask(mask, picture.layout).numpy()
        bright = picture.image[..., 0] > 127
        assert found.any()
        assert (found != bright).mean() < 0.03
        boxed = place_boxes([(33, 12, 63, 36)], picture.layout).numpy()
        assert (boxed != bright).mean() < 0.03


def test_nearest_neighbour_by_hand(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 3], [1, 1, 2, 2]], np.uint8)
    mask = saved(tmp_path / "m.png", values)
    layout = Preparation(size=(4, 8), crop="resize").layout(4, 2)
    wanted = np.repeat(np.repeat(values, 2, 0), 2, 1)
    np.testing.assert_array_equal(read_mask(mask, layout).numpy(), wanted != 0)
    np.testing.assert_array_equal(read_mask(mask, layout, [1]).numpy(), wanted == 1)
    np.testing.assert_array_equal(read_mask(mask, layout, [1, 3]).numpy(), np.isin(wanted, [1, 3]))


def test_palette_masks_are_read_by_index_and_coloured_ones_not_by_value(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    picture.putdata([0, 1, 2])
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    picture.save(tmp_path / "m.png")
    layout = Preparation(size=(1, 3), crop="resize").layout(3, 1)
    assert read_mask(tmp_path / "m.png", layout, [2]).tolist() == [[False, False, True]]
    picture.convert("RGB").save(tmp_path / "c.png")
    assert read_mask(tmp_path / "c.png", layout).tolist() == [[True, True, True]]
    with pytest.raises(BadInput, match="colour"):
        read_mask(tmp_path / "c.png", layout, [2])


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    mask = saved(tmp_path / "m.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(BadInput, match="5 x 4"):
        read_mask(mask, Preparation().layout(5, 5))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )


def jpeg(tmp_path: Path) -> bytes:
    return saved(tmp_path / "whole.jpg", noise(200, 150)).read_bytes()


def test_bad_files_are_refused_in_three_parts(tmp_path: Path) -> None:
    whole = jpeg(tmp_path)
    contents = {
        "text.png": b"this is no picture\n", "empty.png": b"", "cut.jpg": whole[: len(whole) // 2], "bomb.png": bomb(50_000, 50_000),
        "large.png": bomb(8_000, 8_000), "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }  # fmt: skip
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        start = time.process_time()
        with pytest.raises(BadInput) as caught:
            read_image(path)
        assert time.process_time() - start < 0.5
        assert name in caught.value.message
        assert caught.value.path == str(path)
        assert caught.value.why
        assert caught.value.hint
    for path in (tmp_path / "missing.png", tmp_path, "nul\0.png"):
        with pytest.raises(BadInput, match="no file"):
            read_image(path)


def test_a_thin_strip_is_refused_before_it_is_blown_up(tmp_path: Path) -> None:
    path = saved(tmp_path / "strip.png", np.zeros((2, 20_000), np.uint8))
    with pytest.raises(BadInput, match="shorter side"):
        read_image(path)
    assert read_image(path, crop="resize").input.shape == (3, 224, 224)


def test_impossible_options_are_refused() -> None:
    for options in (
        {"size": 0},
        {"size": (1, 2, 3)},
        {"crop": "center"},
        {"shorter_side": 100},
        {"mean": (0, 0)},
        {"std": (0, 1, 1)},
        {"window": (2, 1)},
    ):
        with pytest.raises(OptionError):
            Preparation(**options)
    with pytest.raises(OptionError, match="shorter_side"):
        read_image("a.png", shorter_sid=3)


def mutated(generator: np.random.Generator, whole: bytes) -> bytes:
    """Cut off, or a few bytes of the header or body changed, or a size field made large."""
    data, kind = bytearray(whole), generator.integers(4)
    if kind == 0:
        return bytes(data[: generator.integers(len(data))])
    if kind == 3:
        for at in generator.integers(0, min(200, len(data) - 4), 3):
            data[at : at + 4] = generator.choice([b"\xff\xff\xff\xff", b"\x00\x00\xff\xff", b"\x7f\xff\xff\xff"])
        return bytes(data)
    low, high = (0, min(120, len(data))) if kind == 1 else (min(120, len(data) - 1), len(data))
    for at in generator.integers(low, high, generator.integers(1, 9)):
        data[at] = generator.integers(256)
    return bytes(data)


def test_300_damaged_files_give_finite_pixels_or_bad_input(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    array = noise(80, 60)
    wholes = {
        suffix: saved(tmp_path / f"whole{suffix}", a, **options).read_bytes()
        for suffix, a, options in (
            (".png", array, {}), (".jpg", array, {}), (".webp", array, {}), (".gif", array[..., 0], {}), (".bmp", array, {}),
            (".tif", array, {"compression": "tiff_lzw"}), (".tiff", array.astype(np.uint16)[..., 0] * 257, {}),
        )
    }  # fmt: skip
    good = 0
    for number in range(300):
        suffix = list(wholes)[number % len(wholes)]
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(mutated(generator, wholes[suffix]))
        start = time.process_time()
        try:
            sample = read_image(path, size=32)
            assert torch.isfinite(sample.input).all()
            assert sample.input.shape == (3, 32, 32)
            good += 1
        except BadInput:
            pass
        assert time.process_time() - start < 2
    assert 20 < good < 280
