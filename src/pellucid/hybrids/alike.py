"""Looks like these: the cells of known samples whose features are nearest to those of a region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.api import explain
from pellucid.call import weights_device
from pellucid.errors import BadInput, OptionError
from pellucid.explanation import Explanation
from pellucid.models.features import cell_features
from pellucid.render.patches import cut, side_by_side
from pellucid.sample import Dataset, Facts, collate, readable
from pellucid.spatial import Geometry

if TYPE_CHECKING:
    from PIL.Image import Image

Patch = tuple[tuple[int, int], ...]  # per axis the first sample and the one after the last


@dataclass(frozen=True)
class Bank:
    """Cells of known samples. features: of length one. of: the sample's index in the data set; at: the cell's on its grid."""

    features: Float[Tensor, "cells features"]
    of: Int[Tensor, "cells"]
    at: Int[Tensor, "cells axes"]
    facts: tuple[Facts, ...]
    classes: tuple[str, ...]
    geometry: Geometry


@dataclass(frozen=True)
class Match:
    """A known cell. label: its sample's class; cosine: how alike the features are, at most 1; patch: where it looks."""

    sample: str
    label: str
    index: int
    cosine: float
    patch: Patch

    def as_dict(self) -> dict[str, Any]:
        return {
            "sample": self.sample,
            "label": self.label,
            "cosine": self.cosine,
            "patch": [list(p) for p in self.patch],
        }


@dataclass(frozen=True)
class Alike:
    """The strongest region's strongest cell, and the known cells most like it, nearest first."""

    place: str
    patch: Patch
    matches: tuple[Match, ...]

    def as_dict(self) -> dict[str, Any]:
        own = {"place": self.place, "patch": [list(p) for p in self.patch]}
        return {**own, "matches": [m.as_dict() for m in self.matches]}


def bank(
    network: nn.Module,
    dataset: Dataset,
    *,
    most: int = 32,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Bank:
    """The cells to compare with: of every sample the `most` with the largest evidence for or against what was answered.

    Samples that cannot be read are left out. Raises `BadInput` where none can.
    """
    features, of, at = [], [], []
    geometry: Geometry | None = None
    for start in range(0, len(dataset), batch_size):
        rows = range(start, min(start + batch_size, len(dataset)))
        read = list(readable(dataset, rows, {}))
        if read:
            x = collate([sample for _, sample in read]).to(weights_device(network))
            e = explain(network, x)
            geometry = e.geometry
            found = cell_features(network, x, geometry.grid).flatten(2).transpose(1, 2).cpu()
            strongest = e.map.flatten(1).abs().cpu().topk(min(most, e.map[0].numel()), 1).indices
            features.append(_unit(found.gather(1, strongest[..., None].expand(-1, -1, found.shape[2])).flatten(0, 1)))
            of.append(torch.tensor([i for i, _ in read]).repeat_interleave(strongest.shape[1]))
            at.append(torch.stack(torch.unravel_index(strongest.flatten(), geometry.grid), 1))
        if progress is not None:
            progress(rows.stop, len(dataset))
    if geometry is None:
        raise BadInput("No sample to compare with can be read.", hint="Give readable data.")
    facts = tuple(dataset.facts(i) for i in range(len(dataset)))
    return Bank(torch.cat(features), torch.cat(of), torch.cat(at), facts, tuple(dataset.classes), geometry)


def alike(network: nn.Module, explanation: Explanation, known: Bank, *, count: int = 5, name: str = "", group: str = "") -> Alike | None:  # fmt: skip
    """The known cells nearest to the strongest cell of the strongest region of one input, at most one per sample.

    Nearness is the cosine between the features that the evidence layer reads: what is alike to the network, which need not
    look alike. name, group: of the input; what bears the same is not compared with. None where no region speaks for the
    target.

    Raises `BadInput` for an explanation without its input, `OptionError` for cells of another grid.
    """
    if explanation.input is None:
        raise BadInput("The explanation does not hold its input.", hint="Explain the input again.")
    if explanation.geometry != known.geometry:
        raise OptionError(
            f"The known cells lie on a grid of {known.geometry.grid}, this map's on {explanation.geometry.grid}.",
            hint="Read both alike, and explain with evidence.",
        )
    regions = explanation.regions()
    if not regions:
        return None
    cells = explanation.map[0].detach().cpu().where(regions[0].cells, -torch.inf)
    cell = torch.stack(torch.unravel_index(cells.argmax(), cells.shape))
    features = cell_features(network, explanation.input, known.geometry.grid)[0].cpu()
    cosines = known.features @ _unit(features[(slice(None), *cell.tolist())][None])[0]
    matches: dict[int, Match] = {}
    for k in cosines.argsort(descending=True).tolist():
        i = int(known.of[k])
        facts = known.facts[i]
        same = facts.name == name or (facts.group != "" and facts.group == group)
        if i not in matches and not same:
            patch = _patch(known.geometry, known.at[k].tolist())
            matches[i] = Match(facts.name, _label(facts, known.classes), i, float(cosines[k]), patch)
        if len(matches) == count:
            break
    return Alike(regions[0].name, _patch(known.geometry, cell.tolist()), tuple(matches.values()))


def picture(found: Alike, image: Any, dataset: Dataset, known: Bank) -> Image:
    """The region's patch, and beside it the patches of its matches with class and cosine."""
    size = known.geometry.input_size
    pieces = [cut(image, found.patch, size)]
    pieces += [cut(dataset[m.index].image, m.patch, size) for m in found.matches]
    titles = [f"here: {found.place}", *(f"{m.label}, {m.cosine:.2f}" for m in found.matches)]
    return side_by_side(pieces, titles)


def _unit(rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
    return torch.nn.functional.normalize(rows.float(), dim=1)


def _label(facts: Facts, classes: Sequence[str]) -> str:
    return classes[facts.label] if isinstance(facts.label, int) and facts.label < len(classes) else "unlabelled"


def _patch(geometry: Geometry, cell: Sequence[int]) -> Patch:
    """What a cell sees, or where that is more than a third of the input, two cells' width; always within the input."""
    found = []
    fields = geometry.receptive_field or (float("inf"),) * len(cell)
    for centres, jump, n, field, i in zip(geometry.centres(), geometry.jump, geometry.input_size, fields, cell, strict=True):  # fmt: skip
        side = min(n, round(field if field <= n / 3 else 2 * jump))
        low = min(max(round(float(centres[i]) - (side - 1) / 2), 0), n - side)
        found.append((low, low + side))
    return tuple(found)
