"""From the bytes that a client sent to an input of a network, through the readers of files and their limits.

bytes ── kind (by content, then by name) ──> a file in a folder of its own ── reader ──> Upload: input, values to show
"""

from __future__ import annotations

import gzip
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from PIL import Image
from torch import Tensor, nn

from pellucid.data import open_data
from pellucid.data.image_file import MOST_PIXELS, Layout, Preparation, prepared
from pellucid.data.nifti import Volume
from pellucid.data.volume import PERCENTILES
from pellucid.errors import BadInput, PellucidError
from pellucid.networks import preprocessing, reading_for
from pellucid.sample import Dataset, Sample

MOST_UNPACKED = 1 << 28  # bytes of an archive
MOST_SAMPLES = 1 << 20  # of a series
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\x00", b"MM\x00*", b"RIFF", b"GIF8", b"BM", b"P5", b"P6")


@dataclass(frozen=True)
class Shown:
    """What a person sees of an input: values before normalisation, and what they mean.

    window: (centre, width) of the values that the network is shown from black to white; unit: of the values, None where
    they are shares of white. slices, slice: how many inputs the file holds, and which this is. rate: samples per
    rate_unit of time.
    """

    values: Float[Tensor, "channels *spatial"]
    window: tuple[float, float] | None = None
    unit: str | None = None
    spacing: tuple[float, ...] | None = None
    slices: int = 1
    slice: int = 0
    rate: float | None = None
    rate_unit: str | None = None


@dataclass(frozen=True)
class Upload:
    """An input ready for one network. sample: as the readers give it; shown: for people."""

    sample: Sample
    shown: Shown

    @property
    def x(self) -> Float[Tensor, "1 channels *spatial"]:
        return self.sample.input[None]


@dataclass(frozen=True)
class Wish:
    """Which input of a file, and how it is to be windowed."""

    slice: int | None = None
    window: tuple[float, float] | None = None

    def pick(self, count: int, usual: int = 0) -> int:
        """The chosen one of `count`. Raises `BadInput` where there is none of that number."""
        if self.slice is None:
            return usual
        if self.slice >= count:
            raise BadInput(
                f"There is no slice {self.slice}.", why=f"The file holds {count}.", hint=f"Choose 0 to {count - 1}."
            )
        return self.slice

    @property
    def ends(self) -> tuple[float, float] | None:
        """The values that become black and white."""
        if self.window is None:
            return None
        centre, width = self.window
        if not width > 0:
            raise BadInput(f"The window is {width:g} wide.", why="Its width is above 0.", hint="Give [centre, width].")
        return centre - width / 2, centre + width / 2


def kind_of(data: bytes, name: str) -> str:
    """The suffix by which the readers know such a file. Raises `BadInput` for what none of them reads."""
    lower = name.lower()
    head = data[:4]
    if data[128:132] == b"DICM" or lower.endswith((".dcm", ".dicom", ".ima")):
        return ".dcm"
    if head[:2] == b"\x1f\x8b":
        return ".nii.gz"
    if {int.from_bytes(head, "little"), int.from_bytes(head, "big")} & set(_SIDES):
        return ".nii"
    if head == b"PK\x03\x04":
        return ".npz"
    if head.startswith(_PICTURES):
        return ".png"
    if data and _is_text(data[:4096]):
        return next((s for s in (".ts", ".arff") if lower.endswith(s)), ".txt")
    raise BadInput(
        f"{name or 'The file'} is of no kind that is read here." if data else "The file is empty.",
        why="Read are JPEG, PNG, TIFF, WebP, DICOM, NIfTI, npz, and series as text.",
        hint="Save it as one of these.",
    )


def _is_text(data: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in data)


def read(network: nn.Module, shape: Sequence[int], data: bytes, name: str, wish: Wish) -> Upload:
    """The input that a network of inputs like `shape` (channels, *spatial) is given for a file's bytes.

    Raises `BadInput` for a file that cannot be read or does not fit the network, `OptionError` where the package for it
    is not installed. Messages speak of the file by its own name.
    """
    suffix = kind_of(data, name)
    with tempfile.TemporaryDirectory(prefix="pellucid-") as folder:
        path = Path(folder) / f"upload{suffix}"
        path.write_bytes(data)
        try:
            with np.errstate(all="ignore"):  # what overflows is not finite, and refused
                upload = _READERS.get(suffix, _series)(network, len(shape) - 1, path, wish)
        except PellucidError as error:
            raise _named(error, path, name or "The file") from error
    check_suits(upload.sample, shape)
    if not (upload.sample.input.isfinite().all() and upload.shown.values.isfinite().all()):
        raise BadInput(f"{name or 'The file'} holds values that are too large.", hint="Scale them down.")
    return upload


