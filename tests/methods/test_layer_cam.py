from __future__ import annotations

import pytest
import torch

from pellucid.call import Call
from pellucid.methods.layer_cam import layer_cam
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.cam import layer_cam as literal
from reference.nets import TwoLayers, inputs
from reference.peers import pytorch_grad_cam, torch_cam

CLASSES = torch.tensor([0, 2, 1])


@pytest.mark.checks("layer_cam", against="a literal version", tolerance=1e-12)
@pytest.mark.parametrize("layer", ["trunk", "block.0", "block"])
def test_equals_the_literal_version(rank: int, layer: str, tolerance: float) -> None:
    net, x = TwoLayers(rank).double().eval(), inputs(rank, side=8).double()
    found = layer_cam(Call(net), x, ClassTarget(CLASSES), layer=layer)
    assert error(found.map, literal(net, net.get_submodule(layer), x, CLASSES.tolist())) < tolerance


@pytest.mark.checks("layer_cam", against="torch-cam and pytorch-grad-cam LayerCAM", tolerance=1e-6)
def test_equals_torch_cam_and_pytorch_grad_cam(tolerance: float) -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    found = layer_cam(Call(net), x, ClassTarget(CLASSES), layer="block")
    assert error(found.map, pytorch_grad_cam("LayerCAM", net, net.block, x, CLASSES.tolist())) < tolerance
    assert error(found.map, torch_cam("LayerCAM", net, "block", x, CLASSES.tolist())) < tolerance


def test_rectify_is_the_papers_last_step() -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    net.block[1] = torch.nn.Identity()  # a ReLU would let no gradient through to what is negative
    signed = layer_cam(Call(net), x, ClassTarget(CLASSES), layer="block.0").map
    rectified = layer_cam(Call(net), x, ClassTarget(CLASSES), layer="block.0", rectify=True).map
    assert float(signed.min()) < 0
    assert torch.equal(rectified, signed.clamp_min(0))


def test_a_class_without_positive_gradients_has_no_map() -> None:
    """Nothing speaks for it: the map is 0, not stretched to full scale."""
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    net.fc.weight.data[1] = -net.fc.weight.data[1].abs()
    net.hidden.weight.data.abs_()
    assert not layer_cam(Call(net), x, ClassTarget(1)).map.any()
    assert bool(layer_cam(Call(net), x, ClassTarget(0)).map.any())
