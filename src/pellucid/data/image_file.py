"""Image files made ready for a network, safely: PIL and torch only.

Files come from outside. Whatever is in them, the result is finite pixels or `BadInput`: the declared size is checked before
anything is decoded, and every failure of a decoder is reported as a bad file.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray as Array
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pellucid.errors import BadInput, OptionError, PellucidError, nearest
from pellucid.sample import Sample
from pellucid.spatial import boxes_to_mask

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm"})
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)
MOST_PIXELS = 40_000_000

# Decoders of raster formats only: others (EPS and its like) would start programs.
_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
# Modes with more than 8 bits, and the value that is full scale where the type alone says it.
_DEEP: Mapping[str, float | None] = {
    "I;16": 65535.0,
    "I;16L": 65535.0,
    "I;16B": 65535.0,
    "I;16N": 65535.0,
    "I": None,
    "F": None,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes an input. The defaults are the usual ones of ImageNet networks.

    size: side, or (height, width), of the input. crop: "centre" scales the shorter side to `shorter_side` (default: 8/7
    of the larger of height and width) and takes the middle; "resize" scales to `size`, whatever the proportions. Scaling is bilinear with
    antialiasing. mean, std: per channel, on values from 0 to 1. grey: one channel instead of three. window: (low, high)
    grey values of a 16-bit or float file that become 0 and 1; None: the full range of 16 bits.
    """

    size: int | tuple[int, int] = 224
    crop: Literal["centre", "resize"] = "centre"
    shorter_side: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    grey: bool = False
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        if len(size) != 2 or min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
            raise OptionError(
                f"size is {self.size!r}.",
                why="It must be a side or (height, width), in pixels.",
                hint="Give size=224, for example.",
            )
        if self.crop not in ("centre", "resize"):
            raise OptionError(f"There is no crop '{self.crop}'.", hint=nearest(self.crop, ("centre", "resize")))
        shorter = self.shorter_side or round(max(size) * 8 / 7)
        if self.crop == "centre" and shorter < max(size):
            raise OptionError(
                f"shorter_side is {shorter}.",
                why=f"The crop needs {max(size)} pixels.",
                hint="Give a larger shorter_side.",
            )
        mean = self.mean or (GREY_MEAN if self.grey else IMAGENET_MEAN)
        std = self.std or (GREY_STD if self.grey else IMAGENET_STD)
        channels = 1 if self.grey else 3
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise OptionError(
                f"mean has {len(mean)} and std {len(std)} values.",
                why=f"{channels} positive ones are needed.",
                hint="Give one per channel.",
            )
        if self.window is not None and not (
            len(self.window) == 2 and _numbers(self.window) and self.window[0] < self.window[1]
        ):
            raise OptionError(
                f"window is {self.window!r}.",
                why="The low end must be below the high end.",
                hint="Give window=(low, high).",
            )
        for name, value in (("size", size), ("shorter_side", shorter), ("mean", tuple(mean)), ("std", tuple(std))):
            object.__setattr__(self, name, value)

    @property
    def height(self) -> int:
        return self.size[0]  # type: ignore[index]

    @property
    def width(self) -> int:
        return self.size[1]  # type: ignore[index]

    def layout(self, width: int, height: int) -> Layout:
        """Where a picture of `width` x `height` pixels goes."""
        if self.crop == "resize":
            return Layout((width, height), (self.width, self.height), (0, 0), (self.width, self.height))
        assert self.shorter_side is not None
        short, long = sorted((width, height))
        scaled_long = int(self.shorter_side * long / short)
        scaled = (self.shorter_side, scaled_long) if width <= height else (scaled_long, self.shorter_side)
        left, top = round((scaled[0] - self.width) / 2.0), round((scaled[1] - self.height) / 2.0)
        return Layout((width, height), scaled, (left, top), (self.width, self.height))


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) for v in values)


