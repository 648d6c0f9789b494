from __future__ import annotations

import pytest
import torch
from torch import nn

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods.input_x_gradient import input_x_gradient
from pellucid.targets import ClassTarget
from reference import input_methods as literal
from reference.cam import error
from reference.nets import GapNet, inputs

CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))


@pytest.mark.checks("input_x_gradient", against="a literal version", tolerance=1e-12)
def test_equals_the_literal_version(rank: int, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    values = x * literal.gradient(net, x, CLASSES)
    assert error(input_x_gradient(Call(net), x, TARGET, reduce="none").map, values) < tolerance
    assert error(input_x_gradient(Call(net), x, TARGET).map, values.sum(1)) < tolerance
    assert error(input_x_gradient(Call(net), x, TARGET, reduce="abs_max").map, values.abs().amax(1)) < tolerance


@pytest.mark.checks("input_x_gradient", against="Captum InputXGradient", tolerance=1e-12)
def test_equals_captum(tolerance: float) -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = GapNet(2).double().eval(), inputs(2).double()
    theirs = attr.InputXGradient(net).attribute(x.clone().requires_grad_(), target=torch.tensor(CLASSES))
    assert error(input_x_gradient(Call(net), x, TARGET, reduce="none").map, theirs) < tolerance


def test_adds_up_in_a_network_of_relus_without_biases(rank: int) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    for module in net.modules():
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            module.bias.data.zero_()
    found = input_x_gradient(Call(net), x, TARGET)
    torch.testing.assert_close(found.map.flatten(1).sum(1), found.target(found.output))  # type: ignore[misc]


def test_refuses_an_unknown_reduction() -> None:
    with pytest.raises(OptionError, match="Did you mean 'sum'"):
        input_x_gradient(Call(GapNet(2)), inputs(2), TARGET, reduce="sums")  # type: ignore[arg-type]
