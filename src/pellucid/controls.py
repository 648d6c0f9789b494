"""Maps that know nothing, and one that knows the truth: what every score is printed beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pellucid import spatial
from pellucid.explanation import Explanation
from pellucid.methods import METHODS
from pellucid.registry import MethodRow
from pellucid.sample import Sample

# Controls that need other samples or the truth are made from an explanation, so they are no methods.
MADE: dict[str, MethodRow] = {
    "another_map": MethodRow(
        "pellucid.controls:another_map",
        "the first method's map of another input: what is left when the map does not belong to the image",
        control=True,
    ),
    "oracle_map": MethodRow(
        "pellucid.controls:oracle_map",
        "the mask itself on the first method's cells: the best that a map of this grid can do",
        control=True,
    ),
}

CONTROLS: dict[str, MethodRow] = {**{name: row for name, row in METHODS.items() if row.control}, **MADE}


def another_map(explanation: Explanation, samples: Sequence[Sample]) -> Explanation:
    """Every input with the map of the next one of another group, in the order of the batch; nan where there is none."""
    maps = explanation.map.clone()
    for i, j in enumerate(_partners(samples)):
        maps[i] = torch.nan if j is None else explanation.map[j]
    return _as("another_map", explanation, maps)


def oracle_map(explanation: Explanation, samples: Sequence[Sample]) -> Explanation:
    """For every cell the share of it that lies in the mask; nan where the mask is not known."""
    maps = torch.full_like(explanation.map, torch.nan)
    for i, sample in enumerate(samples):
        if sample.mask is not None:
            maps[i] = spatial.cells_in(sample.mask, explanation.geometry).to(maps)
    return _as("oracle_map", explanation, maps)


def _as(name: str, explanation: Explanation, maps: Tensor) -> Explanation:
    return replace(explanation, map=maps, method=name, complete=False, constant=None, common=None, options={})


def _partners(samples: Sequence[Sample]) -> list[int | None]:
    groups = [sample.group or sample.name for sample in samples]
    n = len(groups)
    return [next((j % n for j in range(i + 1, i + n) if groups[j % n] != groups[i]), None) for i in range(n)]
