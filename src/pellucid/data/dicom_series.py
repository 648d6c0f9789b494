"""Series of DICOM slices, and files of several frames, as volumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from pellucid import files
from pellucid.data import dicom_file
from pellucid.data.dicom import GROUPS, files_of, is_dicom, nothing
from pellucid.data.dicom_file import Frame, modality_values, oriented, read_frame, read_header
from pellucid.data.image_file import check_options
from pellucid.data.image_set import sides_in
from pellucid.data.tree_labels import tree_labels
from pellucid.data.volume import Volumes, check_voxels
from pellucid.errors import BadInput, PellucidError
from pellucid.sample import Facts, Sample

UNEVEN = 0.1  # share by which the gap between two slices may differ from the usual one


@dataclass(frozen=True)
class Slice:
    """One frame of a file: where it lies along the series (mm, None: not known) and its number."""

    path: Path
    frame: int
    along: float | None
    number: int


@dataclass(frozen=True)
class Series:
    """The slices of one volume, in order."""

    name: str
    slices: tuple[Slice, ...]
    group: str
    label: int | None = None


@dataclass(frozen=True)
class SeriesSet:
    """A data set of volumes, read when asked for. A bad series raises `BadInput` when it is read, not before.

    Axes are slices, rows, columns. The samples' meta data keep the place of the input's voxels in the patient.
    """

    series: tuple[Series, ...]
    classes: tuple[str, ...] = ()
    preparation: Volumes = field(default_factory=Volumes)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def laterality(self) -> bool:
        """Whether the classes are sides."""
        return sides_in(self.classes)

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int) -> Sample:
        one = self.series[index]
        try:
            with dicom_file.quietly():
                return self._read(one)
        except PellucidError:
            raise
        except Exception as error:  # attributes of any kind may be damaged
            raise dicom_file.broken(one.slices[0].path, error) from error

    def _read(self, one: Series) -> Sample:
        first, plane = _grey(one.slices[0], self.preparation)
        check_voxels((len(one.slices), *plane.shape), one.slices[0].path)
        values = np.empty((len(one.slices), *plane.shape), np.float32)
        for k, place in enumerate(one.slices):
            _, plane = _grey(place, self.preparation)
            if plane.shape != values.shape[1:]:
                raise BadInput(
                    f"{place.path} has another size than the series' first slice.",
                    why=f"{plane.shape} against {values.shape[1:]}.",
                    hint="Read its series apart.",
                    path=place.path,
                )
            values[k] = plane
        gap = _gap(one)
        affine = _affine(first, gap)
        spacing = (gap, *_spacing(first))
        grid = self.preparation.grid(values.shape, spacing)
        return Sample(
            input=self.preparation.normalised(values, grid),
            label=one.label,
            name=one.name,
            group=one.group,
            meta={
                "path": str(one.slices[0].path), "file_size": tuple(reversed(values.shape)), "spacing": spacing, "axes": "slices, rows, columns",
                "affine": grid.affine(affine).tolist(), "slices": [str(s.path) for s in one.slices], "placed": grid.told(), **first.told(),
            },
        )  # fmt: skip

    def facts(self, index: int) -> Facts:
        one = self.series[index]
        return Facts(one.name, one.label, one.group)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the files' bytes, the labels and the preparation. Where the files lie does not matter."""
        digest = hashlib.sha256(json.dumps([self.classes, asdict(self.preparation)]).encode())
        for one in self.series:
            contents = [files.sha256(p) for p in dict.fromkeys(s.path for s in one.slices) if p.is_file()]
            digest.update(json.dumps([one.name, one.label, one.group, contents]).encode())
        return digest.hexdigest()


def dicom_series(
    source: str | Path | Sequence[str | Path],
    *,
    labels: str | Path | None = "auto",
    classes: Sequence[str] | None = None,
    group: Literal["patient", "study", "series", "none"] = "patient",
    **options: Any,
) -> SeriesSet:
    """The volumes `dicom_series:DIR` of a tree of DICOM files: slices of one series, size and orientation belong together.

    They are ordered by where they lie along their normal, or by their number where the files do not say. A series of one
    slice is no volume and is left out, and listed. labels, classes, group as of `dicom`; other options are those of `Volumes`,
    with `window` in the values of the modality; without one, each slice is shown as its file asks.

    Raises `BadInput` where there is no series; two slices at one place, or a gap where one is missing, are bad when read.
    """
    check_options(options, dicom_series, Volumes)
    dicom_file.require()
    preparation = Volumes(**options)
    left_out: dict[str, str] = {}
    stacks = _stacks(files_of(source, "DICOM", is_dicom), left_out)
    made, items = [], []
    for stack in stacks.values():
        if len(stack) < 2:
            left_out[stack[0][2]] = "a single slice is no volume"
            continue
        made.append(_series(stack, group))
        frame = stack[0][1]
        items.append({"path": stack[0][2], "name": Path(stack[0][2]).stem, "series": str(frame.get("SeriesInstanceUID") or ""),
                      "patient": str(frame.get("PatientID") or "")})  # fmt: skip
    if not made:
        raise nothing(source, "DICOM series of", f"{len(left_out)} files belong to no volume.")
    known, names = tree_labels(items, labels, classes)
    labelled = tuple(Series(s.name, s.slices, s.group, k) for s, k in zip(made, known, strict=True))
    return SeriesSet(labelled, names, preparation, left_out)


