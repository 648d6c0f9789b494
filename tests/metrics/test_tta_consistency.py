from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from pellucid.errors import OptionError
from pellucid.explanation import Explanation
from pellucid.metrics.tta_consistency import tta_consistency
from pellucid.spatial import Geometry, upsample
from pellucid.targets import ClassTarget
from reference.again import case, score, shown
from reference.nets import GapNet, inputs
from reference.untouched import unchanged


def found(x: Tensor, again: Any, geometry: Geometry | None = None, **options: Any) -> dict[str, Tensor]:
    first = again(x=x)
    return tta_consistency(x, first.at_input_size(), geometry or first.geometry, again, **options)


def test_a_map_that_follows_its_input_is_consistent(rank: int) -> None:
    x = torch.rand(2, 1, *(8,) * rank, generator=torch.Generator().manual_seed(0))
    values = found(x, lambda *, x: shown(x[:, 0]), flips=range(rank), shift=2)
    assert values["flip"].tolist() == pytest.approx([1, 1])
    assert values["shift"].tolist() == pytest.approx([1, 1])


def test_a_map_that_stays_is_compared_with_itself_moved(rank: int) -> None:
    """Against SciPy, one changed input at a time."""
    still = torch.rand(1, *(8,) * rank, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(1, 1, *(8,) * rank)
    values = found(x, lambda *, x: shown(still), shift=3)

    def correlation(a: Tensor, b: Tensor) -> float:
        return float(stats.spearmanr(a.flatten(), b.flatten()).statistic)

    assert values["flip"].tolist() == pytest.approx([correlation(still, still.flip(-1))])
    apart = [correlation(still.narrow(a, 0, 5), still.narrow(a, 3, 5)) for a in range(1, rank + 1)]
    assert values["shift"].tolist() == pytest.approx([sum(apart) / rank])


def test_the_network_sees_mirrored_and_moved_inputs_with_the_edge_continued() -> None:
    x, seen = torch.arange(5.0).view(1, 1, 5), []

    def again(*, x: Tensor) -> Explanation:
        seen.append(x[0, 0].tolist())
        return shown(x[:, 0])

    found(x, again, shift=2)
    assert seen[1:] == [[4, 3, 2, 1, 0], [0, 0, 0, 1, 2], [2, 3, 4, 4, 4]]


def test_cells_are_compared_where_they_look() -> None:
    """Cells at 0, 4 and 8 of nine samples mirror onto themselves."""
    x = torch.rand(1, 1, 9, generator=torch.Generator().manual_seed(0))
    right = Geometry((3,), (9,), (0.0,), (4.0,), registered=True)

    def again(*, x: Tensor) -> Explanation:
        cells = x[:, 0, ::4]
        return Explanation(cells, right, ClassTarget(0), torch.zeros(1), torch.zeros(1, 2), "made_up")

    assert torch.equal(again(x=x).at_input_size(), upsample(x[:, 0, ::4], right))
    assert found(x, again)["flip"].tolist() == pytest.approx([1])


def test_half_a_cell_is_the_usual_shift() -> None:
    x = torch.rand(1, 1, 12, generator=torch.Generator().manual_seed(0))
    still = torch.rand(1, 12, generator=torch.Generator().manual_seed(1))
    cells = Geometry.unregistered((3,), (12,))
    usual = found(x, lambda *, x: shown(still), cells)["shift"]
    assert torch.equal(usual, found(x, lambda *, x: shown(still), cells, shift=2)["shift"])


def test_flat_maps_have_no_value_and_bad_options_are_refused() -> None:
    x = torch.zeros(1, 1, 6)
    values = found(x, lambda *, x: shown(x[:, 0]))
    assert math.isnan(float(values["flip"]))
    assert math.isnan(float(values["shift"]))
    for options, told in (({"flips": (1,)}, "not axes"), ({"flips": ()}, "not axes"), ({"shift": 6}, "leaves nothing")):
        with pytest.raises(OptionError, match=told):
            found(x, lambda *, x: shown(x[:, 0]), **options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="explains anew"):
        tta_consistency(x, x[:, 0], Geometry.of_samples((6,)), None)  # type: ignore[arg-type]


def test_network_and_input_stay(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    given, kept = case(net, x, 1, "grad_cam"), x.clone()
    with unchanged(net):
        score(tta_consistency, given)
    assert torch.equal(x, kept)
