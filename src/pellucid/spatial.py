"""Everything that depends on rank: where cells lie in the input, and how maps and masks move between the two.

Signals (1D), images (2D) and volumes (3D) run through the same lines; only this module looks at the number of axes.
Positions are in input samples (pixels, voxels), with the centre of the first sample at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from pellucid.errors import BadInput


@dataclass(frozen=True)
class Geometry:
    """Where the cells of a map are: the centre of cell i on an axis is `start + jump * i`.

    `registered` is False until someone knows better: the cells are then taken to tile the input evenly, which is what
    resizing a map assumes and what is off by half a stride for most networks. `receptive_field` is the side, in
    samples, of the region that can reach one cell (None: not known or the whole input).
    """

    grid: tuple[int, ...]
    input_size: tuple[int, ...]
    start: tuple[float, ...]
    jump: tuple[float, ...]
    registered: bool = False
    receptive_field: tuple[float, ...] | None = None

    @classmethod
    def unregistered(cls, grid: Sequence[int], input_size: Sequence[int]) -> Geometry:
        jump = tuple(n / g for n, g in zip(input_size, grid, strict=True))
        return cls(tuple(grid), tuple(input_size), tuple(j / 2 - 0.5 for j in jump), jump)

    @classmethod
    def of_samples(cls, input_size: Sequence[int]) -> Geometry:
        """One cell per input sample: maps of methods that work on the input itself."""
        size = tuple(input_size)
        return cls(size, size, (0.0,) * len(size), (1.0,) * len(size), registered=True)

    def centres(self) -> tuple[Float[Tensor, "cells"], ...]:
        """The centre of every cell, one vector per axis."""
        return tuple(
            s + j * torch.arange(g, dtype=torch.float64)
            for s, j, g in zip(self.start, self.jump, self.grid, strict=True)
        )

    def shift(self) -> tuple[Float[Tensor, "cells"], ...]:
        """How far every cell looks from where plain resizing would draw it, one vector per axis, in samples.

        Negative: the cell looks nearer to the first sample, so plain resizing draws it too far down or right.
        """
        plain = Geometry.unregistered(self.grid, self.input_size)
        return tuple(ours - theirs for ours, theirs in zip(self.centres(), plain.centres(), strict=True))

    def nearest_cell(self) -> tuple[Tensor, ...]:
        """For every input sample of each axis, the index of the cell whose centre is nearest; halfway, the later one."""
        return tuple(
            ((torch.arange(n, dtype=torch.float64) - s) / j + 0.5).floor().long().clamp(0, g - 1)
            for s, j, g, n in zip(self.start, self.jump, self.grid, self.input_size, strict=True)
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Geometry:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**fields)


def _along(matrix: Tensor, values: Tensor, axis: int) -> Tensor:
    """Multiply `values` by `matrix` (new, old) along one axis."""
    moved: Tensor = torch.tensordot(values, matrix.to(values), dims=([axis], [1])).movedim(-1, axis)
    return moved


def upsample(cells: Float[Tensor, "*lead_grid"], geometry: Geometry) -> Float[Tensor, "*lead_size"]:
    """Linear interpolation between cell centres, held constant outside the outermost ones.

    The trailing axes of `cells` are the grid; any number of axes may lead. A registered geometry puts every cell where
    it looks; an unregistered one gives what `interpolate(mode="linear", align_corners=False)` gives. Linear
    interpolation makes no new extremes: a non-negative map stays non-negative.
    """
    rank = len(geometry.grid)
    for axis in range(rank):
        n, g = geometry.input_size[axis], geometry.grid[axis]
        position = ((torch.arange(n, dtype=torch.float64) - geometry.start[axis]) / geometry.jump[axis]).clamp(0, g - 1)
        low = position.floor().long()
        high = (low + 1).clamp(max=g - 1)
        share = position - low
        weights = torch.zeros(n, g, dtype=torch.float64)
        rows = torch.arange(n)
        weights[rows, low] += 1 - share
        weights[rows, high] += share
        cells = _along(weights, cells, cells.ndim - rank + axis)
    return cells


def _beside(values: Tensor, axis: int) -> Shaped[Tensor, "along beside"]:
    """The values with all axes but one laid out in a row; a signal has no other axis, and still gets one."""
    return values.movedim(axis, 0).reshape(values.shape[axis], -1)


def cell_sums(samples: Float[Tensor, "*lead_size"], geometry: Geometry) -> Float[Tensor, "*lead_grid"]:
    """Add up the input samples that belong to each cell (nearest registered centre). Totals are preserved."""
    rank = len(geometry.grid)
    for axis, owner in enumerate(geometry.nearest_cell()):
        weights = torch.nn.functional.one_hot(owner, geometry.grid[axis]).T.to(torch.float64)
        samples = _along(weights, samples, samples.ndim - rank + axis)
    return samples


def _members(geometry: Geometry) -> tuple[Float[Tensor, "cells samples"], ...]:
    """Per axis which samples are each cell's own, as 0 and 1. A cell that no sample is nearest to (its centre lies outside
    the input) has the sample nearest to it.
    """
    found = []
    for owner, centres, g, n in zip(
        geometry.nearest_cell(), geometry.centres(), geometry.grid, geometry.input_size, strict=True
    ):
        members = torch.nn.functional.one_hot(owner, g).T.to(torch.float64)
        lost = torch.nonzero(members.sum(1) == 0).flatten()
        members[lost, centres[lost].round().long().clamp(0, n - 1)] = 1
        found.append(members)
    return tuple(found)


def spread(cells: Float[Tensor, "*lead_grid"], geometry: Geometry) -> Float[Tensor, "*lead_size"]:
    """Share each cell's value evenly among its own samples (nearest registered centre). Totals are preserved."""
    rank = len(geometry.grid)
    for axis, members in enumerate(_members(geometry)):
        shares = members / members.sum(1, keepdim=True)
        cells = _along(shares.T, cells, cells.ndim - rank + axis)
    return cells