def _named(error: PellucidError, path: Path, name: str) -> PellucidError:
    def told(text: str) -> str:
        return text.replace(str(path), name).replace(path.name, name).replace(path.stem, name)

    return type(error)(told(error.message), why=told(error.why), hint=told(error.hint))


def check_suits(sample: Sample, shape: Sequence[int]) -> None:
    """Raise `BadInput` for a sample of other axes or channels than `shape` (channels, *spatial), which the network takes."""
    kinds = {1: "series", 2: "pictures", 3: "volumes"}
    came, rank = sample.input.ndim - 1, len(shape) - 1
    if came != rank:
        raise BadInput(
            f"The file holds {kinds.get(came, 'something else')}.",
            why=f"The network takes {kinds[rank]}.",
            hint="Send another file, or choose another network.",
        )
    if len(sample.input) != shape[0]:
        raise BadInput(
            f"The input has {len(sample.input)} channels.",
            why=f"The network takes {shape[0]}.",
            hint="Send another file, or choose another network.",
        )


def shown_of(network: nn.Module, sample: Sample) -> Float[Tensor, "channels *spatial"]:
    """A sample's values before normalisation."""
    known = preprocessing(network)
    channels, axes = sample.input.shape[0], sample.input.ndim - 1
    if axes == 1:
        return sample.input
    usual = Preparation(grey=channels == 1)
    mean, std = (torch.tensor(known.get(key) or getattr(usual, key)).view(-1, *(1,) * axes) for key in ("mean", "std"))
    return sample.input * std + mean


# --- one function per kind of file -----------------------------------------------------------------------------------


def _opened(network: nn.Module, path: Path, **given: Any) -> Dataset:
    return open_data(path, **reading_for(network, str(path), given))


def _picture(network: nn.Module, rank: int, path: Path, wish: Wish) -> Upload:
    given = {} if wish.ends is None else {"window": wish.ends}
    sample = _opened(network, path, **given)[wish.pick(1)]
    return Upload(sample, Shown(shown_of(network, sample)))


def _dicom(network: nn.Module, rank: int, path: Path, wish: Wish) -> Upload:
    """A frame, windowed for the network; shown in the values of the modality, so that nothing of 12 bits is lost."""
    from pellucid.data import dicom_file

    given = {} if wish.ends is None else {"window": wish.ends}
    frames: Any = _opened(network, path, **given)
    k = wish.pick(len(frames))
    sample = frames[k]
    with dicom_file.quietly():
        frame, stored = dicom_file.read_frame(path, k)
        if stored.ndim == 3:  # in colour, which is shown as it is
            return Upload(sample, Shown(shown_of(network, sample), slices=len(frames), slice=k))
        grey = dicom_file.modality_values(frame, stored)
        window = wish.window or _window(frames.preparation, frame, grey)
        unit = {"CT": "HU"}.get(str(frame.get("Modality")), "stored value")
    layout = frames.preparation.layout(grey.shape[1], grey.shape[0])
    spacing = _spacing(sample.meta.get("PixelSpacing"), layout)
    return Upload(sample, Shown(_placed(grey, layout), window, unit, spacing, len(frames), k))


def _window(preparation: Any, frame: Any, grey: Array) -> tuple[float, float]:
    """(centre, width) of what the network is shown: the training's window, else the file's, else all values."""
    from pellucid.data import dicom_file

    fixed, views = preparation.window, dicom_file.views(frame)
    if fixed is not None and isinstance(fixed[0], int | float):
        return _centred(*fixed)
    if views and isinstance(views[0], dicom_file.Window):
        return views[0].centre, views[0].width
    return _centred(grey.min(), grey.max())


def _centred(low: float, high: float) -> tuple[float, float]:
    return (float(low) + float(high)) / 2, float(high) - float(low)


def _placed(grey: Array, layout: Layout) -> Float[Tensor, "1 height width"]:
    """Grey values at the input's size, scaled and cropped as the network's."""
    picture = Image.fromarray(np.ascontiguousarray(grey, np.float32))
    return torch.from_numpy(np.array(layout.place(picture), np.float32))[None]


def _spacing(between: Sequence[float] | None, layout: Layout) -> tuple[float, float] | None:
    """mm between the input's rows and columns, from those of the file."""
    if not between:
        return None
    (width, height), (across, down) = layout.file, layout.scaled
    return between[0] * height / down, between[1] * width / across


def _volume(network: nn.Module, rank: int, path: Path, wish: Wish) -> Upload:
    """A volume for a network of volumes; for one of pictures a slice across the body's long axis."""
    _check_nifti(path)
    if rank == 2:
        return _plane(network, path, wish)
    given = {} if wish.ends is None else {"window": wish.ends}
    sample = _opened(network, path, **given)[wish.pick(1)]
    affine = np.array(sample.meta["affine"])
    spacing = tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    return Upload(sample, Shown(shown_of(network, sample), spacing=spacing))


