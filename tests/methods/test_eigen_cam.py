from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.methods.eigen_cam import eigen_cam
from pellucid.targets import ClassTarget
from reference.cam import eigen_cam as literal
from reference.cam import error
from reference.nets import GapNet, TwoLayers, inputs
from reference.peers import pytorch_grad_cam


def signed_as(maps: Tensor, like: Tensor) -> Tensor:
    """The maps with the sign under which they agree best with others."""
    along = (maps * like).flatten(1).sum(1).sign()
    return maps * along.view(-1, *(1,) * (maps.ndim - 1))


@pytest.mark.checks("eigen_cam", against="NumPy's singular value decomposition, up to sign", tolerance=1e-7)
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("layer", ["features.0", "features"])
def test_equals_a_full_decomposition_up_to_sign(rank: int, layer: str, centre: bool, tolerance: float) -> None:
    """`features` has more cells than channels for images and fewer for signals: both small problems are met."""
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    found = eigen_cam(Call(net), x, ClassTarget(0), layer=layer, centre=centre)
    activation = net.features[0](x) if layer == "features.0" else net.features(x)
    theirs = literal(activation.detach(), centre)
    assert error(signed_as(theirs, found.map), found.map) < tolerance


@pytest.mark.checks("eigen_cam", against="pytorch-grad-cam EigenCAM, up to sign", tolerance=1e-5)
def test_equals_pytorch_grad_cam_up_to_sign(tolerance: float) -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    theirs = pytorch_grad_cam("EigenCAM", net, net.block, x, [0, 0, 0])
    found = eigen_cam(Call(net), x, ClassTarget(0), layer="block", centre=True).map
    assert error(signed_as(theirs, found), found) < tolerance


def test_the_largest_cell_is_positive(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    for layer in ("features.0", "features.2", "features"):
        for centre in (False, True):
            cells = eigen_cam(Call(net), x, ClassTarget(0), layer=layer, centre=centre).map.flatten(1)
            assert bool((cells.amax(1) >= -cells.amin(1)).all())
    assert float(eigen_cam(Call(net), x, ClassTarget(0)).map.min()) > -1e-6  # one sign behind a ReLU


def test_turning_the_features_around_turns_nothing() -> None:
    """The sign comes from the map, not from the decomposition."""

    class Turned(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.turn(super().forward(x))

    net, x = GapNet(2).double().eval(), inputs(2).double()
    plain = eigen_cam(Call(net), x, ClassTarget(0), layer="features.2").map
    net.features[2].weight.data.neg_()
    net.features[2].bias.data.neg_()
    torch.testing.assert_close(eigen_cam(Call(net), x, ClassTarget(0), layer="features.2").map, plain)


def test_one_pattern_is_found_again() -> None:
    """Features that are one map times one vector: the projection is that map times the vector's length."""
    pattern = torch.tensor([[0.0, 3.0], [1.0, -2.0]])
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten(), nn.Linear(12, 2)).eval()
    net[0].weight.data = torch.tensor([2.0, -1.0, 2.0]).view(3, 1, 1, 1)  # of length 3
    found = eigen_cam(Call(net), pattern[None, None], ClassTarget(0), layer="0").map[0]
    torch.testing.assert_close(found, 3 * pattern)


def test_the_class_has_no_part_in_it() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    assert torch.equal(*(eigen_cam(Call(net), x, ClassTarget(c)).map for c in (0, 2)))


def test_many_channels_on_few_places_stay_accurate_in_float32() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 300, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(300 * 9, 2)).eval()
    x = inputs(2, side=8)
    found = eigen_cam(Call(net), x, ClassTarget(0), layer="1").map
    theirs = literal(net[:2](x).detach(), centre=False)
    assert error(signed_as(theirs, found), found) < 1e-5
