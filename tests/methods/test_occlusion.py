from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods.occlusion import occlusion
from pellucid.targets import ClassTarget
from reference import input_methods as literal
from reference.cam import error
from reference.nets import GapNet, inputs

CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))


@pytest.mark.checks("occlusion", against="a literal version", tolerance=1e-10)
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (4, 4), (5, 5), (8, 1)])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_equals_the_literal_version(rank: int, window: int, stride: int, batch_size: int, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank, side=8 if rank < 3 else 6).double()
    window = min(window, x.shape[2])
    stride = min(stride, window)
    options: dict[str, Any] = {"window": window, "stride": stride, "batch_size": batch_size, "baseline": 0.5}
    filled = torch.full_like(x, 0.5)
    expected = literal.occlusion(net, x, filled, CLASSES, [window] * rank, [stride] * rank)
    assert error(occlusion(Call(net), x, TARGET, **options).map, expected) < tolerance


@pytest.mark.checks("occlusion", against="Captum Occlusion", tolerance=1e-6)
@pytest.mark.parametrize(("window", "stride"), [((4, 4), (4, 4)), ((5, 3), (2, 3)), ((16, 7), (1, 5))])
def test_equals_captum(window: tuple[int, int], stride: tuple[int, int], tolerance: float) -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = GapNet(2).double().eval(), inputs(2).double()
    theirs = attr.Occlusion(net).attribute(
        x, target=torch.tensor(CLASSES), sliding_window_shapes=(2, *window), strides=(2, *stride), baselines=0
    )
    found = occlusion(Call(net), x, TARGET, window=window, stride=stride).map
    assert error(found, theirs[:, 0]) < tolerance  # Captum counts in float32
    assert torch.equal(theirs[:, 0], theirs[:, 1])


def test_a_sum_gives_back_what_was_summed(rank: int) -> None:
    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).sum(1, keepdim=True)

    x = inputs(rank, side=4)
    found = occlusion(Call(Total()), x, ClassTarget(0), window=1)
    torch.testing.assert_close(found.map, x.sum(1), rtol=1e-4, atol=1e-5)
    assert not occlusion(Call(Total()), x, ClassTarget(0), window=1, baseline=x[0]).map[0].any()


def test_by_default_eight_windows_lie_side_by_side(rank: int) -> None:
    found = occlusion(Call(GapNet(rank).eval()), inputs(rank), TARGET).map
    for axis in range(1, rank + 1):
        first, second = found.unflatten(axis, (8, 2)).unbind(axis + 1)
        torch.testing.assert_close(first, second)


def test_refusals() -> None:
    for options in ({"window": 17}, {"window": 4, "stride": 5}, {"window": 0}, {"window": (4, 4, 4)}, {"stride": 0}):
        with pytest.raises(OptionError, match="is not possible"):
            occlusion(Call(GapNet(2)), inputs(2), TARGET, **options)  # type: ignore[arg-type]
