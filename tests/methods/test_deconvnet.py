from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from pellucid.call import Call
from pellucid.errors import LayerError
from pellucid.methods.deconvnet import deconvnet
from pellucid.methods.guided_backprop import guided_backprop
from pellucid.targets import ClassTarget
from reference import input_methods as literal
from reference.cam import error
from reference.nets import GapNet, inputs

CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))


@pytest.mark.checks("deconvnet", against="a literal version", tolerance=1e-12)
@pytest.mark.parametrize("inplace", [False, True])
def test_equals_the_literal_version(rank: int, inplace: bool, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    expected = literal.gradient(literal.Swapped(net, literal.DeconvReLU.apply), x, CLASSES)
    functional = literal.Swapped(net, lambda z: nn.functional.relu(z, inplace=inplace))
    for model in (net, functional):
        assert error(deconvnet(Call(model), x, TARGET, reduce="none").map, expected) < tolerance
        assert error(deconvnet(Call(model), x, TARGET, reduce="abs_max").map, expected.abs().amax(1)) < tolerance


@pytest.mark.checks("deconvnet", against="Captum Deconvolution and Zennit DeconvNet", tolerance=1e-5)
def test_equals_captum_and_zennit_where_they_are_right(tolerance: float) -> None:
    torchvision = pytest.importorskip("torchvision")
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(weights=None, num_classes=4).eval()
    x = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    ours = deconvnet(Call(net), x, ClassTarget(3), reduce="none").map
    plain = copy.deepcopy(net)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert error(ours, attr.Deconvolution(plain).attribute(x, target=3)) < tolerance
        za, zc = pytest.importorskip("zennit.attribution"), pytest.importorskip("zennit.composites")
        with za.Gradient(plain, zc.DeconvNet()) as attributor:
            assert error(ours, attributor(x.clone(), torch.eye(4)[[3]])[1]) < tolerance


def test_differs_from_guided_backpropagation_by_what_was_inactive() -> None:
    class Line(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu().sum((1, 2))[:, None]

    x = torch.tensor([[[-1.0, 2.0]]])
    assert deconvnet(Call(Line()), x, ClassTarget(0)).map.tolist() == [[1, 1]]
    assert guided_backprop(Call(Line()), x, ClassTarget(0)).map.tolist() == [[0, 1]]


def test_a_network_without_relus_is_refused() -> None:
    with pytest.raises(LayerError, match="calls no ReLU"):
        deconvnet(Call(literal.Swapped(GapNet(2), nn.SiLU()).eval()), inputs(2), TARGET)
