from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.models.trace import Ref, Trace, Untraceable, trace
from reference.odd_nets import Wired, roused


def traced(net: nn.Module, x: Tensor) -> Trace:
    return trace(net, lambda: net(x), (x,), lambda output: output)


def branching(net: Any, x: Tensor) -> Tensor:
    y = net.trunk(x)
    left, right = y.chunk(2, dim=1)
    return net.fc((torch.cat([left.relu(), right], 1) + y).mean((2, 3)))


def test_cuts_lie_on_every_path() -> None:
    net = Wired(branching, fc=nn.Linear(8, 3)).eval()
    x = torch.randn(2, 3, 8, 8)
    found = traced(net, x)
    names = [found.steps[c.step].name for c in found.cuts()]
    assert names[:3] == ["addmm", "mean", "add"]
    assert not {"cat", "split", "chunk"} & set(names)  # a sum goes round them
    assert names[3] == "relu"  # the trunk's last layer, before the branches
    assert names[-1] == "input"


def test_the_tail_repeats_what_the_network_does_after_a_cut() -> None:
    net = roused(Wired(branching, fc=nn.Linear(8, 3)).double().eval())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = traced(net, x)
    with torch.no_grad():
        y = net.trunk(x)
        for cut, value in ((next(c for c in found.cuts() if found.steps[c.step].name == "relu"), y), (Ref(0), x)):
            assert torch.allclose(found.tail(cut)(value), net(x), atol=1e-12)


def test_the_tail_is_differentiable_and_leaves_its_argument_alone() -> None:
    net = Wired(lambda net, x: net.fc(net.trunk(x).mul_(2.0).mean((2, 3)).relu_()), fc=nn.Linear(8, 3)).eval()
    found = traced(net, torch.randn(1, 3, 8, 8))
    cut = next(c for c in found.cuts() if found.steps[c.step].name == "relu" and len(found.shape(c)) == 4)
    value = torch.randn(found.shape(cut), dtype=torch.float64, requires_grad=True)
    kept = value.detach().clone()
    (slope,) = torch.autograd.grad(found.tail(cut)(value).sum(), value)
    assert torch.equal(value, kept)
    expected = (net.fc.weight.double().sum(0) * 2 / 16).view(1, 8, 1, 1) * (kept.mean((2, 3), keepdim=True) > 0)
    assert torch.allclose(slope, expected.expand_as(slope).detach(), atol=1e-9)


def reads(net: Any, x: Tensor) -> Tensor:
    return net.fc(x.mean((2, 3)) * float(x.max()))


def writes_a_view(net: Any, x: Tensor) -> Tensor:
    y = net.trunk(x)
    y[:, :2].mul_(3.0)
    return net.fc(y.mean((2, 3)))


def fills_a_buffer(net: Any, x: Tensor) -> Tensor:
    buffer = torch.zeros(len(x), 8)
    buffer[:, 2:] = net.trunk(x).mean((2, 3))[:, 2:]
    return net.fc(buffer)


def leaves_torch(net: Any, x: Tensor) -> Tensor:
    return net.fc(torch.from_numpy(net.trunk(x).mean((2, 3)).numpy()))


@pytest.mark.parametrize("wiring", [reads, writes_a_view, fills_a_buffer, leaves_torch])
def test_what_a_list_of_operations_cannot_say_is_refused(wiring: Any) -> None:
    net = Wired(wiring, fc=nn.Linear(3 if wiring is reads else 8, 3)).eval()
    with pytest.raises(Untraceable):
        traced(net, torch.randn(2, 3, 8, 8))


def test_a_constant_that_is_written_into_is_kept_as_it_was() -> None:
    net = (
        Wired(lambda net, x: net.fc(torch.ones(1, 8).add_(net.trunk(x).mean((2, 3)))), fc=nn.Linear(8, 3))
        .double()
        .eval()
    )
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        found, expected = traced(net, x), net(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(found.tail(Ref(0))(x), expected, atol=1e-12)


def test_shapes_made_from_a_tensor_do_not_depend_on_it() -> None:
    net = Wired(
        lambda net, x: net.fc((net.trunk(x) + x.new_zeros(1).fill_(1.0)).mean((2, 3))), fc=nn.Linear(8, 3)
    ).eval()
    assert not any(s.name in ("new_zeros", "fill") for s in traced(net, torch.randn(1, 3, 8, 8)).steps)


def test_nothing_is_left_on_the_network() -> None:
    net = Wired(reads, fc=nn.Linear(3, 3)).eval()
    with pytest.raises(Untraceable):
        traced(net, torch.randn(2, 3, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
