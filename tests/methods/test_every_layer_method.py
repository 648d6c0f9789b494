"""What every method that looks at a layer owes to everyone, whatever its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import LayerError
from pellucid.methods import METHODS
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.nets import FourPixels, GapNet, TwoLayers, inputs
from reference.untouched import unchanged

CLASSES = torch.tensor([0, 2, 1])
NAMES = [
    n for n, row in METHODS.items() if "layer" in row.needs and row.space == "cells" and not row.control and n != "cam"
]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.bug("B1")
@pytest.mark.parametrize("layer", ["conv", "r1"])
def test_what_works_in_place_afterwards_changes_nothing(name: str, layer: str) -> None:
    """One layer name has one map, whether the ReLU behind it overwrites the layer's output or not."""
    x = torch.arange(16.0).view(1, 1, 4, 4)
    maps = [METHODS[name](Call(FourPixels(inplace)), x, ClassTarget(0), layer=layer).map for inplace in (True, False)]
    assert torch.equal(*maps)
    assert float(maps[0].abs().max()) > 0


def test_frozen_parameters_no_grad_and_inference_mode_change_nothing(name: str, rank: int) -> None:
    net, x = TwoLayers(rank).eval(), inputs(rank, side=8)
    expected = METHODS[name](Call(net), x, ClassTarget(CLASSES)).map
    net.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(METHODS[name](Call(net), x, ClassTarget(CLASSES)).map, expected)
    with torch.inference_mode():
        again = METHODS[name](Call(net), x * 1, ClassTarget(CLASSES)).map
    assert torch.equal(again, expected)


@pytest.mark.bug("B7")
def test_a_batch_as_large_as_the_map_is_its_inputs(name: str) -> None:
    net, x = TwoLayers(2).eval(), inputs(2, batch=4, side=8)
    classes = torch.tensor([0, 1, 2, 0])
    whole = METHODS[name](Call(net), x, ClassTarget(classes)).map
    single = [METHODS[name](Call(net), x[i : i + 1], ClassTarget(int(c))).map for i, c in enumerate(classes)]
    assert whole.shape == (4, 4, 4)
    assert error(torch.cat(single), whole) < 1e-5


def test_no_graph_is_kept(name: str) -> None:
    found = METHODS[name](Call(TwoLayers(2).eval()), inputs(2, side=8), ClassTarget(1))
    assert not found.map.requires_grad
    assert not found.output.requires_grad


def test_half_precision_is_added_up_in_float32(name: str) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    expected = METHODS[name](Call(net), x, ClassTarget(CLASSES)).map
    with torch.autocast("cpu", torch.bfloat16):
        mixed = METHODS[name](Call(net), x, ClassTarget(CLASSES)).map
    low = METHODS[name](Call(net.bfloat16()), x.bfloat16(), ClassTarget(CLASSES)).map
    for found in (mixed, low):
        assert found.dtype == torch.float32
        assert error(found, expected) < 0.1
    zeros = METHODS[name](Call(net), torch.zeros_like(x, dtype=torch.bfloat16), ClassTarget(CLASSES)).map
    assert bool(zeros.isfinite().all())


def test_a_network_that_overwrites_its_input_sees_it_afresh_in_every_pass(name: str) -> None:
    net, x = nn.Sequential(nn.ReLU(inplace=True), TwoLayers(2)).eval(), inputs(2, side=8)
    given = x.clone()
    found = METHODS[name](Call(net), x, ClassTarget(CLASSES)).map
    assert torch.equal(x, given)
    net[0].inplace = False
    assert torch.equal(METHODS[name](Call(net), x, ClassTarget(CLASSES)).map, found)


def test_nothing_in_nothing_out(name: str) -> None:
    """Activations that are all 0 give a map that is all 0, not noise stretched by a division."""
    net = GapNet(2).eval()
    net.features[2].bias.data.fill_(-1e6)  # nothing passes the last ReLU
    assert not METHODS[name](Call(net), inputs(2), ClassTarget(1)).map.any()


@pytest.mark.bug("B6")
def test_a_layer_that_runs_twice_is_refused(name: str) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(self.conv(x)).flatten(2).mean(2))

    net = Twice().eval()
    with unchanged(net), pytest.raises(LayerError, match="ran 2 times"):
        METHODS[name](Call(net), inputs(2), ClassTarget(0), layer="conv")


@pytest.mark.parametrize("layer", ["fc", "nothing", nn.Conv2d(1, 1, 1)])
def test_a_wrong_layer_is_refused(name: str, layer: str | nn.Module) -> None:
    with pytest.raises(LayerError):
        METHODS[name](Call(GapNet(2).eval()), inputs(2), ClassTarget(0), layer=layer)


@pytest.mark.parametrize("name", [n for n in NAMES if "gradient" in METHODS[n].needs])
def test_a_layer_beside_the_way_is_refused(name: str) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside = GapNet(2), nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.main(x)

    with pytest.raises(LayerError, match="does not depend on layer 'aside'"):
        METHODS[name](Call(Branch().eval()), inputs(2), ClassTarget(0), layer="aside")
