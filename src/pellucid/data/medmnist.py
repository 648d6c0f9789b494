"""MedMNIST, in two and three dimensions: files of images and labels (`.npz`) with a published split."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from PIL import Image

from pellucid import files
from pellucid.data.folder import numbered
from pellucid.data.image_file import Preparation, check_options, prepared
from pellucid.data.image_set import sides_in
from pellucid.data.volume import Volumes
from pellucid.errors import BadInput, OptionError, nearest
from pellucid.sample import Facts, Sample

PARTS = ("train", "val", "test")
MOST_BYTES = 1 << 32  # of a packed part, which has to be unpacked as a whole
PLAIN, SEVERAL, ORDERED = "multi-class", "multi-label", "ordinal"

_ORGANS = "bladder|femur-left|femur-right|heart|kidney-left|kidney-right|liver|lung-left|lung-right|pancreas|spleen"
# What the files do not say: the names of the classes, from the collection's own list (Yang et al., Scientific Data 2023).
_NAMES = {
    "pathmnist": "adipose|background|debris|lymphocytes|mucus|smooth muscle|normal colon mucosa|cancer-associated stroma|colorectal adenocarcinoma epithelium",
    "chestmnist": "atelectasis|cardiomegaly|effusion|infiltration|mass|nodule|pneumonia|pneumothorax|consolidation|edema|emphysema|fibrosis|pleural|hernia",
    "dermamnist": "actinic keratoses and intraepithelial carcinoma|basal cell carcinoma|benign keratosis-like lesions|dermatofibroma|melanoma|melanocytic nevi|vascular lesions",
    "octmnist": "choroidal neovascularization|diabetic macular edema|drusen|normal",
    "pneumoniamnist": "normal|pneumonia",
    "retinamnist": "0|1|2|3|4",
    "breastmnist": "malignant|normal, benign",
    "bloodmnist": "basophil|eosinophil|erythroblast|immature granulocytes(myelocytes, metamyelocytes and promyelocytes)|lymphocyte|monocyte|neutrophil|platelet",
    "tissuemnist": "Collecting Duct, Connecting Tubule|Distal Convoluted Tubule|Glomerular endothelial cells|Interstitial endothelial cells|Leukocytes|Podocytes|Proximal Tubule Segments|Thick Ascending Limb",
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "organmnist3d": "liver|kidney-right|kidney-left|femur-right|femur-left|bladder|heart|lung-right|lung-left|spleen|pancreas",
    "nodulemnist3d": "benign|malignant",
    "adrenalmnist3d": "normal|hyperplasia",
    "fracturemnist3d": "buckle rib fracture|nondisplaced rib fracture|displaced rib fracture",
    "vesselmnist3d": "vessel|aneurysm",
    "synapsemnist3d": "inhibitory synapse|excitatory synapse",
}  # fmt: skip
SETS: Mapping[str, tuple[str, ...]] = {name: tuple(text.split("|")) for name, text in _NAMES.items()}


@dataclass(frozen=True)
class Stored:
    """One array of a file: its shape as declared, and where it lies. Read when asked for."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int | None

    @cached_property
    def values(self) -> Array:
        """The array: out of the file as needed where it is not packed, else unpacked into memory."""
        try:
            if self.offset is not None:
                return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except Exception as error:  # damaged archives raise many types
            raise _broken(self.path, error) from error


