from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.models.capture import CapturePoint, best, capture, substituted


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv1d(2, 2, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.act(self.conv(self.act(self.conv(x)))) - 0.2).add_(1.0)


@pytest.mark.parametrize(
    ("point", "steps"),
    [
        (CapturePoint("output", "act", call=1, calls=2), 4),
        (CapturePoint("output", "act", call=0, calls=2), 2),
        (CapturePoint("input", "act", call=1, argument=0, calls=2), 3),
        (CapturePoint("function", "torch.nn.functional.relu", call=2, argument=0, calls=3), 5),
        (CapturePoint("function", "torch.nn.functional.relu", call=2, calls=3), 6),
    ],
)
def test_the_tensor_at_a_point_is_the_one_computed_by_hand(point: CapturePoint, steps: int) -> None:
    torch.manual_seed(0)
    net, x = Twice(), torch.randn(1, 2, 5)
    stages = [net.conv, torch.relu, net.conv, torch.relu, lambda y: y - 0.2, torch.relu]
    expected = x
    for stage in stages[:steps]:
        expected = stage(expected)
    taken: list[Tensor] = []
    with capture(net, point, lambda value: taken.append(value.clone())):
        net(x)
    assert len(taken) == 1
    assert torch.equal(taken[0], expected)
    assert taken[0].requires_grad


def test_nothing_stays_after_an_error() -> None:
    net = Twice()
    with pytest.raises(RuntimeError), capture(net, CapturePoint("output", "act"), lambda value: None):
        net(torch.randn(1, 7, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_another_threads_pass_is_not_taken() -> None:
    net, taken = Twice(), []
    with capture(net, CapturePoint("output", "act"), taken.append):
        other = threading.Thread(target=lambda: net(torch.randn(1, 2, 5)))
        other.start()
        other.join()
        assert not taken
        net(torch.randn(1, 2, 5))
    assert len(taken) == 1


def test_layers_are_preferred_to_functions_and_the_last_to_the_first() -> None:
    function = CapturePoint("function", "torch.relu", calls=3)
    once = CapturePoint("function", "torch.mean", argument=0)
    first, last, given = (
        CapturePoint("output", "a.0"),
        CapturePoint("output", "a"),
        CapturePoint("input", "b", argument=0),
    )
    assert best([function, first, last, given]) == last
    assert best([function, given]) == given
    assert best([function, once]) == once
    assert best([]) is None


def test_a_substituted_output_is_what_follows_sees() -> None:
    net, value = Twice(), torch.full((1, 2, 5), 0.7)
    with substituted(net, "act", value):
        assert torch.allclose(net(torch.randn(1, 2, 5)), torch.full((1, 2, 5), 1.5))
    assert torch.equal(value, torch.full((1, 2, 5), 0.7))
