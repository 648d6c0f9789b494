"""Batches out of a data set: read once, kept in memory while it fits, bad samples listed and skipped."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from pellucid.errors import BadInput
from pellucid.sample import Dataset, Sample, Subset, collate
from pellucid.training.task import Task, label_of


@dataclass(frozen=True)
class Batch:
    """Inputs with their labels, names and groups.

    stored: the inputs as they are kept, numbers or bytes; `inputs` are the numbers. places: of the inputs among those
    that were asked for. masks: where they are asked for, True where the evidence should be; all False for a sample
    without a mask.
    """

    stored: Shaped[Tensor, "batch channels *spatial"]
    labels: Tensor
    names: tuple[str, ...]
    groups: tuple[str, ...]
    places: tuple[int, ...]
    masks: Bool[Tensor, "batch *spatial"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self) -> Batch:
        """The same with the inputs as numbers."""
        return replace(self, stored=_decode(self.stored))

    def pieces(self, count: int) -> list[Batch]:
        """The batch in at most `count` parts of about the same size."""
        if count == 1:
            return [self]
        rows = [r.tolist() for r in torch.arange(len(self)).tensor_split(min(count, len(self)))]
        return [self._of(r) for r in rows]

    def _of(self, rows: Sequence[int]) -> Batch:
        names, groups = (tuple(of[r] for r in rows) for of in (self.names, self.groups))
        masks = None if self.masks is None else self.masks[rows]
        return Batch(self.stored[rows], self.labels[rows], names, groups, tuple(self.places[r] for r in rows), masks)

    def inputs(self, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "batch channels *spatial"]:
        """The inputs as numbers on the device; images with the channels last, which convolutions are faster on."""
        x = _decode(self.stored.to(device)).to(dtype)
        return x.contiguous(memory_format=memory_format(x))

    def without_inputs(self) -> Batch:
        """What is needed for scores: the inputs of a whole data set need not stay in memory."""
        return replace(self, stored=self.stored[:0].clone(), masks=None)


# One read sample and its label as the loss wants it; None for a sample that cannot be used.
Read = tuple[Sample, Tensor] | None


@dataclass
class Source:
    """Reads the labelled samples of a data set in batches.

    A sample whose reading raises `BadInput`, or whose label does not fit, is left out of its batch and named in
    `skipped`; more than the share `max_bad` of them is `BadInput`. Inputs are kept in memory up to `cache_mib`, as
    bytes where that loses nothing. workers: threads that read the next batch while this one is used. masks: whether
    batches have the samples' masks.
    """

    dataset: Dataset
    batch_size: int
    task: Task
    max_bad: float = 0.1
    cache_mib: int = 2048
    workers: int = 0
    masks: bool = False
    skipped: dict[str, str] = field(default_factory=dict)
    _kept: dict[int, Read] = field(default_factory=dict, repr=False)
    _bytes: int = 0
    _told: set[str] = field(default_factory=set, repr=False)

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
            mask = self._mask_of(sample) if self.masks else None
        except BadInput as error:
            self._skip(index, error)
            return None
        slim = Sample(input=sample.input, mask=mask, name=sample.name or str(index), group=sample.group)
        if self._bytes + sample.input.nbytes <= self.cache_mib << 20:
            slim = slim.changed(input=_encode(sample.input))
            self._bytes += slim.input.nbytes + (0 if mask is None else mask.nbytes)
            self._kept[index] = slim, label
        return slim, label

    def _mask_of(self, sample: Sample) -> Tensor:
        size = sample.input.shape[1:]
        if sample.mask is None:
            return torch.zeros(size, dtype=torch.bool)
        if sample.mask.shape != size:
            raise BadInput(
                f"The mask of '{sample.name}' has the size {tuple(sample.mask.shape)}.",
                why=f"Its input has {tuple(size)}.",
                hint="Give a mask of the input's size.",
            )
        return sample.mask.bool().clone()

    def _skip(self, index: int, error: BadInput) -> None:
        self._kept[index] = None
        _note_bad(self.skipped, self.dataset, index, error, self.max_bad)

    def news(self) -> dict[str, str]:
        """What was skipped here and not yet `heard` of."""
        return {name: why for name, why in list(self.skipped.items()) if name not in self._told}

    def hear(self, skipped: Mapping[str, str]) -> None:
        """Count what was skipped by any process. Raises `BadInput` where that makes too many."""
        self.skipped.update(skipped)
        self._told.update(skipped)
        _check_bad(self.skipped, self.dataset, self.max_bad)


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
    _check_bad(skipped, dataset, max_bad)


def _check_bad(skipped: dict[str, str], dataset: Dataset, max_bad: float) -> None:
    if len(skipped) > max_bad * len(dataset):
        raise BadInput(
            f"{len(skipped)} of {len(dataset)} samples cannot be used.",
            why=_listed(skipped),
            hint=f"Correct them, or raise max_bad (now {max_bad:g}).",
        )


def _stack(found: Sequence[Read]) -> Batch | None:
    good = [f for f in found if f is not None]
    if not good:
        return None
    places = tuple(place for place, f in enumerate(found) if f is not None)
    alike = all(s.input.dtype == torch.uint8 for s, _ in good)
    samples = [s if alike else s.changed(input=_decode(s.input)) for s, _ in good]
    return Batch(
        collate(samples),
        torch.stack([label for _, label in good]),
        tuple(s.name for s in samples),
        tuple(s.group or s.name for s in samples),
        places,
        None if samples[0].mask is None else torch.stack([s.mask for s in samples if s.mask is not None]),
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
    """The batches of one epoch: a permutation that depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed_of("order", seed, epoch))
    return _in_batches(torch.randperm(count, generator=generator).tolist(), batch_size)


def drawn(chances: Tensor, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: as many samples as there are, drawn with replacement by their chances."""
    generator = torch.Generator().manual_seed(seed_of("order", seed, epoch))
    order = torch.multinomial(chances, len(chances), replacement=True, generator=generator).tolist()
    return _in_batches(order, batch_size)


def _in_batches(order: list[int], batch_size: int) -> list[list[int]]:
    """Batches in this order. A last batch of a single sample joins the one before it, since batch statistics of one
    sample are not defined.
    """
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
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


__all__ = ["Batch", "Source", "drawn", "first_sample", "in_turn", "memory_format", "seed_of", "shuffled", "some"]
