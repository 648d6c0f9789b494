"""An input mirrored or shifted by whole cells, and its map laid back on the cells that it speaks of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import OptionError
from pellucid.spatial import Geometry


@dataclass(frozen=True)
class View:
    """An input seen otherwise. Per axis: which sample of the input stands at each place of the view, and which cell of the
    view's map looks at what each cell of the input's map looks at (-1: none).
    """

    name: str
    samples: tuple[Tensor, ...]
    cells: tuple[Tensor, ...]

    def of(self, x: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch channels *size"]:
        """The input as this view shows it."""
        return _picked(x, self.samples)

    def back(self, map: Float[Tensor, "batch *grid"]) -> Float[Tensor, "batch *grid"]:
        """The view's map on the cells of the input's; nan where none looks."""
        found = _picked(map, tuple(index.clamp_min(0) for index in self.cells))
        for axis, index in enumerate(self.cells, start=1):
            found = found.index_fill(axis, torch.nonzero(index < 0).flatten().to(found.device), torch.nan)
        return found


def as_it_is(geometry: Geometry) -> View:
    """The input itself."""
    return View("as it is", *_identity(geometry))


def mirrored(geometry: Geometry, axis: int) -> View:
    """Mirrored along an axis, moved so far that cells look at the samples that they look at without.

    A network whose cells do not lie symmetrically in the input (a first cell centred on the first sample, say) would else
    see every sample from another place of its grid. What comes in from outside is the last sample there was.
    """
    samples, cells = (list(part) for part in _identity(geometry))
    axis %= len(geometry.grid)
    n, g = geometry.input_size[axis], geometry.grid[axis]
    move = _whole(n - 1 - 2 * geometry.start[axis] - geometry.jump[axis] * (g - 1), "Mirroring")
    samples[axis] = (n - 1 - move - torch.arange(n)).clamp(0, n - 1)
    cells[axis] = torch.arange(g).flip(0)
    return View(f"mirrored along axis {axis}", tuple(samples), tuple(cells))


def shifted(geometry: Geometry, axis: int, by: int) -> View:
    """Moved by a number of cells along an axis, towards its end where positive.

    What comes in from outside is the sample at the border; cells that would look there have none in this view.
    """
    samples, cells = (list(part) for part in _identity(geometry))
    axis %= len(geometry.grid)
    n, g = geometry.input_size[axis], geometry.grid[axis]
    samples[axis] = (torch.arange(n) - _whole(by * geometry.jump[axis], "A shift by whole cells")).clamp(0, n - 1)
    there = torch.arange(g) + by
    cells[axis] = there.where((there >= 0) & (there < g), -1)
    return View(f"shifted by {by:+d} along axis {axis}", tuple(samples), tuple(cells))


def _identity(geometry: Geometry) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return tuple(map(torch.arange, geometry.input_size)), tuple(map(torch.arange, geometry.grid))


def _whole(samples: float, what: str) -> int:
    if abs(samples - round(samples)) > 1e-6:
        raise OptionError(
            f"{what} needs a move by {samples:g} samples.",
            why="Cells do not lie a whole number of samples apart, so no view shows them the same places.",
            hint="Use an input size that is a multiple of the network's stride, or leave these views out.",
        )
    return round(samples)


def _picked(values: Tensor, indices: tuple[Tensor, ...]) -> Tensor:
    """The trailing axes in the order of the indices."""
    first = values.ndim - len(indices)
    for axis, index in enumerate(indices, start=first):
        values = values.index_select(axis, index.to(values.device))
    return values
