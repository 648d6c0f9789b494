from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import LayerError
from pellucid.tail import Tail
from reference.nets import TwoLayers, inputs
from reference.untouched import unchanged


class Cut(nn.Module):
    """early -> layer -> join(layer, early) -> mean over places."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.early, self.layer, self.join = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 1), join

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        return self.join(self.layer(early), early).flatten(2).mean(2)


def first(output: Any, copies: int) -> Tensor:
    assert len(output) == copies
    return output[:, 0]


@pytest.mark.parametrize(
    ("join", "short"),
    [
        (lambda a, b: a, True),
        (lambda a, b: a + b, True),
        (lambda a, b: a.mul_(2) - b.relu_(), True),  # in place, on what was kept as well
        (lambda a, b: torch.cat([a, b], 1), False),
        (lambda a, b: a.view(len(b), 3, -1, 1) + b.flatten(2)[..., None], False),
    ],
)
def test_scores_are_those_of_whole_passes(join: Callable[[Tensor, Tensor], Tensor], short: bool) -> None:
    net, x = Cut(join).eval(), inputs(2, batch=1, side=6)
    tail = Tail(Call(net), x, net.layer, first)
    assert tail.short is short
    maps = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        found = tail(maps.clone())
        for one, score in zip(maps, found, strict=True):
            with torch.no_grad():
                true = join(one[None].clone(), net.early(x)).flatten(2).mean(2)[0, 0]
            torch.testing.assert_close(score, true)


def test_what_comes_before_the_layer_does_not_run_again() -> None:
    net, x, ran = TwoLayers(2).eval(), inputs(2, batch=1, side=8), []
    tail = Tail(Call(net), x, net.block, first)
    own = net.trunk[0].forward
    net.trunk[0].forward = lambda given: ran.append(1) or own(given)  # type: ignore[method-assign, func-returns-value]
    with unchanged(net):
        tail(torch.zeros(5, 4, 4, 4))
    assert not ran
    assert vars(net.trunk[0])["forward"].__name__ == "<lambda>"  # what the user put there is still there
    net(x)
    assert ran == [1]


def test_a_module_that_runs_twice_before_the_layer_is_not_mistaken() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.twice, self.layer = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            early = self.twice(self.twice(x))
            return (self.layer(early) * early).flatten(2).mean(2)

    net, x = Again().eval(), inputs(2, batch=1, side=4)
    maps = torch.randn(3, 2, 4, 4)
    expected = (maps * net.twice(net.twice(x))).flatten(2).mean(2)[:, 0].detach()
    torch.testing.assert_close(Tail(Call(net), x, net.layer, first)(maps), expected)


def test_maps_that_the_network_never_asks_for_are_an_error() -> None:
    """A network that goes another way the next time must not pass for one that ignores the layer."""

    class Fickle(Cut):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return super().forward(x) if self.passes < 3 else self.early(x).flatten(2).mean(2)

    net = Fickle(lambda a, b: a).eval()
    tail = Tail(Call(net), inputs(2, batch=1, side=6), net.layer, first)
    with unchanged(net), pytest.raises(LayerError, match="ran 0 times"):
        tail(torch.zeros(2, 3, 4, 4))