def cells_in(mask: Bool[Tensor, "*lead_size"], geometry: Geometry) -> Float[Tensor, "*lead_grid"]:
    """The share of each cell's own samples that lie in the mask, 0 to 1.

    Over masks that divide the input among them the shares of a cell add up to 1.
    """
    rank = len(geometry.grid)
    inside = mask.to(torch.float64)
    for axis, members in enumerate(_members(geometry)):
        inside = _along(members, inside, inside.ndim - rank + axis)
    for axis, members in enumerate(_members(geometry)):
        inside = inside / members.sum(1).view(-1, *(1,) * (rank - 1 - axis))
    return inside


def samples_of(cells: Bool[Tensor, "*grid"], geometry: Geometry) -> Bool[Tensor, "*size"]:
    """The input samples that belong to some cells (nearest registered centre)."""
    for axis, owner in enumerate(geometry.nearest_cell()):
        cells = cells.index_select(axis, owner.to(cells.device))
    return cells


def onto(cells: Float[Tensor, "*lead_own"], geometry: Geometry, other: Geometry) -> Float[Tensor, "*lead_grid"]:
    """A map on other cells: each of these adds up what lies in its samples. Totals are preserved, in float64."""
    return cell_sums(spread(cells.to(torch.float64), geometry), other)


def region_sums(
    cells: Float[Tensor, "*lead_grid"], masks: Bool[Tensor, "regions *size"], geometry: Geometry
) -> Float[Tensor, "*lead regions"]:
    """What the cells add up to in each region of the input, in float64 and the cells' unit.

    Nothing is interpolated: a cell's value is shared evenly among its own samples, so masks that divide the input among
    them get sums that add up to the sum of the cells.
    """
    rank = len(geometry.grid)
    shares = cells_in(masks, geometry).flatten(-rank)
    return cells.to(torch.float64).flatten(-rank) @ shares.T.to(cells.device)


