from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pellucid.call import Call
from pellucid.errors import LayerError
from pellucid.methods.guided_grad_cam import guided_grad_cam
from pellucid.targets import ClassTarget
from reference import cam as literal_cam
from reference import input_methods as literal
from reference.cam import error
from reference.nets import GapNet, SelfExplaining, inputs

CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))
MODE = {1: "linear", 2: "bilinear", 3: "trilinear"}


@pytest.mark.checks("guided_grad_cam", against="literal versions of both, multiplied", tolerance=1e-10)
@pytest.mark.parametrize("layer", ["features", "features.1"])
def test_equals_the_literal_versions_multiplied(rank: int, layer: str, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    coarse = literal_cam.grad_cam(net, net.get_submodule(layer), x, CLASSES).relu()
    weight = F.interpolate(coarse[:, None], size=x.shape[2:], mode=MODE[rank], align_corners=False)
    expected = weight * literal.gradient(literal.Swapped(net, literal.GuidedReLU.apply), x, CLASSES)
    found = guided_grad_cam(Call(net), x, TARGET, layer=layer, reduce="none")
    assert error(found.map, expected) < tolerance
    assert found.layer == layer
    assert error(guided_grad_cam(Call(net), x, TARGET, layer=layer).map, expected.sum(1)) < tolerance


@pytest.mark.checks("guided_grad_cam", against="Captum GuidedGradCam, interpolated linearly", tolerance=1e-10)
def test_equals_captum_with_linear_interpolation(tolerance: float) -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = GapNet(2).double().eval(), inputs(2).double()
    plain = copy.deepcopy(net)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = attr.GuidedGradCam(plain, plain.features)
        theirs = method.attribute(x, target=torch.tensor(CLASSES), interpolate_mode="bilinear")
        nearest = method.attribute(x, target=torch.tensor(CLASSES))
    found = guided_grad_cam(Call(net), x, TARGET, reduce="none").map
    assert error(found, theirs) < tolerance
    assert error(found, nearest) > 0.05  # their default


def test_cells_lie_where_a_self_explaining_network_knows_them_to_lie() -> None:
    """There the coarse map moves, and with it the product; plain interpolation would put it elsewhere."""
    net, x = GapNet(2).double().eval(), inputs(2).double()
    told = guided_grad_cam(Call(SelfExplaining(net).eval()), x, TARGET).map
    assert error(guided_grad_cam(Call(net), x, TARGET).map, told) > 0.05


def test_nothing_is_left_where_no_cell_is_positive() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    net.fc.weight.data = -net.fc.weight.data.abs()
    assert not guided_grad_cam(Call(net), x, TARGET).map.any()


def test_errors_are_those_of_its_parts() -> None:
    with pytest.raises(LayerError, match="no layer 'nothing'"):
        guided_grad_cam(Call(GapNet(2).eval()), inputs(2), TARGET, layer="nothing")