@dataclass(frozen=True)
class Layout:
    """From a file's pixels to the input's: scale `file` to `scaled`, then take `size` from `corner`. All (x, y)."""

    file: tuple[int, int]
    scaled: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]

    def place(self, picture: Image.Image, resample: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
        (left, top), (width, height) = self.corner, self.size
        scaled = picture if picture.size == self.scaled else picture.resize(self.scaled, resample)
        return scaled.crop((left, top, left + width, top + height))

    def boxes(self, boxes: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
        """Boxes (x0, y0, x1, y1) of the file in pixels of the input; they may reach beyond it."""
        sx, sy = (s / f for s, f in zip(self.scaled, self.file, strict=True))
        left, top = self.corner
        return [(x0 * sx - left, y0 * sy - top, x1 * sx - left, y1 * sy - top) for x0, y0, x1, y1 in boxes]


def preparation_from(options: Mapping[str, Any], reader: Callable[..., Any]) -> Preparation:
    """The options of a reader that concern the picture; an unknown one is refused with the nearest known name."""
    check_options(options, reader, Preparation)
    return Preparation(**options)


def check_options(options: Mapping[str, Any], reader: Callable[..., Any], settings: Any) -> None:
    """Raise `OptionError` for an option that is no field of the dataclass `settings`."""
    known = [f.name for f in fields(settings)]
    own = [p.name for p in inspect.signature(reader).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise OptionError(
                f"The reader '{reader.__name__}' has no option '{name}'.", hint=nearest(name, [*own, *known])
            )


@dataclass(frozen=True)
class Picture:
    """A file made ready: the network's input, the same pixels for display, and how they were placed."""

    input: Float[Tensor, "channels height width"]
    image: Array
    layout: Layout


def read_picture(path: str | Path, preparation: Preparation = Preparation()) -> Picture:
    """Read an image file upright (EXIF orientation), scaled, cropped and normalised.

    Palette, transparent, CMYK and grey pictures become RGB (or grey where asked); 16-bit ones keep their depth. Raises
    `BadInput` for a file that is missing, damaged, no image, or larger than 40 million pixels.
    """
    with opened(path) as file:
        deep = _full_scale(file, preparation.window)
        upright = _upright(file)
        if deep is not None:
            upright = _scaled_values(upright, *deep)
        return prepared([upright], preparation, path)


def prepared(pictures: Sequence[Image.Image], preparation: Preparation, path: str | Path = "") -> Picture:
    """One decoded picture, or one per channel, scaled, cropped and normalised.

    Pictures of floats (mode F) hold values from 0 to 1; those outside are cut off. Raises `BadInput` for a picture that
    would be too large once scaled.
    """
    deep = pictures[0].mode == "F"
    wanted = "L" if preparation.grey else "RGB"
    fit = [p if deep or p.mode == wanted else p.convert(wanted) for p in pictures]
    layout = _checked(preparation.layout(*fit[0].size), path)
    planes = [torch.from_numpy(np.array(layout.place(p), np.float32 if deep else None)) for p in fit]
    values = [p.clamp(0, 1) if deep else p.float().div(255) for p in planes]
    channels = torch.cat([v[None] if v.ndim == 2 else v.permute(2, 0, 1) for v in values])
    channels = channels.expand(1 if preparation.grey else 3, -1, -1)
    mean, std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (preparation.mean, preparation.std))
    shown = (channels * 255).round().to(torch.uint8).permute(1, 2, 0)
    image = np.ascontiguousarray(shown[..., 0] if preparation.grey else shown)
    return Picture(((channels - mean) / std).contiguous(), image, layout)


def read_image(path: str | Path, **options: Any) -> Sample:
    """One image file as an unlabelled sample; options are those of `Preparation`."""
    picture = read_picture(path, preparation_from(options, read_image))
    return Sample(
        picture.input,
        name=Path(path).name,
        image=picture.image,
        meta={"path": str(path), "file_size": picture.layout.file},
    )


def read_mask(
    path: str | Path, layout: Layout, values: Sequence[int] | None = None
) -> Bool[Tensor, "height width"]:  # fmt: skip
    """A mask file placed like its picture, by nearest neighbour. `values` are those that count; None: all but 0.

    Palette masks are read by index. Raises `BadInput` where the mask's size is not the (upright) picture's.
    """
    with opened(path) as file:
        upright = _upright(file)
        if upright.size != layout.file:
            raise BadInput(
                f"The mask {path} is {upright.size[0]} x {upright.size[1]} pixels.",
                why=f"Its picture is {layout.file[0]} x {layout.file[1]}.",
                hint="Give each picture a mask of its own size.",
                path=path,
            )
        raw = np.asarray(upright if upright.mode not in ("RGBA", "LA") else upright.convert(upright.mode[:-1]))
    if raw.ndim == 3:
        if values is not None and (raw != raw[..., :1]).any():
            raise BadInput(
                f"The mask {path} is in colour.",
                why="mask_values needs one number per pixel.",
                hint="Save it as a grey or palette image.",
                path=path,
            )
        raw = raw.max(axis=2)
    chosen = raw != 0 if values is None else np.isin(raw, list(values))
    placed = layout.place(Image.fromarray(chosen.astype(np.uint8)), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(placed) != 0)


def place_boxes(boxes: Sequence[Sequence[float]], layout: Layout) -> Bool[Tensor, "height width"]:
    """The union of boxes (x0, y0, x1, y1), in pixels of the upright picture, as a mask of the input."""
    width, height = layout.size
    return boxes_to_mask(layout.boxes(boxes), (height, width))


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file whose declared size has been checked; whatever fails inside is reported as a bad file."""
    source = Path(path)
    try:
        found = source.is_file()
    except (OSError, ValueError):
        found = False
    if not found:
        raise BadInput(f"There is no file {path}.", hint="Check the path.", path=path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn about what is either readable all the same or fails below
        try:
            with Image.open(source, formats=_FORMATS) as file:
                _check_size(*file.size, path)
                yield file
        except PellucidError:
            raise
        except Image.DecompressionBombError as error:
            raise _too_large(str(error), path) from error
        except UnidentifiedImageError as error:
            raise BadInput(
                f"{path} is not an image.",
                why=f"Its content is none of {', '.join(_FORMATS)}.",
                hint="Remove it or save it again as PNG.",
                path=path,
            ) from error
        except Exception as error:  # decoders raise a dozen types on damaged files
            raise BadInput(
                f"{path} could not be read as an image.",
                why=f"{type(error).__name__}: {error}",
                hint="Remove it or save it again.",
                path=path,
            ) from error


def _check_size(width: int, height: int, path: str | Path) -> None:
    if width < 1 or height < 1:
        raise BadInput(f"{path} has no pixels.", why=f"Its size is {width} x {height}.", hint="Remove it.", path=path)
    if width * height > MOST_PIXELS:
        raise _too_large(f"It declares {width:,} x {height:,} pixels", path)


def _too_large(came: str, path: str | Path) -> BadInput:
    return BadInput(
        f"{path} is too large.",
        why=f"{came}; at most {MOST_PIXELS // 10**6} million are read.",
        hint="Scale it down first.",
        path=path,
    )


def _checked(layout: Layout, path: str | Path) -> Layout:
    """A thin strip grows beyond all bounds when its shorter side is scaled up."""
    if layout.scaled[0] * layout.scaled[1] > MOST_PIXELS:
        raise BadInput(
            f"{path} is {layout.file[0]} x {layout.file[1]} pixels.",
            why="Scaled to the wanted shorter side it would be too large.",
            hint="Use crop=resize or cut it first.",
            path=path,
        )
    return layout


def _upright(file: Image.Image) -> Image.Image:
    orientation = _UPRIGHT.get(file.getexif().get(0x0112, 1))
    file.load()
    return file if orientation is None else file.transpose(orientation)


def _full_scale(file: Image.Image, window: tuple[float, float] | None) -> tuple[float, float] | None:
    """The values of a deep grey picture that become 0 and 1; None for 8-bit pictures."""
    if file.mode not in _DEEP:
        return None
    if window is not None:
        return window
    full = _DEEP[file.mode] or (65535.0 if file.format in ("PNG", "PPM") else None)
    if full is None:
        raise BadInput(
            f"{file.filename} holds {'float' if file.mode == 'F' else '32-bit'} values.",  # type: ignore[attr-defined]
            why="Which of them is black and which white is not known.",
            hint="Give window=(low, high).",
            path=file.filename,  # type: ignore[attr-defined]
        )
    return 0.0, full


def _scaled_values(picture: Image.Image, low: float, high: float) -> Image.Image:
    """A deep picture as a float one, 0 at `low` and 1 at `high`."""
    values = np.asarray(picture).astype(np.float32)
    if not np.isfinite(values).all():
        raise BadInput(
            "The picture holds values that are no numbers.", why="NaN or infinity came.", hint="Replace them first."
        )
    return Image.fromarray(np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32))