def boxes_to_mask(boxes: Sequence[Sequence[float]], size: Sequence[int]) -> Bool[Tensor, "*size"]:
    """The union of boxes `(low..., high...)` as a mask; for images `(x0, y0, x1, y1)` in pixels, so axes run backwards."""
    rank = len(size)
    mask = torch.zeros(tuple(size), dtype=torch.bool)
    for box in boxes:
        if len(box) != 2 * rank:
            raise BadInput(
                f"A box has {len(box)} numbers.",
                why=f"{2 * rank} are needed for {rank} axes.",
                hint="Give low corner, then high corner.",
            )
        inside = torch.ones(tuple(size), dtype=torch.bool)
        for axis, n in enumerate(size):
            low, high = box[rank - 1 - axis], box[2 * rank - 1 - axis]
            centre = torch.arange(n) + 0.5
            along = (centre >= low) & (centre < high)
            inside &= along.view((-1,) + (1,) * (rank - 1 - axis))
        mask |= inside
    return mask


def expand(values: Shaped[Tensor, "batch"], like: Tensor) -> Tensor:
    """One number per input, shaped so that it broadcasts over a tensor that starts with the batch axis."""
    return values.view((-1,) + (1,) * (like.ndim - 1))


def combine(
    maps: Float[Tensor, "batch channels *grid"], weights: Float[Tensor, "batch *targets channels"]
) -> Float[Tensor, "batch *targets *grid"]:
    """The weighted sum of maps over their channels, in float32 at least, also inside autocast.

    With weights `(batch, channels)` one map per input, with `(batch, targets, channels)` one per input and target.
    """
    dtype = torch.promote_types(maps.dtype, torch.float32)
    with torch.autocast(maps.device.type, enabled=False):
        rule = "bc...,bc->b..." if weights.ndim == 2 else "bc...,btc->bt..."
        return torch.einsum(rule, maps.to(dtype), weights.to(dtype))


def within(mask: Bool[Tensor, "batch *size"], distance: float) -> Bool[Tensor, "batch *size"]:
    """The samples at most `distance` (Euclidean, in samples) away from the mask.

    Squared distances add up over axes, so one running minimum per axis gives the exact distance as far as is asked.
    """
    reach = int(distance)
    squared = torch.where(mask, 0.0, torch.inf)
    for axis in range(1, mask.ndim):
        n = mask.shape[axis]
        nearest = squared.clone()
        for shift in range(1, min(reach, n - 1) + 1):
            low, high = nearest.narrow(axis, 0, n - shift), nearest.narrow(axis, shift, n - shift)
            torch.minimum(low, squared.narrow(axis, shift, n - shift) + shift**2, out=low)
            torch.minimum(high, squared.narrow(axis, 0, n - shift) + shift**2, out=high)
        squared = nearest
    return squared <= distance**2


def blur(x: Float[Tensor, "batch channels *size"], share: float = 0.05) -> Float[Tensor, "batch channels *size"]:
    """A Gaussian blur whose standard deviation is `share` of each side; the edges are continued outwards."""
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        reach = min(max(round(3 * share * n), 1), n)
        offset = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-0.5 * (offset / (share * n)) ** 2)
        lines = x.movedim(axis, -1)
        padded = torch.nn.functional.pad(lines.reshape(-1, 1, n), (reach, reach), mode="replicate")
        x = torch.nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None]).view(lines.shape).movedim(-1, axis)
    return x


