from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import LayerError, OptionError
from pellucid.methods.saliency import saliency
from pellucid.targets import ClassTarget, SingleLogitTarget
from reference.cam import error
from reference.nets import GapNet, Squeezed, inputs


def plain_gradient(net: nn.Module, x: Tensor, classes: list[int]) -> Tensor:
    """One input at a time, through `.backward()`."""
    found = []
    for i, c in enumerate(classes):
        leaf = x[i : i + 1].clone().requires_grad_()
        net(leaf)[0, c].backward()
        assert leaf.grad is not None
        found.append(leaf.grad)
    net.zero_grad()
    return torch.cat(found)


@pytest.mark.checks("saliency", against="backward() per input", tolerance=1e-12)
def test_equals_autograd_in_float64(rank: int, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    slope = plain_gradient(net, x, [0, 2, 1])
    target = ClassTarget(torch.tensor([0, 2, 1]))
    assert error(saliency(Call(net), x, target, reduce="none").map, slope) < tolerance
    assert error(saliency(Call(net), x, target, reduce="sum").map, slope.sum(1)) < tolerance
    assert error(saliency(Call(net), x, target).map, slope.abs().amax(1)) < tolerance


def test_equals_central_differences() -> None:
    net, x = GapNet(1).double().eval(), inputs(1, batch=1).double()
    found = saliency(Call(net), x, ClassTarget(0), reduce="none").map
    for channel, place in ((0, 3), (1, 9)):
        step = torch.zeros_like(x)
        step[0, channel, place] = 1e-6
        slope = (net(x + step) - net(x - step)).detach()[0, 0] / 2e-6
        assert abs(float(slope - found[0, channel, place])) < 1e-8


@pytest.mark.checks("saliency", against="Captum Saliency", tolerance=1e-12)
def test_equals_captum(tolerance: float) -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = GapNet(2).double().eval(), inputs(2).double()
    classes = torch.tensor([0, 2, 1])
    theirs = attr.Saliency(net).attribute(x.clone().requires_grad_(), target=classes, abs=False)
    assert error(saliency(Call(net), x, ClassTarget(classes), reduce="none").map, theirs) < tolerance


def test_works_frozen_and_without_gradient_mode(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    expected = saliency(Call(net), x, ClassTarget(1)).map
    net.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(saliency(Call(net), x, ClassTarget(1)).map, expected)
    with torch.inference_mode():
        assert torch.equal(saliency(Call(net), x * 1, ClassTarget(1)).map, expected)


def test_input_in_place_and_its_gradient_are_left_alone() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), GapNet(2)).eval()
    x = inputs(2).requires_grad_()
    before = x.detach().clone()
    saliency(Call(net), x, ClassTarget(1))
    assert x.grad is None
    assert torch.equal(x, before)


def test_the_other_answer_has_the_opposite_slope() -> None:
    net, x = Squeezed(GapNet(2, classes=1)).eval(), inputs(2)
    yes, no = (saliency(Call(net), x, SingleLogitTarget(answer), reduce="sum").map for answer in (True, False))
    torch.testing.assert_close(yes, -no)
    assert float(yes.abs().max()) > 0


def test_refusals() -> None:
    with pytest.raises(OptionError, match="Did you mean 'sum'"):
        saliency(Call(GapNet(2)), inputs(2), ClassTarget(0), reduce="sums")  # type: ignore[arg-type]

    class Cut(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    with pytest.raises(LayerError, match="does not depend on the input"):
        saliency(Call(Cut(2)), inputs(2), ClassTarget(0))
