"""NIfTI volumes (.nii, .nii.gz) from a tree, a list or a table, with their place in the patient."""

from __future__ import annotations

import gzip
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from torch import Tensor

from pellucid import files
from pellucid.data.csv_table import listed
from pellucid.data.dicom import files_of
from pellucid.data.dicom_file import INSTALL
from pellucid.data.image_file import check_options
from pellucid.data.image_set import Entry, sides_in
from pellucid.data.tree_labels import tree_labels
from pellucid.data.volume import Grid, Volumes, check_voxels
from pellucid.errors import BadInput, OptionError, PellucidError
from pellucid.sample import Facts, Sample

SUFFIXES = (".nii", ".nii.gz")
MOST_BEFORE = 1 << 24  # bytes between the head and the voxels
AFFINES_AGREE = 1e-2  # mm


def is_nifti(path: Path) -> bool:
    """Whether a file is called like a NIfTI volume."""
    return path.name.lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class Volume:
    """A file's values `(x, y, z)` and its affine: from voxels to mm towards right, front and head."""

    values: Float[Array, "x y z"]
    affine: Float[Array, "4 4"]

    @property
    def spacing(self) -> tuple[float, ...]:
        return tuple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def orientation(self) -> str:
        """Where the axes point to, in letters: RAS is right, anterior, superior."""
        nibabel = _require()
        return "".join(str(letter) for letter in nibabel.orientations.aff2axcodes(self.affine))

    def canonical(self) -> Volume:
        """The same with its axes in the order and direction nearest to right, anterior, superior."""
        orientations = _require().orientations
        turn = orientations.io_orientation(self.affine)
        values = orientations.apply_orientation(self.values, turn)
        return Volume(values, self.affine @ orientations.inv_ornt_aff(turn, self.values.shape))


def read_volume(path: str | Path, frame: int | None = None) -> Volume:
    """A NIfTI file as 32-bit floats. frame: which volume of a file of several (fourth axis).

    Nothing of a file but its head and its voxels is read, and no more of these than the head declares, after that was
    found bearable. Raises `BadInput` for everything that is no finite head with numbers behind it.
    """
    _require()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return _volume(Path(path), frame)
    except PellucidError:
        raise
    except Exception as error:  # damaged heads and streams raise many types
        raise BadInput(
            f"{path} could not be read as NIfTI.",
            why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            hint="Get the file again, or remove it.",
            path=path,
        ) from error


def _require() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise OptionError(
            "NIfTI files need nibabel.", why="It is not installed.", hint=f"Install the extra: {INSTALL}."
        ) from error
    return nibabel


def _volume(path: Path, frame: int | None) -> Volume:
    header = _header(path)
    shape, offset, kind = header.get_data_shape(), int(header.get_data_offset()), header.get_data_dtype()
    if kind.kind not in "iuf":
        raise BadInput(
            f"{path} holds no plain numbers.", why=f"Its type is {kind}.", hint="Convert it to float or int.", path=path
        )
    part = _part(shape, frame, path)
    spatial = (*shape[:3], 1, 1)[:3]
    check_voxels(spatial, path)
    affine = header.get_best_affine()
    turn = _require().orientations.io_orientation(affine) if np.isfinite(affine).all() else np.array(np.nan)
    if not np.isfinite(turn).all():
        raise BadInput(
            f"{path} does not say where it lies.",
            why="Its affine has no inverse.",
            hint="Write it again with an affine.",
            path=path,
        )
    _check_length(path, offset, int(np.prod(shape, dtype=float)) * kind.itemsize)
    proxy = _require().arrayproxy.ArrayProxy(str(path), (shape, kind, offset, *header.get_slope_inter()), mmap=False)
    whole: Any = proxy if len(shape) <= 3 else proxy[part]
    values = np.asarray(whole, np.float32).reshape(spatial)
    return Volume(values, affine)


def _part(shape: Sequence[int], frame: int | None, path: Path) -> tuple[Any, ...]:
    """Which part of the file's array is the volume. Axes of one beyond the third are none."""
    several = [n for n in shape[3:] if n != 1]
    if not several:
        return (..., *(0 for _ in shape[3:])) if len(shape) > 3 else (...,)
    if len(several) > 1 or frame is None or not 0 <= frame < several[0]:
        raise BadInput(
            f"{path} holds {' x '.join(map(str, several))} volumes.",
            why="A sample is one." if frame is None else f"There is no volume {frame}.",
            hint="Choose one: frame=0.",
            path=path,
        )
    return (..., *(frame if n != 1 else 0 for n in shape[3:]))


def _header(path: Path) -> Any:
    nibabel = _require()
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", hint="Check the path.", path=path)
    if not is_nifti(path):
        raise BadInput(f"{path.name} is not called like a NIfTI volume.", why=f"They end in {' or '.join(SUFFIXES)}.", hint="Rename or convert it.", path=path)  # fmt: skip
    with _stream(path) as stream:
        head = stream.read(544)
    kinds = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    sizes = [int.from_bytes(head[:4], order) for order in ("little", "big")]
    kind = next((kinds[size] for size in sizes if size in kinds), None)
    if kind is None:
        raise BadInput(
            f"{path} is not a NIfTI file.", why="It starts with another number.", hint="Remove it.", path=path
        )
    header = kind(binaryblock=head[: kind.sizeof_hdr], check=False)
    if not 0 <= float(header["vox_offset"]) <= MOST_BEFORE:
        raise BadInput(
            f"{path} is damaged.",
            why=f"Its voxels would begin at byte {float(header['vox_offset']):g}.",
            hint="Get it again.",
            path=path,
        )
    return header