def moved(
    x: Float[Tensor, "batch channels *size"],
    *,
    turn: Float[Tensor, "batch"],
    zoom: Float[Tensor, "batch"],
    shift: Float[Tensor, "batch axes"],
) -> Float[Tensor, "batch channels *size"]:
    """Inputs turned, scaled and shifted by linear interpolation; what comes in from outside is mirrored.

    turn: in radians about the centre, in the plane of the last two axes (a signal has none and is not turned).
    zoom: how much of the input is shown, 1.1 for a tenth more than there is. shift: of what is shown, in samples per axis.
    """
    if x.ndim == 3:  # a signal is a picture of one line
        none = torch.zeros_like(shift)
        return moved(x[:, :, None], turn=torch.zeros_like(turn), zoom=zoom, shift=torch.cat([none, shift], 1))[:, :, 0]
    size = torch.tensor(x.shape[2:], dtype=x.dtype)
    matrix = torch.eye(len(size), dtype=x.dtype).repeat(len(x), 1, 1)
    matrix[:, -2, -2] = matrix[:, -1, -1] = turn.cos()
    matrix[:, -2, -1], matrix[:, -1, -2] = -turn.sin(), turn.sin()
    matrix = matrix * zoom[:, None, None] * size / size[:, None]  # grid_sample measures every axis from -1 to 1
    theta = torch.cat([matrix.flip(1, 2), (2 * shift / size).flip(1)[:, :, None]], 2).to(x)
    places = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, places, padding_mode="reflection", align_corners=False)


def check_same_size(pixels: Tensor, other: Tensor, what: str) -> None:
    """Raise `BadInput` unless a map `(batch, *size)` has the batch and the size of what it is compared with."""
    if pixels.shape != other.shape:
        raise BadInput(
            f"The map has shape {tuple(pixels.shape)} and the {what} {tuple(other.shape)}.",
            why="One value is needed for every sample of the input.",
            hint="Reduce the channels of the map, and bring it to the input's size (at_input_size).",
        )


def place_name(centre: Sequence[float], size: Sequence[int]) -> str:
    """Where a point lies, in words: "upper left", "centre", "early", "slice 3 of 5"."""
    thirds = [min(int(3 * (c + 0.5) / n), 2) for c, n in zip(centre, size, strict=True)]
    if len(size) == 1:
        return ("early", "middle", "late")[thirds[0]]
    if len(size) == 2:
        vertical, horizontal = ("upper", "", "lower")[thirds[0]], ("left", "", "right")[thirds[1]]
        return " ".join(w for w in (vertical, horizontal) if w) or "centre"
    depth = f"{('first', 'middle', 'last')[thirds[0]]} slices"
    return f"{depth}, {place_name(centre[1:], size[1:])}"


@dataclass(frozen=True)
class Region:
    """Neighbouring cells of one sign. `cells` marks them on the grid; bounds are in input samples, high end exclusive."""

    value: float
    cells: Bool[Tensor, "*grid"]
    low: tuple[int, ...]
    high: tuple[int, ...]
    name: str


def regions(cells: Float[Tensor, "*grid"], geometry: Geometry, *, share: float = 0.2) -> list[Region]:
    """Connected cells (diagonals count) of one sign whose size exceeds `share` of the largest, strongest sum first."""
    from scipy import ndimage

    values = cells.detach().double().cpu()
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest == 0.0:
        return []
    owners = geometry.nearest_cell()
    found = []
    for sign in (1, -1):
        strong = (values * sign >= share * largest).numpy()
        labels, count = ndimage.label(strong, structure=ndimage.generate_binary_structure(strong.ndim, strong.ndim))
        for k in range(1, count + 1):
            member = torch.from_numpy(labels == k)
            low, high, middle = [], [], []
            weight = (values * sign).clamp_min(0) * member
            for axis, owner in enumerate(owners):
                touched = _beside(member, axis).any(1)
                mine = torch.nonzero(touched[owner]).flatten()
                low.append(int(mine[0]) if len(mine) else 0)
                high.append(int(mine[-1]) + 1 if len(mine) else geometry.input_size[axis])
                along = _beside(weight, axis).sum(1)
                middle.append(float((along * geometry.centres()[axis]).sum() / weight.sum()))
            found.append(
                Region(
                    float(values[member].sum()),
                    member,
                    tuple(low),
                    tuple(high),
                    place_name(middle, geometry.input_size),
                )
            )
    return sorted(found, key=lambda r: -abs(r.value))
