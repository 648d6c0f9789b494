"""Evidence in numbers that can be read: per class and region how much, how strong, how wide, how many, where."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid import files, spatial, targets
from pellucid.api import explain
from pellucid.call import has_evidence
from pellucid.errors import BadInput, OptionError
from pellucid.explanation import Explanation
from pellucid.sample import Dataset, Sample, collate, readable
from pellucid.spatial import Geometry

Array = NDArray[Any]
WHOLE = "everywhere"

# quantity -> what it says, in words
QUANTITIES = {
    "sum": "net evidence for {of}",
    "for": "evidence for {of}",
    "against": "evidence against {of}",
    "peak": "strongest cell for {of}",
    "area": "share of strong cells for {of}",
    "pieces": "number of strong pieces for {of}",
    "centre": "how far {where} the evidence for {of} lies",
}
_AXES = {1: ("along",), 2: ("down", "across"), 3: ("deep", "down", "across")}


@dataclass(frozen=True)
class Feature:
    """One column. of: the class whose evidence it is. quantity: a name in `QUANTITIES`. where: a place
    (`spatial.place_name`) or `WHOLE`; of a centre the direction in which it lies, from 0 to 1.
    """

    of: str
    quantity: str
    where: str

    @property
    def name(self) -> str:
        """As a column is called."""
        return f"{self.of} | {self.quantity} | {self.where}"

    def words(self) -> str:
        """As a person would say it."""
        said = QUANTITIES[self.quantity].format(of=self.of, where=self.where)
        return said if self.where == WHOLE or self.quantity == "centre" else f"{said}, {self.where}"


@dataclass(frozen=True)
class Descriptors:
    """One row per sample: `values` (samples, features), and what else is known of it.

    labels, answers: class indices, of the truth and of the network. groups: what was not split (the patient). skipped:
    name -> why, of the samples that could not be read.
    """

    features: tuple[Feature, ...]
    values: Float[np.ndarray, "samples features"]
    samples: tuple[str, ...]
    groups: tuple[str, ...]
    labels: Int[np.ndarray, "samples"]
    answers: Int[np.ndarray, "samples"]
    classes: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def rows(self, index: Sequence[int]) -> Descriptors:
        """Some of the samples."""
        keep = list(index)
        return replace(
            self,
            values=self.values[keep],
            samples=tuple(self.samples[i] for i in keep),
            groups=tuple(self.groups[i] for i in keep),
            labels=self.labels[keep],
            answers=self.answers[keep],
        )

    def to_csv(self, path: str | Path) -> Path:
        """A row per sample, a column per feature."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["sample", "group", "label", "answer", *(f.name for f in self.features)])
        for i, name in enumerate(self.samples):
            known = [self.classes[k] for k in (self.labels[i], self.answers[i])]
            writer.writerow([name, self.groups[i], *known, *(f"{v:.6g}" for v in self.values[i])])
        return files.write_text(path, stream.getvalue())


