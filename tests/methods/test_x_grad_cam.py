from __future__ import annotations

import pytest
import torch

from pellucid.call import Call
from pellucid.methods.grad_cam import grad_cam
from pellucid.methods.hires_cam import hires_cam
from pellucid.methods.x_grad_cam import x_grad_cam
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.cam import x_grad_cam as literal
from reference.nets import GapNet, TwoLayers, inputs
from reference.peers import pytorch_grad_cam, torch_cam

CLASSES = torch.tensor([0, 2, 1])


@pytest.mark.checks("x_grad_cam", against="a literal version", tolerance=1e-9)
@pytest.mark.parametrize("layer", ["trunk", "block.0", "block"])
def test_equals_the_literal_version(rank: int, layer: str, tolerance: float) -> None:
    net, x = TwoLayers(rank).double().eval(), inputs(rank, side=8).double()
    found = x_grad_cam(Call(net), x, ClassTarget(CLASSES), layer=layer)
    assert error(found.map, literal(net, net.get_submodule(layer), x, CLASSES.tolist())) < tolerance


@pytest.mark.checks("x_grad_cam", against="torch-cam and pytorch-grad-cam XGradCAM", tolerance=1e-5)
def test_equals_torch_cam_and_pytorch_grad_cam(tolerance: float) -> None:
    """At a layer where nothing works in place afterwards and no channel is nearly silent."""
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    net.block[0].bias.data.add_(0.5)  # they add a small number to each channel's sum
    found = x_grad_cam(Call(net), x, ClassTarget(CLASSES), layer="block")
    rectified = x_grad_cam(Call(net), x, ClassTarget(CLASSES), layer="block", rectify=True)
    assert float(found.map.min()) < 0
    assert error(found.map, pytorch_grad_cam("XGradCAM", net, net.block, x, CLASSES.tolist())) < tolerance
    assert error(rectified.map, torch_cam("XGradCAM", net, "block", x, CLASSES.tolist())) < tolerance


def test_is_grad_cam_where_pooling_and_a_linear_layer_follow(rank: int) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    found = x_grad_cam(Call(net), x, ClassTarget(CLASSES))
    assert error(found.map, grad_cam(Call(net), x, ClassTarget(CLASSES)).map) < 1e-12


def test_conserves_what_gradient_times_activation_adds_up_to(rank: int) -> None:
    net, x = TwoLayers(rank).double().eval(), inputs(rank, side=8).double()
    mine, theirs = (method(Call(net), x, ClassTarget(CLASSES)).map for method in (x_grad_cam, hires_cam))
    torch.testing.assert_close(mine.flatten(1).sum(1), theirs.flatten(1).sum(1))


def test_a_silent_channel_has_no_weight() -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    net.block[0].bias.data[1] = -1e6
    assert bool(x_grad_cam(Call(net), x, ClassTarget(CLASSES)).map.isfinite().all())
