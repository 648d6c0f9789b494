from __future__ import annotations

import numpy as np
import pytest
import torch

from pellucid.call import Call
from pellucid.methods.edge_map import edge_map
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.nets import GapNet, inputs


@pytest.mark.checks("edge_map", against="SciPy's Sobel filter", tolerance=1e-12)
def test_equals_scipy(rank: int, tolerance: float) -> None:
    """SciPy's Sobel filter is not scaled: 2 along its axis and 4 for every other one."""
    ndimage = pytest.importorskip("scipy.ndimage")
    x = inputs(rank).double()
    found = edge_map(Call(GapNet(rank).double().eval()), x, ClassTarget(0)).map
    scale = 2 * 4 ** (rank - 1)
    for i in range(len(x)):
        slopes = [ndimage.sobel(c, axis, mode="nearest") / scale for c in x[i].numpy() for axis in range(rank)]
        assert error(found[i], np.sqrt(sum(s**2 for s in slopes))) < tolerance


def test_a_ramp_is_as_steep_as_it_is(rank: int) -> None:
    x = torch.zeros(1, 2, *(8,) * rank)
    x[:, 0] = 3 * torch.arange(8.0)
    found = edge_map(Call(GapNet(rank).eval()), x, ClassTarget(0)).map
    torch.testing.assert_close(found[0][..., 1:-1], torch.full((*(8,) * (rank - 1), 6), 3.0))
    torch.testing.assert_close(found[0][..., 0], torch.full((8,) * (rank - 1), 1.5))  # the border goes on as it is


def test_a_flat_input_has_no_edges_and_brightness_no_part() -> None:
    call, x = Call(GapNet(2).double().eval()), inputs(2).double()
    assert not edge_map(call, torch.full_like(x, 7), ClassTarget(0)).map.any()
    found = edge_map(call, x, ClassTarget(0)).map
    assert error(edge_map(call, 5 - 2 * x, ClassTarget(0)).map, 2 * found) < 1e-12
    assert float(found.min()) >= 0


def test_knows_nothing_of_weights_and_class() -> None:
    x = inputs(2)
    first = edge_map(Call(GapNet(2, seed=0).eval()), x, ClassTarget(0)).map
    assert torch.equal(first, edge_map(Call(GapNet(2, seed=9).eval()), x, ClassTarget(1)).map)
