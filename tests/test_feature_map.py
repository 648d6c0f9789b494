from __future__ import annotations

import pytest
import torch

from pellucid.call import Call
from pellucid.feature_map import differentiate, full_precision, observe
from pellucid.targets import ClassTarget
from reference.cam import activation_and_gradient
from reference.nets import GapNet, SelfExplaining, TwoLayers, inputs

CLASSES = torch.tensor([0, 2, 1])


@pytest.mark.parametrize("layer", ["trunk", "block.0", "block"])
def test_activation_and_slope_are_autograds(rank: int, layer: str) -> None:
    net, x = TwoLayers(rank).double().eval(), inputs(rank, side=8).double()
    activation, gradient = activation_and_gradient(net, net.get_submodule(layer), x, CLASSES.tolist())
    seen = differentiate(Call(net), x, ClassTarget(CLASSES), layer)
    torch.testing.assert_close(seen.activation, activation)
    torch.testing.assert_close(seen.slope, gradient)
    torch.testing.assert_close(observe(Call(net), x, ClassTarget(CLASSES), layer).activation, activation)
    assert (seen.layer, seen.module) == (layer, net.get_submodule(layer))
    torch.testing.assert_close(seen.output, net(x).detach())


def test_no_gradient_of_parameters_and_no_pass_back_through_the_trunk() -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    reached = []
    net.trunk[0].register_full_backward_hook(lambda *given: reached.append(1))
    seen = differentiate(Call(net), x, ClassTarget(CLASSES), "block")
    assert not reached
    assert all(p.grad is None for p in net.parameters())
    assert not any(t.requires_grad for t in (seen.activation, seen.slope, seen.output))


def test_cells_lie_where_a_self_explaining_network_knows_them_to_lie(rank: int) -> None:
    model, x = SelfExplaining(GapNet(rank)).eval(), inputs(rank)
    for look in (observe, differentiate):
        assert look(Call(model), x, ClassTarget(0), None).geometry == model.evidence(x).geometry
        assert not look(Call(model), x, ClassTarget(0), "model.features.0").geometry.registered


def test_rectify_drops_what_is_negative() -> None:
    seen = observe(Call(GapNet(2).eval()), inputs(2), ClassTarget(0), None)
    cells = torch.tensor([[[-1.0, 2.0]]])
    assert seen.attribution(cells).map.tolist() == [[[-1, 2]]]
    assert seen.attribution(cells, rectify=True).map.tolist() == [[[0, 2]]]


def test_full_precision_is_float32_or_more() -> None:
    kinds = {
        torch.bfloat16: torch.float32,
        torch.float16: torch.float32,
        torch.float32: torch.float32,
        torch.float64: torch.float64,
    }
    assert {k: full_precision(torch.zeros(1, dtype=k)).dtype for k in kinds} == kinds