def _plane(network: nn.Module, path: Path, wish: Wish) -> Upload:
    """A slice as on a light box: the patient's right on the left, the front on top."""
    from pellucid.data.nifti import read_volume

    volume = read_volume(path).canonical()
    if not np.isfinite(volume.values).all():
        raise BadInput(f"{path} holds values that are no numbers.", why="NaN or infinity came.", hint="Replace them.")
    count = volume.values.shape[2]
    k = wish.pick(count, count // 2)
    plane = volume.values[::-1, ::-1, k].T
    low, high = wish.ends or (float(v) for v in np.percentile(volume.values, PERCENTILES))
    grey = ((plane - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(plane)
    known = {f.name for f in fields(Preparation)} - {"window"}
    preparation = Preparation(**{name: v for name, v in preprocessing(network).items() if name in known})
    picture = prepared([Image.fromarray(np.ascontiguousarray(grey, np.float32))], preparation, path)
    sample = Sample(picture.input, name=path.name, image=picture.image, meta=_told(volume, k, picture.layout))
    spacing = _spacing((volume.spacing[1], volume.spacing[0]), picture.layout)
    return Upload(sample, Shown(_placed(plane, picture.layout), _centred(low, high), "stored value", spacing, count, k))


def _told(volume: Volume, k: int, layout: Layout) -> dict[str, Any]:
    """What is needed to write results back: where (row, column, slice) of the plane lie, and how it was placed."""
    across, down = volume.values.shape[:2]
    turned = np.array([[0, -1, 0, across - 1], [-1, 0, 0, down - 1], [0, 0, 1, k], [0, 0, 0, 1]])
    place = {"scaled": layout.scaled, "corner": layout.corner, "size": layout.size}
    return {"affine": (volume.affine @ turned).tolist(), "file_size": layout.file, "placed": place}


def _check_nifti(path: Path) -> None:
    """Refuse a volume larger than pictures may be before anything of it is unpacked."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            voxels = _voxels(stream.read(64))
    except (OSError, EOFError, zlib.error):
        return  # the reader says what is wrong
    if voxels > MOST_PIXELS:
        raise BadInput(
            f"{path} is too large.",
            why=f"It declares {voxels:,.0f} voxels; at most {MOST_PIXELS // 10**6} million are read here.",
            hint="Resample it first.",
            path=path,
        )


_SIDES = {348: ("i2", 40), 540: ("i8", 16)}  # length of a head -> type of the sides in it, and where they are


def _voxels(head: bytes) -> float:
    """What a NIfTI head declares, in either byte order; 0 for what is none."""
    for order in ("<", ">") if len(head) == 64 else ():
        kind, at = _SIDES.get(int(np.frombuffer(head, f"{order}i4", 1)[0]), ("", 0))
        if kind:
            return float(np.prod(np.frombuffer(head, order + kind, 4, at)[1:].astype(float).clip(1)))
    return 0.0


def _arrays(network: nn.Module, rank: int, path: Path, wish: Wish) -> Upload:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except Exception as error:  # damaged archives raise many types
        raise BadInput(f"{path} is no npz archive.", why=str(error), hint="Write it again.", path=path) from error
    if unpacked > MOST_UNPACKED:
        raise BadInput(
            f"{path} is too large.",
            why=f"It unpacks to {unpacked >> 20} MiB; at most {MOST_UNPACKED >> 20} are read here.",
            hint="Send fewer images.",
            path=path,
        )
    images = _opened(network, path, split="all")
    k = wish.pick(len(images))
    sample = images[k]
    return Upload(sample, Shown(shown_of(network, sample), slices=len(images), slice=k))


def _series(network: nn.Module, rank: int, path: Path, wish: Wish) -> Upload:
    lines: Any = open_data(f"ucr:{path}", **reading_for(network, f"ucr:{path}", {}))
    k = wish.pick(len(lines))
    sample = lines[k]
    _check_length(sample, path)
    return Upload(sample, series_shown(sample, lines, len(lines), k))


def series_shown(sample: Sample, data: Any, slices: int = 1, slice: int = 0) -> Shown:
    """A series with its clock, where the data set has one."""
    rate = data.preparation.rate
    unit = None if rate is None else data.preparation.unit
    return Shown(sample.input, slices=slices, slice=slice, rate=rate, rate_unit=unit)


def _check_length(sample: Sample, path: Path) -> None:
    """A series is as long as its file has it, and feature maps are many times as large."""
    if sample.input.numel() > MOST_SAMPLES:
        raise BadInput(
            f"{path} holds a series of {sample.input.numel():,} values.",
            why=f"At most {MOST_SAMPLES:,} are read here.",
            hint="Cut it or resample it first.",
        )


_READERS: Mapping[str, Callable[[nn.Module, int, Path, Wish], Upload]] = {
    ".png": _picture,
    ".dcm": _dicom,
    ".nii": _volume,
    ".nii.gz": _volume,
    ".npz": _arrays,
}
