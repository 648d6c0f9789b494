"""Drawings that come back in the samples, as zones: where each one is, what it looks like, and which samples show it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pellucid.audit import zones
from pellucid.audit.likeness import Seen
from pellucid.audit.observe import Drawing, Part
from pellucid.audit.tags import Tag, find_tags

LOOKED_THROUGH = 600  # samples in which drawings are looked for, and that are compared with one at a time
TEMPLATE = 40  # samples whose mean is painted

Shown = tuple[Part, Seen]


def find_drawings(parts: Sequence[Part], seen: Sequence[Sequence[Seen]], *, seed: int = 0) -> list[Drawing]:
    """The drawings of `find_tags` in all samples, most frequent first; none where samples differ in size.

    seen: of each part, what `look_at` kept.
    """
    every = [(part, one) for part, own in zip(parts, seen, strict=True) for one in own]
    if len({tuple(one.small.shape) for _, one in every}) != 1:
        return []
    chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:LOOKED_THROUGH].tolist()
    tags = find_tags(torch.stack([every[i][1].small for i in chosen]).float(), seed=seed)
    return [_drawing(f"drawing {k}", tag, every) for k, tag in enumerate(tags, start=1)]


def _drawing(name: str, tag: Tag, every: Sequence[Shown]) -> Drawing:
    shown = [
        pair for i in range(0, len(every), LOOKED_THROUGH) for pair in _showing(tag, every[i : i + LOOKED_THROUGH])
    ]
    inputs = torch.stack([part.dataset[one.index].input for part, one in shown[:TEMPLATE]])
    mask = tag.at(inputs.shape[2:])
    names = frozenset(one.name for _, one in shown)
    return Drawing(zones.fixed(name, mask), inputs.mean(0), names, zones.box_around(mask))


def _showing(tag: Tag, some: Sequence[Shown]) -> list[Shown]:
    there = tag.shown_in(torch.stack([one.small for _, one in some]).float())
    return [pair for pair, shown in zip(some, there, strict=True) if shown]