def _stream(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _check_length(path: Path, offset: int, size: int) -> None:
    """Refuse a file that declares more voxels than it holds, or could hold if it is packed (1:1032 is the most)."""
    held = path.stat().st_size
    if offset + size > (held * 1032 if path.name.lower().endswith(".gz") else held):
        raise BadInput(
            f"{path} ends before its voxels do.",
            why=f"It declares {size:,} bytes of them; the file has {held:,}.",
            hint="Get it again.",
            path=path,
        )


@dataclass(frozen=True)
class VolumeSet:
    """A data set of NIfTI files, read when asked for. A bad file raises `BadInput` when it is read, not before."""

    entries: tuple[Entry, ...]
    classes: tuple[str, ...] = ()
    preparation: Volumes = field(default_factory=Volumes)
    mask_values: tuple[int, ...] | None = None
    frame: int | None = None

    @property
    def laterality(self) -> bool:
        """Whether the classes are sides."""
        return sides_in(self.classes)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        asked = self.preparation
        found = read_volume(entry.path, self.frame)
        volume = found.canonical() if asked.canonical else found
        grid = asked.grid(volume.values.shape, volume.spacing)
        return Sample(
            input=asked.normalised(asked.scaled_values(volume.values), grid),
            label=entry.label,
            mask=self._mask(entry, found, grid),
            name=entry.name,
            group=entry.group,
            meta={
                "path": str(entry.path), "file_size": tuple(reversed(volume.values.shape)), "spacing": volume.spacing, "orientation": volume.orientation,
                "affine": grid.affine(volume.affine).tolist(), "file_affine": found.affine.tolist(), "file_orientation": found.orientation, **entry.meta,
            },
        )  # fmt: skip

    def _mask(self, entry: Entry, volume: Volume, grid: Grid) -> Tensor | None:
        if entry.mask is None:
            return torch.zeros(grid.size, dtype=torch.bool) if entry.no_truth else None
        mask = read_volume(entry.mask)
        if mask.values.shape != volume.values.shape or np.abs(mask.affine - volume.affine).max() > AFFINES_AGREE:
            raise BadInput(
                f"The mask {entry.mask} lies elsewhere than its volume.",
                why=f"{mask.values.shape} voxels against {volume.values.shape}, or another affine.",
                hint="Resample the mask to the volume.",
                path=entry.mask,
            )
        values = (mask.canonical() if self.preparation.canonical else mask).values
        chosen = values != 0 if self.mask_values is None else np.isin(values, list(self.mask_values))
        return grid.nearest(torch.from_numpy(np.ascontiguousarray(chosen)))

    def facts(self, index: int) -> Facts:
        entry = self.entries[index]
        return Facts(entry.name, entry.label, entry.group)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the files' bytes, the labels and the preparation. Where the files lie does not matter."""
        digest = hashlib.sha256(json.dumps([self.classes, asdict(self.preparation), self.mask_values, self.frame]).encode())  # fmt: skip
        for entry in self.entries:
            contents = [files.sha256(p) if p is not None and p.is_file() else "" for p in (entry.path, entry.mask)]
            digest.update(json.dumps([entry.name, entry.label, entry.group, dict(entry.meta), contents]).encode())
        return digest.hexdigest()


def nifti(
    source: str | Path | Sequence[str | Path],
    *,
    labels: str | Path | None = "auto",
    classes: Sequence[str] | None = None,
    frame: int | None = None,
    path: str = "",
    label: str | None = "",
    mask: str | None = "",
    group: str | None = "",
    name: str | None = "",
    mask_values: int | Sequence[int] | None = None,
    mask_absent: Literal["unknown", "empty"] = "unknown",
    negative: str | None = None,
    **options: Any,
) -> VolumeSet:
    """The NIfTI volumes of a tree, a list of files, or a table `nifti:TABLE.csv` with a column `path`.

    labels: "folder" (the first folder below the root), a CSV file with a column `label` and one of path, name or patient,
    None, or "auto": the folders, unless they are called `sub-...` or hold one file each. A folder `sub-...` (BIDS) is the
    patient. frame: which volume of files that hold several. For a table: path, label, mask, group, name, mask_values,
    mask_absent, negative as of `csv_table`. Other options are those of `Volumes`.

    Raises `BadInput` where there is no such file, `OptionError` for labels that do not fit or where nibabel is missing.
    """
    check_options(options, nifti, Volumes)
    _require()
    preparation = Volumes(**options)
    place = Path(source) if isinstance(source, str | Path) else None
    if place is not None and place.suffix.lower() in (".csv", ".tsv"):
        columns = {"path": path, "label": label, "mask": mask, "boxes": None, "group": group, "name": name}
        table = listed(place, columns, classes, mask_values, mask_absent, negative)
        return VolumeSet(table.entries, table.classes, preparation, table.mask_values, frame)
    found = files_of(source, "NIfTI", is_nifti)
    items = [_named(name) for name in found]
    known, names = tree_labels(items, labels, classes)
    entries = tuple(
        Entry(p, n, k, item.get("patient", "")) for (n, p), k, item in zip(found.items(), known, items, strict=True)
    )
    return VolumeSet(entries, names, preparation, frame=frame)


def _named(name: str) -> Mapping[str, str]:
    stem = name.rsplit("/", 1)[-1].lower().removesuffix(".gz").removesuffix(".nii")
    original = name.rsplit("/", 1)[-1][: len(stem)]
    patient = next((part for part in Path(name).parts[:-1] if part.startswith("sub-")), "")
    return {"path": name, "name": original, **({"patient": patient} if patient else {})}
