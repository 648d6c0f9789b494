from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods.integrated_gradients import RULES, integrated_gradients
from pellucid.targets import ClassTarget, SingleLogitTarget
from reference import input_methods as literal
from reference.cam import error
from reference.nets import GapNet, inputs

CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))


class Cubic(nn.Module):
    """A smooth score whose gradient along the way is a polynomial of degree 2."""

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1).sum(1)
        return torch.stack([s**3, s**2 + 5], 1)


def missing(found: Any) -> float:
    """What the cells and the constant leave of the scores, as a share of how far these went."""
    whole = found.target(found.output) - found.constant
    return float((whole - found.map.flatten(1).sum(1)).abs().sum() / whole.abs().sum())


@pytest.mark.checks("integrated_gradients", against="a literal version", tolerance=1e-12)
@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint"])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_equals_the_literal_version(rank: int, rule: str, batch_size: int, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank, side=8).double()
    options: dict[str, Any] = {"steps": 5, "rule": rule, "reduce": "none", "batch_size": batch_size}
    found = integrated_gradients(Call(net), x, TARGET, baseline="mean", **options)
    start = x.flatten(2).mean(2).view(3, 2, *(1,) * rank).expand_as(x)
    places, weights = (v.tolist() for v in RULES[rule](5))
    assert error(found.map, literal.integrated_gradients(net, x, start, CLASSES, places, weights)) < tolerance
    torch.testing.assert_close(found.constant, net(start).detach()[range(3), CLASSES])


@pytest.mark.checks("integrated_gradients", against="Captum IntegratedGradients", tolerance=1e-6)
@pytest.mark.parametrize(("rule", "name"), [("gauss_legendre", "gausslegendre"), ("midpoint", "riemann_middle")])
def test_equals_captum(rule: str, name: str, tolerance: float) -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = GapNet(2).double().eval(), inputs(2).double()
    theirs = attr.IntegratedGradients(net).attribute(x, target=torch.tensor(CLASSES), n_steps=20, method=name)
    found = integrated_gradients(Call(net), x, TARGET, steps=20, rule=rule, reduce="none")  # type: ignore[arg-type]
    assert error(found.map, theirs) < tolerance  # Captum keeps places and weights in float32


def test_two_points_are_exact_for_a_cubic_score(rank: int) -> None:
    x = inputs(rank, side=4).double() / 10
    found = integrated_gradients(Call(Cubic()), x, ClassTarget(torch.tensor([0, 1, 0])), steps=2)
    assert missing(found) < 1e-12
    assert found.constant is not None
    assert found.constant.tolist() == [0, 5, 0]


def test_completeness_is_measured_and_grows_with_the_steps() -> None:
    net, x = GapNet(2).double().eval(), inputs(2).double() * 3
    shares = [missing(integrated_gradients(Call(net), x, TARGET, steps=k)) for k in (5, 50, 500)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[1] < 5e-3
    assert shares[2] < 1e-3


def test_the_other_answer_has_the_opposite_map() -> None:
    net, x = GapNet(2, classes=1).eval(), inputs(2)
    yes, no = (integrated_gradients(Call(net), x, SingleLogitTarget(answer), steps=5) for answer in (True, False))
    torch.testing.assert_close(yes.map, -no.map)
    assert yes.constant is not None
    torch.testing.assert_close(yes.constant, -no.constant)  # type: ignore[operator]


def test_refusals() -> None:
    for options, words in [
        ({"rule": "midpiont"}, "Did you mean 'midpoint'"), ({"steps": 0}, "steps=0"), ({"baseline": "black"}, "no baseline"),
    ]:  # fmt: skip
        with pytest.raises(OptionError, match=words):
            integrated_gradients(Call(GapNet(2)), inputs(2), TARGET, **options)  # type: ignore[arg-type]