def describe(
    model: nn.Module,
    dataset: Dataset,
    *,
    strong: float = 1.0,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Descriptors:
    """The evidence of a self-explaining network on every sample of a labelled data set, as a table.

    Of two classes the evidence is the log-odds of the second against the first, of more each class's (centred over the
    classes). Quantities everywhere: the sum of the cells; of those that speak for the class and of those that speak
    against it; the strongest cell; the share of strong cells, and into how many pieces they fall; the centre of what speaks
    for it (0 to 1 along each axis; 0.5 where nothing does). Sum and strongest cell also for every named place.

    strong: a cell is strong if the score would be at least this, in logits, were all cells like it.

    Samples that cannot be read are left out and noted. Raises `OptionError` for a network without evidence, `BadInput` for
    a sample without a class, or where none can be read.
    """
    if not has_evidence(model):
        raise OptionError(
            f"{type(model).__name__} has no evidence to describe.",
            why="Only cells that add up to the score have sums to speak of.",
            hint="Convert it first: pellucid.convert(model, example).",
        )
    parts: list[Descriptors] = []
    skipped: dict[str, str] = {}
    for start in range(0, len(dataset), batch_size):
        rows = range(start, min(start + batch_size, len(dataset)))
        samples = [sample for _, sample in readable(dataset, rows, skipped)]
        for sample in samples:
            _check_has_class(sample)
        if samples:
            parts.append(_described(model, samples, tuple(dataset.classes), strong))
        if progress is not None:
            progress(rows.stop, len(dataset))
    if not parts:
        first = next(iter(skipped.items()), ("", "The data set is empty."))
        raise BadInput("No sample can be described.", why=": ".join(first), hint="Give readable, labelled data.")
    return replace(join(parts), skipped=skipped)


def _check_has_class(sample: Sample) -> None:
    if not isinstance(sample.label, int):
        raise BadInput(
            f"Sample '{sample.name}' has no class.",
            why="The table sets what the network answers beside the truth.",
            hint="Give labelled data.",
        )


def join(parts: Sequence[Descriptors]) -> Descriptors:
    """The rows of several tables with the same columns."""
    first = parts[0]
    return replace(
        first,
        values=np.concatenate([p.values for p in parts]),
        samples=tuple(s for p in parts for s in p.samples),
        groups=tuple(g for p in parts for g in p.groups),
        labels=np.concatenate([p.labels for p in parts]),
        answers=np.concatenate([p.answers for p in parts]),
    )


def _described(model: nn.Module, samples: Sequence[Sample], classes: tuple[str, ...], strong: float) -> Descriptors:
    """The table of one batch."""
    x, columns, answers = collate(samples), dict[Feature, Tensor](), torch.empty(0)
    for name, target in _questions(model, classes):
        e = explain(model, x, target)
        answers = _answers(e.logits)
        columns |= _columns(name, e, strong)
    values = torch.stack(list(columns.values()), 1).numpy()
    names, groups = tuple(s.name for s in samples), tuple(s.group or s.name for s in samples)
    labels = np.array([s.label for s in samples])
    return Descriptors(tuple(columns), values, names, groups, labels, answers.numpy(), classes)


def _questions(model: nn.Module, classes: Sequence[str]) -> Iterator[tuple[str, targets.Target]]:
    """Whose evidence is described: the second of two classes, else every class."""
    if getattr(model, "task", None) == "binary":
        yield classes[-1], targets.SingleLogitTarget(True)
    elif len(classes) == 2:
        yield classes[1], targets.ContrastTarget(1, 0)
    else:
        yield from ((name, targets.ClassTarget(k)) for k, name in enumerate(classes))


def _answers(logits: Tensor) -> Tensor:
    logits = logits.detach().cpu()
    return logits.argmax(1) if logits.ndim == 2 and logits.shape[1] > 1 else (logits.reshape(len(logits)) > 0).long()


def _columns(name: str, e: Explanation, strong: float) -> Iterator[tuple[Feature, Tensor]]:
    """What is said of one class, in float64, one value per sample."""
    cells, grid = e.contributions().cells.double().cpu(), e.geometry.grid
    flat = cells.flatten(1)
    hot = cells >= strong / flat.shape[1]
    whole = {
        "sum": flat.sum(1), "for": flat.clamp_min(0).sum(1), "against": -flat.clamp_max(0).sum(1), "peak": flat.amax(1),
        "area": hot.flatten(1).double().mean(1), "pieces": _pieces(hot),
    }  # fmt: skip
    yield from ((Feature(name, quantity, WHOLE), column) for quantity, column in whole.items())
    for axis, direction in enumerate(_AXES[len(grid)]):
        yield Feature(name, "centre", direction), _centre(cells, axis)
    for place, inside in places(e.geometry).items():
        yield Feature(name, "sum", place), flat[:, inside.flatten()].sum(1)
        yield Feature(name, "peak", place), flat[:, inside.flatten()].amax(1)


def _pieces(hot: Bool[Tensor, "batch *grid"]) -> Float[Tensor, "batch"]:
    """Connected pieces (diagonals count), one count per sample."""
    from scipy import ndimage

    structure = ndimage.generate_binary_structure(hot.ndim - 1, hot.ndim - 1)
    return torch.tensor([float(ndimage.label(one.numpy(), structure=structure)[1]) for one in hot], dtype=torch.float64)


def _centre(cells: Float[Tensor, "batch *grid"], axis: int) -> Float[Tensor, "batch"]:
    """Where what speaks for the class lies on average along an axis, 0 at its start and 1 at its end."""
    along = cells.clamp_min(0).movedim(axis + 1, 1).flatten(2).sum(2)
    at = (torch.arange(along.shape[1], dtype=torch.float64) + 0.5) / along.shape[1]
    total = along.sum(1)
    return torch.where(total > 0, (along * at).sum(1) / total.clamp_min(1e-300), 0.5)


def places(geometry: Geometry) -> dict[str, Bool[Tensor, "*grid"]]:
    """The cells of every named place, by where they look."""
    grids = torch.meshgrid(*geometry.centres(), indexing="ij")
    named: dict[str, Tensor] = {}
    for at in torch.cartesian_prod(*(torch.arange(g) for g in geometry.grid)).view(-1, len(geometry.grid)):
        index = tuple(at.tolist())
        place = spatial.place_name([float(g[index]) for g in grids], geometry.input_size)
        named.setdefault(place, torch.zeros(geometry.grid, dtype=torch.bool))[index] = True
    return named
