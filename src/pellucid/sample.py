"""One case to look at: input, label, optional truth, and the same case with one thing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.errors import BadInput


@dataclass(frozen=True)
class Sample:
    """Input and what is known about it.

    input: float tensor `(channels, *spatial)`, as the network wants it (normalised).
    label: class index, a float (regression), a multi-hot vector, or None.
    mask: truth for localisation `(*spatial)`, True where the evidence should be; None: unknown.
    zones: further named regions `(*spatial)` (a marker, the tissue, one mask per lesion).
    group: what must not be split (the patient). name: unique within its data set.
    image: `(height, width, 3)` or `(height, width)` uint8 for display, where the input is an image.
    alternatives: name -> picklable recipe that renders this sample again with one thing changed.
    """

    input: Float[Tensor, "channels *spatial"]
    label: int | float | Tensor | None = None
    mask: Bool[Tensor, "*spatial"] | None = None
    zones: Mapping[str, Tensor] = field(default_factory=dict)
    name: str = ""
    group: str = ""
    image: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    alternatives: Mapping[str, Callable[[], Sample]] = field(default_factory=dict)

    def changed(self, **values: Any) -> Sample:
        return replace(self, **values)

    def check_mask(self) -> None:
        """Raise `BadInput` for a mask of another size than the input."""
        size = self.input.shape[1:]
        if self.mask is not None and self.mask.shape != size:
            raise BadInput(
                f"The mask of '{self.name}' has shape {tuple(self.mask.shape)}, its input {tuple(size)}.",
                why="A mask says of every sample of the input whether it is truth.",
                hint="Resize masks with their inputs (the readers do).",
            )


@runtime_checkable
class Dataset(Protocol):
    """A sequence of samples that knows its classes. `fingerprint` changes when any of its contents does.

    `facts(i)` gives label, group and name without reading or rendering the input, for splits and samplers.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def facts(self, index: int) -> Facts: ...

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Facts:
    """What splits and samplers need to know of a sample."""

    name: str
    label: int | float | None
    group: str


@dataclass(frozen=True)
class Subset:
    """Some samples of a data set, in the given order."""

    parent: Dataset
    indices: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.parent.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.parent[self.indices[index]]

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def facts(self, index: int) -> Facts:
        return self.parent.facts(self.indices[index])

    @property
    def fingerprint(self) -> str:
        import hashlib

        return hashlib.sha256(f"{self.parent.fingerprint}:{self.indices}".encode()).hexdigest()


def readable(dataset: Dataset, rows: Iterable[int], unread: MutableMapping[str, str]) -> Iterator[tuple[int, Sample]]:
    """The samples of these rows with their indices. Those that cannot be read are left out and noted: name -> why."""
    for i in rows:
        try:
            sample = dataset[i]
        except BadInput as error:
            unread[dataset.facts(i).name or str(i)] = error.message
        else:
            yield i, sample


def collate(samples: Sequence[Sample]) -> Float[Tensor, "batch channels *spatial"]:
    """Stack the inputs of samples of one shape; another shape is refused by name."""
    if not samples:
        raise BadInput("There are no samples to stack.", hint="Give at least one.")
    first = samples[0].input.shape
    for sample in samples:
        if sample.input.shape != first:
            raise BadInput(
                f"Sample '{sample.name}' has shape {tuple(sample.input.shape)}.",
                why=f"The first of its batch has {tuple(first)}.",
                hint="Give all inputs one size (the readers' `size` option does).",
            )
    return torch.stack([s.input for s in samples])
