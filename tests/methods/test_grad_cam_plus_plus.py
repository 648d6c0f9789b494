from __future__ import annotations

import pytest
import torch

from pellucid.call import Call
from pellucid.methods.grad_cam_plus_plus import grad_cam_plus_plus
from pellucid.targets import ClassTarget
from reference.cam import activation_and_gradient, error
from reference.cam import grad_cam_plus_plus as literal
from reference.nets import GapNet, TwoLayers, inputs
from reference.peers import pytorch_grad_cam

CLASSES = torch.tensor([0, 2, 1])


@pytest.mark.checks("grad_cam_plus_plus", against="three derivatives of exp(score) by autograd", tolerance=1e-10)
@pytest.mark.parametrize(("dimensions", "batch"), [(1, 3), (2, 2), (3, 1)])
def test_equals_three_derivatives_of_the_exponential(dimensions: int, batch: int, tolerance: float) -> None:
    """The paper's Y = exp(score), differentiated by autograd; the map is that one divided by Y."""
    net, x = TwoLayers(dimensions, side=4).double().eval(), inputs(dimensions, batch, side=4).double()
    classes = CLASSES[:batch]
    theirs = literal(net, net.block, x, classes.tolist())
    scale = net(x).detach().gather(1, classes[:, None])[:, 0].exp().view(-1, *(1,) * dimensions)
    assert float((scale - 1).abs().max()) > 0.1
    assert error(grad_cam_plus_plus(Call(net), x, ClassTarget(classes)).map, theirs / scale) < tolerance


def test_equals_pytorch_grad_cam_where_its_small_number_does_not_weigh() -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    net.block[0].bias.data.add_(0.5)
    gentle = pytorch_grad_cam("GradCAMPlusPlus", net, net.block, x, CLASSES.tolist())
    mild = grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES), layer="block").map
    assert error(mild, gentle) > 1e-3
    net.fc.weight.data.mul_(1e4)
    steep = pytorch_grad_cam("GradCAMPlusPlus", net, net.block, x, CLASSES.tolist())
    assert error(grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES), layer="block").map, steep) < 1e-5


@pytest.mark.bug("B14")
@pytest.mark.checks("grad_cam_plus_plus", against="the formula in float64, for logits of any size", tolerance=1e-4)
@pytest.mark.parametrize("factor", [1e-4, 1.0, 100.0, 1e4])
def test_logits_of_any_size_give_the_formula_in_float64(rank: int, factor: float, tolerance: float) -> None:
    """Neither exp(score) nor a small number in the denominator takes part; both would show here."""
    net, x = TwoLayers(rank).eval(), inputs(rank, side=8)
    net.fc.weight.data.mul_(factor)
    net.fc.bias.data.mul_(factor)
    found = grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES)).map
    a, g = activation_and_gradient(net.double(), net.block, x.double(), CLASSES.tolist())
    total = a.flatten(2).sum(2).view(*a.shape[:2], *(1,) * rank)
    alpha = g**2 / (2 * g**2 + total * g**3)
    weights = torch.where(g == 0, 0, alpha * g.relu()).flatten(2).sum(2)
    expected = torch.stack([sum(w * k for w, k in zip(ws, ks, strict=True)) for ws, ks in zip(weights, a, strict=True)])  # type: ignore[arg-type]
    assert error(found, expected) < tolerance


def test_huge_logits_reach_the_limit_and_small_ones_positive_gradients() -> None:
    """alpha relu(g) = g / (2 + S g): the share of places with positive gradient over S for large g, half of g for small."""
    net, x = TwoLayers(2).double().eval(), inputs(2, side=8).double()
    a, g = activation_and_gradient(net, net.block, x, CLASSES.tolist())
    weight, bias = net.fc.weight.data.clone(), net.fc.bias.data.clone()

    def at(factor: float) -> torch.Tensor:
        net.fc.weight.data, net.fc.bias.data = weight * factor, bias * factor
        return grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES)).map

    total = a.flatten(2).sum(2)
    share = torch.where(total == 0, 0, (g > 0).flatten(2).sum(2) / total)
    assert error(at(1e8), torch.einsum("bk,bkij->bij", share, a)) < 1e-4
    assert error(at(1e-8) / 1e-8, torch.einsum("bk,bkij->bij", g.relu().flatten(2).sum(2) / 2, a)) < 1e-4


def test_by_hand_for_one_linear_layer(rank: int) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    a = net.features(x).detach()
    n = a[0, 0].numel()
    g = net.fc.weight.detach()[CLASSES] / n
    weights = n * g.relu() / (2 + a.flatten(2).sum(2) * g)
    expected = sum(weights[:, k].view(-1, *(1,) * rank) * a[:, k] for k in range(5))
    assert error(grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES)).map, expected) < 1e-12


def test_a_denominator_of_zero_counts_nothing() -> None:
    """2 + S g = 0 needs a negative S: a convolution without a ReLU, one place, g = 1, S = -2."""
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.Flatten(), torch.nn.Linear(4, 1)).eval()
    net[0].weight.data.fill_(1)
    net[2].weight.data.fill_(1)
    x = torch.full((1, 1, 2, 2), -0.5)
    assert not grad_cam_plus_plus(Call(net), x, ClassTarget(0), layer="0").map.any()
