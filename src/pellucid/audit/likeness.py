"""Samples that are the same, nearly the same, or of the same patient, across what a network learnt from and what judges it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.audit.tags import by_areas, looked_at
from pellucid.errors import BadInput
from pellucid.sample import Dataset

SIDE = 32  # pixels per side of what is compared
NEAR = 0.99  # correlation of what two pictures have beside the mean picture, from which on they are nearly the same
BLOCK = 512


@dataclass(frozen=True)
class Seen:
    """What is kept of a sample once it was read. small: what tags are looked for in; digest: of the input's numbers."""

    index: int
    name: str
    group: str
    label: int | float | None
    digest: str
    small: Float[Tensor, "*small"]


@dataclass(frozen=True)
class Pair:
    """Two samples that are alike. correlation: 1 where the inputs are the same to the last bit (`same`)."""

    first: str
    second: str
    correlation: float
    same: bool
    one_patient: bool
    two_labels: bool


def look_at(
    dataset: Dataset, *, skipped: dict[str, str] | None = None, tick: Callable[[int], None] | None = None
) -> list[Seen]:
    """Read every sample once. skipped: where samples that cannot be read are noted; tick: called with 1 after each."""
    found = []
    for index in range(len(dataset)):
        try:
            sample = dataset[index]
        except BadInput as error:
            if skipped is not None:
                skipped[dataset.facts(index).name] = error.message
            continue
        finally:
            if tick is not None:
                tick(1)
        label = sample.label if isinstance(sample.label, int | float) else None
        small = looked_at(sample.input[None])[0].half()
        found.append(
            Seen(index, sample.name, sample.group, label, sha256(sample.input.numpy().tobytes()).hexdigest(), small)
        )
    return found


def alike(first: Sequence[Seen], second: Sequence[Seen] | None = None) -> list[Pair]:
    """Pairs that are the same or nearly so: of one set among itself, or of one set with another. Most alike first.

    Compared is what a picture has beside the mean picture, so that all X-rays being alike does not count. Inputs of
    several sizes are compared by their digests only.
    """
    others = first if second is None else second
    found: dict[tuple[int, int], float] = {}
    by_digest: dict[str, list[int]] = {}
    for j, seen in enumerate(others):
        by_digest.setdefault(seen.digest, []).append(j)
    for i, seen in enumerate(first):
        found |= {(i, j): 1.0 for j in by_digest.get(seen.digest, ()) if second is not None or i < j}
    found = dict(_near(first, others, second is None)) | found
    pairs = [_pair(first[i], others[j], correlation) for (i, j), correlation in found.items()]
    return sorted(pairs, key=lambda pair: (-pair.correlation, pair.first, pair.second))


def _pair(a: Seen, b: Seen, correlation: float) -> Pair:
    return Pair(
        a.name, b.name, correlation, a.digest == b.digest, bool(a.group) and a.group == b.group, a.label != b.label
    )


def _near(first: Sequence[Seen], others: Sequence[Seen], itself: bool) -> Iterator[tuple[tuple[int, int], float]]:
    if len({tuple(s.small.shape) for s in (*first, *others)}) != 1 or len(first) + len(others) < 3:
        return
    mean = torch.stack([_vector(s) for s in others]).mean(0)
    theirs = _normed(others, mean)
    for start in range(0, len(first), BLOCK):
        correlations = _normed(first[start : start + BLOCK], mean) @ theirs.T
        for i, j in np.argwhere(correlations >= NEAR):
            if not itself or start + i < j:
                yield (start + int(i), int(j)), min(1.0, float(correlations[i, j]))


def _vector(seen: Seen) -> Tensor:
    return by_areas(seen.small.float()[None, None], SIDE).flatten()


def _normed(seen: Sequence[Seen], mean: Tensor) -> Any:
    rows = torch.stack([_vector(s) for s in seen]) - mean
    rows = rows - rows.mean(1, keepdim=True)
    return (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).numpy()
