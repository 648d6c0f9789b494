"""How far a cell really looks: where the gradient of its evidence lies (Luo et al. 2016, "Understanding the Effective
Receptive Field in Deep Convolutional Neural Networks", NeurIPS).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid import hooks, spatial
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.models.certificate import EffectiveField
from pellucid.spatial import Geometry
from pellucid.targets import Task

SIDE, CORE = 0.95, 0.5


def effective_field(
    call: Call, images: Float[Tensor, "images channels *spatial"], *, batch_size: int = 8
) -> EffectiveField:
    """The smallest boxes around a cell's centre that hold 95 % and 50 % of the absolute gradient of its evidence.

    For the cells nearest the middle of the input (two per axis) the gradient of the evidence for each image's own
    answer is taken with respect to the image; its size is added up over channels and averaged over images. Sides are in
    input samples, the same on every axis. A cell whose centre is not known is measured around the centroid of its own
    gradient. What lies beyond the border of the images is not seen.

    call: a SoftCAM bound to all inputs but the images, which are on its device. Its state is left as it was.
    Raises `OptionError` for evidence that has no gradient.
    """
    mass: dict[int, Tensor] = {}
    with hooks.untouched(call.model), torch.inference_mode(False), torch.enable_grad():
        for parameter in call.model.parameters():
            parameter.requires_grad_(False)
        for rows in torch.split(torch.arange(len(images)), batch_size):
            x = images[rows].detach().clone().requires_grad_()
            found = call.rows(rows).evidence(x)
            cells = answered(found, answer_weights(found.logits.detach(), call.model.task)).flatten(1)  # type: ignore[arg-type]
            if not cells.requires_grad:
                raise OptionError(
                    "The evidence of this network has no gradient.",
                    why="An effective field is where the gradient lies.",
                    hint="Take what cuts the gradient (detach, no_grad) out of the network.",
                )
            geometry: Geometry = found.geometry
            for k in central_cells(geometry):
                slope = torch.autograd.grad(cells[:, k].sum(), x, retain_graph=True)[0]
                mass[k] = mass.get(k, 0) + slope.abs().double().flatten(0, 1).sum(0).cpu()
    sides = box_sides(mass, geometry, (SIDE, CORE))
    return EffectiveField(sides[0], sides[1], len(images), len(mass), tuple(images.shape[2:]))


def answer_weights(logits: Float[Tensor, "batch classes"], task: Task) -> Float[Tensor, "batch classes"]:
    """The weights of the classes in the evidence for each input's own answer, free of what all classes share (softmax)."""
    chosen = F.one_hot(logits.argmax(1), logits.shape[1]).to(torch.promote_types(logits.dtype, torch.float32))
    return chosen - 1 / logits.shape[1] if task == "multiclass" and logits.shape[1] > 1 else chosen


def answered(found: object, weights: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch *grid"]:
    """The maps of an `Evidence` combined by class weights, in units of the logit."""
    maps: Tensor = found.maps  # type: ignore[attr-defined]
    return spatial.combine(maps, weights) / prod(maps.shape[2:])


def central_cells(geometry: Geometry) -> list[int]:
    """The flat indices of the cells nearest the middle of the input, at most two per axis."""
    nearest = []
    for centres, n in zip(geometry.centres(), geometry.input_size, strict=True):
        order = (centres - (n - 1) / 2).abs().argsort(stable=True)
        nearest.append(sorted(order[:2].tolist()))
    return [flat_index(cell, geometry.grid) for cell in product(*nearest)]


def flat_index(cell: Sequence[int], grid: Sequence[int]) -> int:
    """The place of a cell in a flattened map."""
    found = 0
    for index, n in zip(cell, grid, strict=True):
        found = found * n + index
    return found


def distances(centre: Sequence[float], size: Sequence[int]) -> Float[Tensor, "*size"]:
    """How far every input sample lies from a point, along the axis on which it is farthest."""
    found = torch.zeros(tuple(size), dtype=torch.float64)
    for axis, (middle, n) in enumerate(zip(centre, size, strict=True)):
        along = (torch.arange(n, dtype=torch.float64) - middle).abs()
        found = torch.maximum(found, along.view(-1, *(1,) * (len(size) - 1 - axis)))
    return found


def centre_of(cell: int, geometry: Geometry) -> tuple[float, ...]:
    """The centre of a cell, given by its flat index, in input samples."""
    place = []
    for n, centres in zip(reversed(geometry.grid), reversed(geometry.centres()), strict=True):
        cell, index = divmod(cell, n)
        place.append(float(centres[index]))
    return tuple(reversed(place))


def box_sides(mass: dict[int, Tensor], geometry: Geometry, shares: Sequence[float]) -> list[float]:
    """Per share the side of the smallest box around each cell's centre that holds it, over all cells together.

    mass: cell -> what lies at every input sample. A box of side s holds the samples at most (s - 1) / 2 from the centre.
    """
    where, what = [], []
    for cell, values in mass.items():
        centre = centre_of(cell, geometry) if geometry.registered else _centroid(values)
        where.append(distances(centre, values.shape).flatten())
        what.append(values.flatten())
    order = torch.cat(where).argsort()
    away, held = torch.cat(where)[order], torch.cat(what)[order].cumsum(0)
    if float(held[-1]) == 0:
        return [0.0] * len(shares)
    # A hair less than the share, so that rounding of the sum does not ask for the next ring.
    first = [int(torch.searchsorted(held, share * float(held[-1]) * (1 - 1e-9))) for share in shares]
    return [round(2 * float(away[k]) + 1, 1) for k in first]


def _centroid(values: Float[Tensor, "*size"]) -> tuple[float, ...]:
    total = float(values.sum()) or 1.0
    found = []
    for axis, n in enumerate(values.shape):
        along = values.sum([a for a in range(values.ndim) if a != axis]) if values.ndim > 1 else values
        found.append(float((along * torch.arange(n, dtype=values.dtype)).sum()) / total)
    return tuple(found)