@dataclass(frozen=True)
class MedMnistSet:
    """A data set out of arrays. task: "multi-class", "multi-label" (labels are one 0 or 1 per class) or "ordinal"."""

    images: tuple[Stored, ...]
    labels: tuple[Array, ...]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    preparation: Preparation | Volumes
    task: str = PLAIN
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def laterality(self) -> bool:
        """Whether the classes are sides."""
        return sides_in(self.classes)

    def __len__(self) -> int:
        return sum(len(of) for of in self.labels)

    def _place(self, index: int) -> tuple[int, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        for part, labels in enumerate(self.labels):
            if index < len(labels):
                return part, index
            index -= len(labels)
        raise IndexError(index)

    def __getitem__(self, index: int) -> Sample:
        part, k = self._place(index)
        values = np.array(self.images[part].values[k])
        meta = {"path": str(self.images[part].path), "part": self.names[part], "index": k}
        label, name = self._label(part, k), self.facts(index).name
        if isinstance(self.preparation, Volumes):
            grid = self.preparation.grid(values.shape, (1.0,) * values.ndim)
            grey = self.preparation.scaled_values(values)
            return Sample(self.preparation.normalised(grey, grid), label, name=name, meta=meta)
        picture = prepared([Image.fromarray(values)], self.preparation)
        return Sample(picture.input, label, name=name, image=picture.image, meta={**meta, "file_size": picture.layout.file})  # fmt: skip

    def _label(self, part: int, k: int) -> Any:
        row = self.labels[part][k]
        return torch.from_numpy(row.astype(np.float32)) if self.task == SEVERAL else int(row[0])

    def facts(self, index: int) -> Facts:
        part, k = self._place(index)
        label = None if self.task == SEVERAL else self._label(part, k)
        return Facts(f"{self.names[part]}-{k:06d}", label, "")

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the file's bytes, the part and the preparation."""
        digest = hashlib.sha256(json.dumps([self.names, self.classes, asdict(self.preparation)]).encode())
        digest.update(files.sha256(self.images[0].path).encode())
        return digest.hexdigest()


def medmnist(source: str | Path, *, split: str = "train", classes: Any = None, **options: Any) -> MedMnistSet:
    """`medmnist:NAME` (`bloodmnist`, `organmnist3d`, ..., with `_64`, `_128` or `_224` for larger images), or an `.npz` of
    that layout: arrays `train_images`, `train_labels`, and so on for val and test.

    A name is looked for in the package's folder (`~/.medmnist`), and else downloaded by the package `medmnist` where that
    is installed. split: "train", "val", "test" or "all". classes: names in order; left out: the collection's own for a
    file with its name, else numbers. Images keep their size unless `size` is given. Options are those of `Preparation`, and
    for volumes those of `Volumes`. Nothing is unpickled, and declared sizes are checked first.

    Raises `BadInput` for a file of another layout, `OptionError` for an unknown name or part.
    """
    path = _file_of(str(source).removeprefix("medmnist:"))
    found = _arrays(path)
    there = tuple(part for part in PARTS if f"{part}_images" in found)
    if split not in (*there, "all"):
        raise OptionError(f"{path.name} has no part '{split}'.", hint=nearest(split, (*there, "all")))
    wanted = there if split == "all" else (split,)
    images = tuple(found[f"{part}_images"] for part in wanted)
    labels = tuple(
        _labels(found.get(f"{part}_labels"), image, path) for part, image in zip(wanted, images, strict=True)
    )
    set_name = path.stem.lower().rpartition("_")[0] or path.stem.lower()
    set_name = path.stem.lower() if path.stem.lower() in SETS else set_name
    task = SEVERAL if labels[0].shape[1] > 1 else ORDERED if set_name == "retinamnist" else PLAIN
    names = _classes(classes, SETS.get(set_name), labels, task, path)
    parts = numbered({part: range(len(of)) for part, of in zip(wanted, labels, strict=True)})
    return MedMnistSet(images, labels, wanted, names, _preparation(images, options), task, parts)


def _preparation(images: tuple[Stored, ...], options: Mapping[str, Any]) -> Preparation | Volumes:
    """Pictures, grey or in colour, or volumes; at the size of the file where no other is asked for."""
    shape = images[0].shape[1:]
    kind: Any = Volumes if len(shape) == 3 and shape[-1] != 3 else Preparation
    both = {f.name for f in fields(Volumes)} | {f.name for f in fields(Preparation)}
    foreign = [name for name in options if name in both and name not in {f.name for f in fields(kind)}]
    if foreign:
        what = "volumes" if kind is Volumes else "pictures"
        raise OptionError(f"The option '{foreign[0]}' does not fit {what}.", why=f"The file holds {what}.", hint="Leave it out.")  # fmt: skip
    check_options(options, medmnist, kind)
    own = {"size": shape if kind is Volumes else shape[:2], "crop": "resize"}
    made: Preparation | Volumes = kind(**{**(own if options.get("size") is None else {}), **{k: v for k, v in options.items() if v is not None}})  # fmt: skip
    return replace(made, window=(0.0, 255.0)) if isinstance(made, Volumes) and made.window is None else made


def _classes(
    asked: Any, known: tuple[str, ...] | None, labels: tuple[Array, ...], task: str, path: Path
) -> tuple[str, ...]:
    least = labels[0].shape[1] if task == SEVERAL else max((int(of.max()) for of in labels if of.size), default=0) + 1
    names = tuple(str(c) for c in asked) if asked is not None else known
    if names is None or (asked is None and len(names) < least):
        return tuple(map(str, range(least)))
    if len(names) < least:
        raise OptionError(
            f"There are {len(names)} class names for {least} classes.", why=f"{path.name} has that many.", hint="Name all."
        )  # fmt: skip
    return names


def _labels(stored: Stored | None, images: Stored, path: Path) -> Array:
    """Labels `(samples, 1)`, or `(samples, classes)` of 0 and 1."""
    if stored is None or stored.dtype.kind not in "iu" or len(stored.shape) not in (1, 2) or stored.shape[0] != images.shape[0]:  # fmt: skip
        raise _layout(path, "Every image needs a label, a whole number or one 0 or 1 per class.")
    values = np.array(stored.values).reshape(images.shape[0], -1)
    if values.size and (values.min() < 0 or values.max() > (1 if values.shape[1] > 1 else 9999)):
        raise _layout(path, f"Its labels reach from {values.min()} to {values.max()}.")
    return values.astype(np.int64)


def _arrays(path: Path) -> dict[str, Stored]:
    """The arrays of a file by name, none of them read yet. Raises `BadInput` for another layout and for too large ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith("_images.npy") or m.filename.endswith("_labels.npy")]  # fmt: skip
            found = {m.filename.removesuffix(".npy"): _declared(path, archive, m) for m in members[: 2 * len(PARTS)]}
    except BadInput:
        raise
    except Exception as error:  # damaged archives raise many types
        raise _broken(path, error) from error
    images = [a for name, a in found.items() if name.endswith("_images")]
    if not images or not all(a.dtype == np.uint8 and _is_images(a.shape) for a in images):
        raise _layout(path, f"It holds {', '.join(f'{n} {a.shape} {a.dtype}' for n, a in found.items()) or 'none of its arrays'}.")  # fmt: skip
    if len({a.shape[1:] for a in images}) > 1:
        raise _layout(path, "Its parts have images of different sizes.")
    return found


def _is_images(shape: tuple[int, ...]) -> bool:
    """`(samples, height, width)`, with 3 colours, or `(samples, depth, height, width)`."""
    return len(shape) in (3, 4) and min(shape[1:]) > 0


def _declared(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Stored:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        head = stream.tell()
    size = int(np.prod(shape, dtype=float)) * dtype.itemsize
    packed = member.compress_type != zipfile.ZIP_STORED
    if dtype.hasobject or head + size != member.file_size or (packed and size > MOST_BYTES):
        raise BadInput(
            f"{path} is not read: {member.filename}.",
            why=f"It declares {shape} of {dtype}, {size:,} bytes; its archive says {member.file_size:,}, and at most {MOST_BYTES >> 30} GiB of packed numbers are unpacked.",
            hint="Get the file again, take a smaller size, or save it with numpy.savez, unpacked.",
            path=path,
        )
    offset = None if packed or fortran else _content_of(path, member) + head
    return Stored(path, member.filename, tuple(shape), dtype, offset)


def _content_of(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of an unpacked member begin: behind its own head, whose name and extras have their lengths in it."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        head = stream.read(30)
    start = member.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if head[:4] != b"PK\x03\x04" or start + member.file_size > path.stat().st_size:
        raise ValueError("the archive's list of contents is wrong")
    return start


def _layout(path: Path, why: str) -> BadInput:
    return BadInput(
        f"{path} is no file of MedMNIST.",
        why=why,
        hint="Wanted: train_images, train_labels, and the same for val and test; images are unsigned bytes.",
        path=path,
    )


def _broken(path: Path, error: Exception) -> BadInput:
    return BadInput(
        f"{path} could not be read as an .npz file.",
        why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        hint="Get the file again.",
        path=path,
    )


def _file_of(name: str) -> Path:
    """The file of a path or a name; fetched by the collection's own package where it is not here yet."""
    if Path(name).is_file():
        return Path(name)
    base, _, size = name.lower().partition("_")
    if name.endswith(".npz") or "/" in name:
        raise BadInput(f"There is no file {name}.", hint="Check the path.", path=name)
    if base not in SETS or size not in ("", "64", "128", "224"):
        raise BadInput(f"MedMNIST has no set '{name}'.", hint=nearest(base, SETS), path=name)
    path = Path.home() / ".medmnist" / f"{name.lower()}.npz"
    if not path.is_file():
        _fetch(base, int(size or 28), path)
    return path


def _fetch(name: str, size: int, path: Path) -> None:
    hint = f"Install the package (pip install medmnist), or put {path.name} into {path.parent} or name its path."
    try:
        package = import_module("medmnist")
    except ImportError as error:
        raise BadInput(f"{path.name} is not on this machine.", why="The package medmnist, which fetches it, is not installed.", hint=hint) from error  # fmt: skip
    try:
        path.parent.mkdir(exist_ok=True)
        kind = getattr(package, package.INFO[name]["python_class"])
        kind(split="train", download=True, root=str(path.parent), size=size)
    except Exception as error:  # the package raises whatever its download raises
        raise BadInput(f"{path.name} could not be fetched.", why=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", hint=hint) from error  # fmt: skip
