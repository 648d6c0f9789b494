"""A view shows every cell what it saw, mirrored or moved: where cells look is followed sample by sample."""

from __future__ import annotations

import pytest
import torch

from pellucid import mirror
from pellucid.errors import OptionError
from pellucid.mirror import View
from pellucid.spatial import Geometry

# Centred on the first sample (a stride-8 network padded on both sides), symmetric, and unregistered.
FIRST = Geometry((5, 4), (40, 32), (0.0, 0.0), (8.0, 8.0), registered=True)
MIDDLE = Geometry((5, 4), (40, 32), (3.5, 3.5), (8.0, 8.0), registered=True)
PLAIN = Geometry.unregistered((5, 4), (40, 32))


def looked_at(view: View, geometry: Geometry, x: torch.Tensor) -> torch.Tensor:
    """What lies at the centre of each cell (or the mean of the four samples around it), through the view and back."""
    seen = view.of(x[None, None])[0, 0]
    rows, columns = geometry.centres()
    corners = [seen[(rows + i).long()][:, (columns + j).long()] for i in (0, 0.5) for j in (0, 0.5)]
    return view.back(torch.stack(corners).mean(0)[None])[0]


@pytest.mark.parametrize("geometry", [FIRST, MIDDLE, PLAIN], ids=["first", "middle", "plain"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_mirrored_cells_look_at_the_same_samples(geometry: Geometry, axis: int) -> None:
    x = torch.rand(40, 32, generator=torch.Generator().manual_seed(0))
    own = looked_at(mirror.as_it_is(geometry), geometry, x)
    torch.testing.assert_close(looked_at(mirror.mirrored(geometry, axis), geometry, x), own)


@pytest.mark.parametrize(("axis", "by"), [(0, 1), (0, -2), (1, 3), (-1, -1)])
def test_shifted_cells_look_at_the_same_samples_or_at_none(axis: int, by: int) -> None:
    x = torch.rand(40, 32, generator=torch.Generator().manual_seed(0))
    own = looked_at(mirror.as_it_is(FIRST), FIRST, x)
    found = looked_at(mirror.shifted(FIRST, axis, by), FIRST, x)
    lost = torch.isnan(found)
    torch.testing.assert_close(found[~lost], own[~lost])
    line = lost.movedim(axis, 0)[:, 0]
    expected = [False] * len(line)
    for i in range(abs(by)):  # moved towards the end, the last cells look beyond it
        expected[-1 - i if by > 0 else i] = True
    assert line.tolist() == expected


def test_a_mirror_is_its_own_inverse_where_cells_lie_symmetrically(rank: int) -> None:
    geometry = Geometry.unregistered((4,) * rank, (12,) * rank)
    x = torch.rand(2, 3, *geometry.input_size)
    for axis in range(rank):
        view = mirror.mirrored(geometry, axis)
        assert torch.equal(view.of(view.of(x)), x)
        assert torch.equal(view.of(x), x.flip(axis + 2))
        cells = torch.rand(2, *geometry.grid)
        assert torch.equal(view.back(cells), cells.flip(axis + 1))


def test_views_that_would_fall_between_samples_are_refused() -> None:
    uneven = Geometry.unregistered((3,), (10,))
    with pytest.raises(OptionError, match=r"by 3\.33333 samples"):
        mirror.shifted(uneven, 0, 1)
    with pytest.raises(OptionError, match="Mirroring"):
        mirror.mirrored(Geometry((3,), (12,), (0.25,), (4.0,)), 0)
