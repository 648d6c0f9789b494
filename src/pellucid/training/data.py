"""Batches out of a data set: read once, kept in memory while it fits, bad samples listed and skipped."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pellucid.errors import BadInput
from pellucid.sample import Dataset, Sample, Subset, collate
from pellucid.training.task import Task, label_of


@dataclass(frozen=True)
class Batch:
    """Inputs with their labels, names and groups.

    stored: the inputs as they are kept, numbers or bytes; `inputs` are the numbers.
    """

    stored: Shaped[Tensor, "batch channels *spatial"]
    labels: Tensor
    names: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def inputs(self, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "batch channels *spatial"]:
        """The inputs as numbers on the device; images with the channels last, which convolutions are faster on."""
        x = _decode(self.stored.to(device)).to(dtype)
        return x.contiguous(memory_format=memory_format(x))

    def without_inputs(self) -> Batch:
        """What is needed for scores: the inputs of a whole data set need not stay in memory."""
        return replace(self, stored=self.stored[:0].clone())


# One read sample and its label as the loss wants it; None for a sample that cannot be used.
Read = tuple[Sample, Tensor] | None


@dataclass
class Source:
    """Reads the labelled samples of a data set in batches.

    A sample whose reading raises `BadInput`, or whose label does not fit, is left out of its batch and named in
    `skipped`; more than the share `max_bad` of them is `BadInput`. Inputs are kept in memory up to `cache_mib`, as
    bytes where that loses nothing. workers: threads that read the next batch while this one is used.
    """

    dataset: Dataset
    batch_size: int
    task: Task
    max_bad: float = 0.1
    cache_mib: int = 2048
    workers: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    _kept: dict[int, Read] = field(default_factory=dict, repr=False)
    _bytes: int = 0

    def batches(self, order: Sequence[Sequence[int]]) -> Iterator[Batch | None]:
        """One batch for each group of indices; None where all of its samples are bad."""
        if not self.workers:
            yield from (_stack([self._read(i) for i in indices]) for indices in order)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: deque[list[Future[Read]]] = deque()
            for indices in order:
                ahead.append([pool.submit(self._read, i) for i in indices])
                if len(ahead) > 1:
                    yield _stack([f.result() for f in ahead.popleft()])
            yield from (_stack([f.result() for f in futures]) for futures in ahead)

    def _read(self, index: int) -> Read:
        if index in self._kept:
            return self._kept[index]
        try:
            sample = self.dataset[index]
            label = label_of(sample.label, len(self.dataset.classes), self.task)
        except BadInput as error:
            self._skip(index, error)
            return None
        slim = Sample(input=sample.input, name=sample.name or str(index), group=sample.group)
        if self._bytes + sample.input.nbytes <= self.cache_mib << 20:
            slim = slim.changed(input=_encode(sample.input))
            self._bytes += slim.input.nbytes
            self._kept[index] = slim, label
        return slim, label

    def _skip(self, index: int, error: BadInput) -> None:
        self._kept[index] = None
        _note_bad(self.skipped, self.dataset, index, error, self.max_bad)


def first_sample(dataset: Dataset, max_bad: float = 0.1) -> Sample:
    """The first sample that can be read. Raises `BadInput` after more than the share `max_bad` that cannot."""
    skipped: dict[str, str] = {}
    for index in range(len(dataset)):
        try:
            return dataset[index]
        except BadInput as error:
            _note_bad(skipped, dataset, index, error, max_bad)
    raise BadInput(
        "The data set holds no sample that can be read.", why=_listed(skipped), hint="Check the data source."
    )


def _note_bad(skipped: dict[str, str], dataset: Dataset, index: int, error: BadInput, max_bad: float) -> None:
    skipped[dataset.facts(index).name or str(index)] = error.message
    if len(skipped) > max_bad * len(dataset):
        raise BadInput(
            f"{len(skipped)} of {len(dataset)} samples cannot be used.",
            why=_listed(skipped),
            hint=f"Correct them, or raise max_bad (now {max_bad:g}).",
        ) from error


def _stack(found: Sequence[Read]) -> Batch | None:
    good = [f for f in found if f is not None]
    if not good:
        return None
    alike = all(s.input.dtype == torch.uint8 for s, _ in good)
    samples = [s if alike else s.changed(input=_decode(s.input)) for s, _ in good]
    return Batch(
        collate(samples),
        torch.stack([label for _, label in good]),
        tuple(s.name for s in samples),
        tuple(s.group or s.name for s in samples),
    )


def memory_format(x: Tensor) -> torch.memory_format:
    """How a batch of this shape lies in memory: channels last where there is a fast way for it."""
    return torch.channels_last if x.ndim == 4 else torch.contiguous_format


def _encode(x: Tensor) -> Tensor:
    """Bytes where they give back the very same numbers, else the numbers."""
    if x.dtype != torch.float32:
        return x
    small = (x * 255).round().clamp(0, 255).to(torch.uint8)
    return small if torch.equal(_decode(small), x) else x.clone()


def _decode(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _listed(skipped: dict[str, str]) -> str:
    shown = [f"{name}: {why}" for name, why in list(skipped.items())[:5]]
    return "; ".join(shown) + ("; ..." if len(skipped) > 5 else "")


def seed_of(*parts: int | str) -> int:
    """A seed that depends on all parts, the same on every machine."""
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def in_turn(count: int, batch_size: int) -> list[list[int]]:
    """The samples in their own order, in batches."""
    return [list(range(i, min(i + batch_size, count))) for i in range(0, count, batch_size)]


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: a permutation that depends on seed and epoch alone.

    A last batch of a single sample joins the one before it, since batch statistics of one sample are not defined.
    """
    generator = torch.Generator().manual_seed(seed_of("order", seed, epoch))
    order = torch.randperm(count, generator=generator).tolist()
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1 and batch_size > 1:
        single = batches.pop()
        batches[-1] += single
    return batches


def some(dataset: Dataset, count: int | None, seed: int) -> Dataset:
    """A seeded choice of `count` samples, in the data set's order; all of them where there are no more."""
    if count is None or count >= len(dataset):
        return dataset
    generator = torch.Generator().manual_seed(seed_of("some", seed))
    return Subset(dataset, tuple(sorted(torch.randperm(len(dataset), generator=generator)[:count].tolist())))


__all__ = ["Batch", "Source", "first_sample", "in_turn", "memory_format", "seed_of", "shuffled", "some"]
