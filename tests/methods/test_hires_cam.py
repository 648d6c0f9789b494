from __future__ import annotations

import pytest
import torch

from pellucid.call import Call
from pellucid.methods.grad_cam import grad_cam
from pellucid.methods.hires_cam import hires_cam
from pellucid.targets import ClassTarget, ContrastTarget
from reference.cam import error
from reference.cam import hires_cam as literal
from reference.nets import GapNet, TwoLayers, inputs
from reference.peers import pytorch_grad_cam

CLASSES = torch.tensor([0, 2, 1])


@pytest.mark.checks("hires_cam", against="a literal version", tolerance=1e-12)
@pytest.mark.parametrize("layer", ["trunk", "block.0", "block"])
def test_equals_the_literal_version(rank: int, layer: str, tolerance: float) -> None:
    net, x = TwoLayers(rank).double().eval(), inputs(rank, side=8).double()
    found = hires_cam(Call(net), x, ClassTarget(CLASSES), layer=layer)
    assert error(found.map, literal(net, net.get_submodule(layer), x, CLASSES.tolist())) < tolerance
    assert found.layer == layer


@pytest.mark.checks("hires_cam", against="Captum LayerGradientXActivation", tolerance=1e-12)
@pytest.mark.parametrize("layer", ["trunk", "block.0"])  # an in-place ReLU follows the second
def test_equals_captum(layer: str, tolerance: float) -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = TwoLayers(2).double().eval(), inputs(2, side=8).double()
    theirs = attr.LayerGradientXActivation(net, net.get_submodule(layer)).attribute(x, target=CLASSES).sum(1)
    assert error(hires_cam(Call(net), x, ClassTarget(CLASSES), layer=layer).map, theirs) < tolerance


@pytest.mark.checks("hires_cam", against="pytorch-grad-cam HiResCAM", tolerance=1e-6)
def test_equals_pytorch_grad_cam(tolerance: float) -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    theirs = pytorch_grad_cam("HiResCAM", net, net.block, x, CLASSES.tolist())
    assert error(hires_cam(Call(net), x, ClassTarget(CLASSES), layer="block").map, theirs) < tolerance


def test_is_grad_cam_where_pooling_and_a_linear_layer_follow(rank: int) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    found = hires_cam(Call(net), x, ClassTarget(CLASSES))
    assert error(found.map, grad_cam(Call(net), x, ClassTarget(CLASSES)).map) < 1e-12


def test_cells_add_up_to_the_score_minus_the_bias_of_one_linear_layer(rank: int) -> None:
    """Flattened, so that Grad-CAM's averaging would lose it."""
    net = TwoLayers(rank, classes=8).double().eval()
    net.fc, net.relu = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]
    x = inputs(rank, side=8).double()
    found = hires_cam(Call(net), x, ClassTarget(5))
    torch.testing.assert_close(found.map.flatten(1).sum(1), (net(x)[:, 5] - net.hidden.bias[5]).detach())
    assert error(grad_cam(Call(net), x, ClassTarget(5)).map, found.map) > 0.1


def test_a_contrast_is_the_difference_of_two_maps() -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    a, b = (hires_cam(Call(net), x, ClassTarget(c)).map for c in (2, 0))
    assert error(hires_cam(Call(net), x, ContrastTarget(2, 0)).map, a - b) < 1e-5
    assert float(a.min()) < 0 < float(a.max())