Stack = list[tuple[Slice, Frame, str]]


def _stacks(found: Mapping[str, Path], left_out: dict[str, str]) -> dict[tuple[Any, ...], Stack]:
    """What lies in one volume together: the slices with the attributes and the name of their files."""
    stacks: dict[tuple[Any, ...], Stack] = {}
    for name, path in found.items():
        try:
            with dicom_file.quietly():
                frame = read_header(path)
                if frame.get("Rows") is None:
                    raise BadInput(f"no picture: {frame.get('Modality') or 'of unknown modality'}")
                key, count = _key(frame, path), min(frame.frames, dicom_file.MOST_FRAMES)
                slices = [_slice(Frame(frame.dataset, k), path) for k in range(count)]
        except Exception as error:  # attributes of any kind may be damaged
            left_out[name] = error.message if isinstance(error, PellucidError) else type(error).__name__
            continue
        stacks.setdefault(key, []).extend((s, frame, name) for s in slices)
    return stacks


def _key(frame: Frame, path: Path) -> tuple[Any, ...]:
    """What slices of one volume have in common."""
    direction = frame.geometry().get("ImageOrientationPatient") or []
    whole = () if frame.frames == 1 else (str(path),)
    return (str(frame.get("SeriesInstanceUID")), frame.get("Rows"), frame.get("Columns"), tuple(round(v, 3) for v in direction), *whole)  # fmt: skip


def _slice(frame: Frame, path: Path) -> Slice:
    if frame.frames > 1:
        position = frame.per_frame("ImagePositionPatient", "PlanePositionSequence")
        return Slice(path, frame.index, _along(frame, position), frame.index)
    return Slice(path, 0, _along(frame, frame.get("ImagePositionPatient")), frame.whole("InstanceNumber", 0))


def _along(frame: Frame, position: Any) -> float | None:
    """How far along the normal a slice lies (mm); None where the file does not say."""
    offsets = frame.get("GridFrameOffsetVector")  # of dose grids
    if offsets is not None and frame.frames == len(offsets):
        return float(offsets[frame.index])
    if position is None or len(position) != 3 or len(frame.geometry().get("ImageOrientationPatient", ())) != 6:
        return None
    return float(_normal(frame) @ np.array([float(v) for v in position]))


def _normal(frame: Frame) -> Float[Array, "3"]:
    direction = np.array(frame.geometry()["ImageOrientationPatient"])
    return np.cross(direction[:3], direction[3:])


def _series(stack: Stack, group: str) -> Series:
    frame, known = stack[0][1], all(s.along is not None for s, _, _ in stack)
    ordered = sorted(
        (s for s, _, _ in stack), key=lambda s: ((s.along or 0.0) if known else 0.0, s.number, str(s.path))
    )
    order = list(GROUPS)[list(GROUPS).index(group) :] if group in GROUPS else []
    held = next((str(frame.get(GROUPS[key])) for key in order if frame.get(GROUPS[key])), "")
    first = min(name for _, _, name in stack)
    return Series(first, tuple(ordered), held)


def _grey(place: Slice, preparation: Volumes) -> tuple[Frame, Float[Array, "rows columns"]]:
    frame, stored = read_frame(place.path, place.frame)
    if stored.ndim != 2:
        raise BadInput(f"{place.path} is in colour.", why="Volumes are grey.", hint="Read it as pictures: dicom:DIR.", path=place.path)  # fmt: skip
    if preparation.window is None:
        return frame, dicom_file.shown(frame, stored)
    low, high = preparation.window
    return frame, oriented(frame, np.clip((modality_values(frame, stored) - low) / (high - low), 0, 1))


def _gap(one: Series) -> float:
    """The distance between slices (mm). Raises `BadInput` where it is not even."""
    along = [s.along for s in one.slices if s.along is not None]
    if len(along) < len(one.slices):
        frame = read_header(one.slices[0].path)
        told = frame.geometry()
        return float(told.get("SpacingBetweenSlices") or told.get("SliceThickness") or 1.0)
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    if usual <= 0 or float(np.abs(gaps - usual).max()) > UNEVEN * usual:
        k = int(np.abs(gaps - usual).argmax())
        raise BadInput(
            f"The slices of {one.name} are not evenly spaced.",
            why=f"{gaps[k]:.3g} mm lie between slices {k} and {k + 1}, {usual:.3g} mm as a rule.",
            hint="Add the missing slices, or part series that were taken twice.",
            path=one.slices[k].path,
        )
    return usual


def _spacing(frame: Frame) -> tuple[float, float]:
    found = frame.geometry().get("PixelSpacing") or [1.0, 1.0]
    return float(found[0]), float(found[1])


def _affine(frame: Frame, gap: float) -> Float[Array, "4 4"]:
    """From (slice, row, column) to mm towards left, back and head, as DICOM counts them (part 3, C.7.6.2.1.1)."""
    told, made = frame.geometry(), np.eye(4)
    direction = np.array(told.get("ImageOrientationPatient") or [1.0, 0, 0, 0, 1.0, 0])
    between_rows, between_columns = _spacing(frame)
    made[:3, 0] = np.cross(direction[:3], direction[3:]) * gap
    made[:3, 1] = direction[3:] * between_rows
    made[:3, 2] = direction[:3] * between_columns
    made[:3, 3] = told.get("ImagePositionPatient") or [0.0, 0, 0]
    return made
