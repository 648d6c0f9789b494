"""Does a cell's evidence come from where the cell is drawn? What changes when everything outside a box does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import hooks
from pellucid.call import Call
from pellucid.models.certificate import Leakage
from pellucid.models.effective_field import answer_weights, answered, centre_of, distances
from pellucid.spatial import Geometry


def leakage(
    call: Call,
    images: Float[Tensor, "images channels *spatial"],
    *,
    field: Sequence[float] | None = None,
    effective: float | None = None,
    cells: int = 4,
    batch_size: int = 8,
    seed: int = 0,
) -> Leakage:
    """Change everything outside a box around a cell, and see how much the cell's evidence changes.

    Box test: with noise outside the receptive field (`field`, samples per axis), the largest change of any cell and
    image, over the mean change under noise everywhere. It is 0 within rounding unless something on the way sees the
    whole input. Leakage ratio of a box B that the map suggests:

        mean |A_k(x with B of x, the rest of another image) - A_k(x)| / mean |A_k(another image) - A_k(x)|

    for one stride (the patch a cell is drawn on) and for the `effective` side in samples. A_k is the evidence for the
    image's own answer at cell k; both means run over the images and over `cells` cells drawn by `seed`. The other
    image is the next of the batch; a single image lends its own samples in random order.

    call: a SoftCAM bound to all inputs but the images, which are on its device.
    """
    generator = torch.Generator().manual_seed(seed)
    size = tuple(images.shape[2:])
    with hooks.untouched(call.model), torch.no_grad():
        trial = _Trial(call, images, batch_size)
        geometry = trial.geometry
        drawn = torch.randperm(trial.own.shape[1], generator=generator)[:cells].tolist()
        other = _another(images, generator)
        anyhow = (trial.with_input(other) - trial.own)[:, drawn].abs().mean()

        def ratio(sides: Sequence[float]) -> float:
            changes = [trial.change(other, k, _box(k, geometry, sides)) for k in drawn]
            return _over(torch.stack(changes).mean(), anyhow)

        footprint = ratio(geometry.jump)
        wide = None if effective is None else ratio((effective,) * len(size))
        known = field if geometry.registered else None
        tried = [] if known is None else _with_outside(geometry, known, cells, generator)
        box = None if known is None or not tried else _box_test(trial, tried, known, images, generator)
    return Leakage(box, len(tried) * len(images), footprint, wide, len(images), len(drawn), size)


@dataclass
class _Trial:
    """Evidence for the images' own answers, cell by cell, on these and on changed images."""

    call: Call
    images: Tensor
    batch_size: int

    def __post_init__(self) -> None:
        self.parts = torch.split(torch.arange(len(self.images)), self.batch_size)
        found = [self.call.rows(rows).evidence(self.images[rows]) for rows in self.parts]
        task = self.call.model.task
        self.weights = [answer_weights(f.logits, task) for f in found]  # type: ignore[arg-type]
        self.geometry: Geometry = found[0].geometry
        self.own = torch.cat([answered(f, w).flatten(1) for f, w in zip(found, self.weights, strict=True)])

    def with_input(self, x: Tensor) -> Float[Tensor, "images cells"]:
        """The evidence of all cells on other inputs, for the same answers."""
        found = [
            answered(self.call.rows(rows).evidence(x[rows]), weights).flatten(1)
            for rows, weights in zip(self.parts, self.weights, strict=True)
        ]
        return torch.cat(found)

    def change(self, other: Tensor, cell: int, inside: Bool[Tensor, "*spatial"]) -> Float[Tensor, "images"]:
        """How much a cell changes when all but the inside comes from other images."""
        mixed = torch.where(inside.to(self.images.device), self.images, other)
        return (self.with_input(mixed) - self.own)[:, cell].abs()


def _box_test(
    trial: _Trial, cells: Sequence[int], field: Sequence[float], images: Tensor, generator: torch.Generator
) -> float:
    noise = torch.randn(images.shape, generator=generator).to(images) * images.std() + images.mean()
    anyhow = (trial.with_input(noise) - trial.own)[:, list(cells)].abs().mean()
    worst = max(float(trial.change(noise, k, _box(k, trial.geometry, field)).max()) for k in cells)
    return _over(worst, anyhow)


def _another(images: Tensor, generator: torch.Generator) -> Tensor:
    if len(images) > 1:
        return images.roll(1, 0)
    flat = images.flatten(2)
    return flat[..., torch.randperm(flat.shape[2], generator=generator).to(flat.device)].view_as(images)


def _box(cell: int, geometry: Geometry, sides: Sequence[float]) -> Bool[Tensor, "*spatial"]:
    """The samples at most (side - 1) / 2 from the cell's centre on every axis."""
    inside = torch.ones(geometry.input_size, dtype=torch.bool)
    for axis, (side, middle) in enumerate(zip(sides, centre_of(cell, geometry), strict=True)):
        n = geometry.input_size[axis]
        near = distances((middle,), (n,)) <= (side - 1) / 2 + 1e-6
        inside &= near.view(-1, *(1,) * (len(sides) - 1 - axis))
    return inside


def _with_outside(geometry: Geometry, field: Sequence[float], count: int, generator: torch.Generator) -> list[int]:
    """Cells whose box leaves much of the input outside: drawn from those that leave at least half of the most."""
    total = torch.Size(geometry.grid).numel()
    outside = torch.tensor([int((~_box(k, geometry, field)).sum()) for k in range(total)])
    if int(outside.max()) == 0:
        return []
    fit = torch.nonzero(2 * outside >= outside.max()).flatten()
    return fit[torch.randperm(len(fit), generator=generator)[:count]].tolist()


def _over(change: Tensor | float, anyhow: Tensor) -> float:
    """A share of the change that any other input makes; nothing of nothing is nothing."""
    return float(change) / float(anyhow) if float(anyhow) > 0 else float(change)
