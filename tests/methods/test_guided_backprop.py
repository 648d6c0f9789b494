from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.call import Call
from pellucid.errors import LayerError, OptionError
from pellucid.methods.guided_backprop import guided_backprop
from pellucid.methods.saliency import saliency
from pellucid.targets import ClassTarget
from reference import input_methods as literal
from reference.cam import error
from reference.nets import GapNet, inputs
from reference.untouched import unchanged

CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))


def guided(net: nn.Module, x: Tensor) -> Tensor:
    return guided_backprop(Call(net), x, TARGET, reduce="none").map


def expected(net: nn.Module, x: Tensor) -> Tensor:
    return literal.gradient(literal.Swapped(net, literal.GuidedReLU.apply), x, CLASSES)


@pytest.mark.checks("guided_backprop", against="a literal version", tolerance=1e-12)
def test_equals_the_literal_version(rank: int, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    values = expected(net, x)
    assert error(guided(net, x), values) < tolerance
    assert error(guided_backprop(Call(net), x, TARGET).map, values.sum(1)) < tolerance
    assert error(saliency(Call(net), x, TARGET, reduce="none").map, values) > 0.1


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "functional": F.relu,
    "functional in place": lambda z: F.relu(z, inplace=True),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": lambda z: z.relu(),
    "method in place": lambda z: z.relu_(),
    "clamp": lambda z: z.clamp(min=0),
    "clamp in place": lambda z: z.clamp_(0),
    "clamp_min": lambda z: z.clamp_min(0),
    "capped": nn.Hardtanh(0, 1e9),
    "capped in place": nn.Hardtanh(0, 1e9, inplace=True),
    "result not used": lambda z: (z.relu_(), z)[1],
    "in place on a part": lambda z: (z[:, :2].relu_(), z[:, 2:].relu_(), z)[2],
}


@pytest.mark.parametrize("way", list(WAYS))
def test_relus_are_met_however_they_are_called(way: str) -> None:
    """Captum and Zennit give the plain gradient for all but the first."""
    net, x = GapNet(2).double().eval(), inputs(2).double()
    assert error(guided(literal.Swapped(net, WAYS[way]), x), expected(net, x)) < 1e-12


def test_a_capped_relu_blocks_where_it_is_capped() -> None:
    class Line(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (F.relu6(x) * torch.tensor([[1.0], [1.0], [1.0], [-1.0]])).sum(1)

    x = torch.tensor([[[-1.0], [3.0], [7.0], [3.0]]])
    found = guided_backprop(Call(Line()), x, ClassTarget(0), reduce="none").map
    assert found.flatten().tolist() == [0, 1, 0, 0]


@pytest.mark.checks("guided_backprop", against="Captum, Zennit and pytorch-grad-cam", tolerance=1e-5)
def test_equals_captum_zennit_and_pytorch_grad_cam_where_they_are_right(tolerance: float) -> None:
    torchvision = pytest.importorskip("torchvision")
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(weights=None, num_classes=4).eval()
    x = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    ours = guided_backprop(Call(net), x, ClassTarget(3), reduce="none").map
    plain = copy.deepcopy(net)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert error(ours, attr.GuidedBackprop(plain).attribute(x, target=3)) < tolerance
        za, zc = pytest.importorskip("zennit.attribution"), pytest.importorskip("zennit.composites")
        with za.Gradient(plain, zc.GuidedBackprop()) as attributor:
            assert error(ours, attributor(x.clone(), torch.eye(4)[[3]])[1]) < tolerance
        pgc = pytest.importorskip("pytorch_grad_cam")
        theirs = pgc.GuidedBackpropReLUModel(model=plain, device="cpu")(x.clone(), target_category=3)
    assert error(ours, torch.as_tensor(theirs).permute(2, 0, 1)[None]) < tolerance


@pytest.mark.bug("B13")
def test_modules_stay_the_users_own() -> None:
    """pytorch-grad-cam leaves one shared ReLU in the place of all."""
    net = GapNet(2).eval()
    before = [id(module) for module in net.modules()]
    with unchanged(net):
        guided(net, inputs(2))
    assert [id(module) for module in net.modules()] == before
    torch.testing.assert_close(
        literal.gradient(net, inputs(2), CLASSES), saliency(Call(net), inputs(2), TARGET, reduce="none").map
    )


def test_a_network_without_relus_is_refused() -> None:
    net = literal.Swapped(GapNet(2), nn.GELU()).eval()
    with pytest.raises(LayerError, match="calls no ReLU"):
        guided(net, inputs(2))
    with pytest.raises(OptionError, match="no reduction"):
        guided_backprop(Call(net), inputs(2), TARGET, reduce="max")  # type: ignore[arg-type]


def test_a_compiled_network_gives_the_same() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    compiled: Any = torch.compile(net, backend="eager")
    assert torch.equal(guided(compiled, x), guided(net, x))
    assert torch.equal(guided(nn.DataParallel(net), x), guided(net, x))
