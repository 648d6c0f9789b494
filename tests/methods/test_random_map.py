from __future__ import annotations

import pytest
import torch
from scipy import stats

from pellucid.call import Call
from pellucid.methods.evidence import evidence
from pellucid.methods.grad_cam import grad_cam
from pellucid.methods.random_map import random_map
from pellucid.targets import ClassTarget
from reference.nets import GapNet, SelfExplaining, inputs


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_knows_nothing_of_weights_and_input(rank: int) -> None:
    first = random_map(Call(GapNet(rank, seed=0).eval()), inputs(rank), ClassTarget(0), generator=noise(5)).map
    other = random_map(Call(GapNet(rank, seed=9).eval()), -inputs(rank, seed=7), ClassTarget(1), generator=noise(5)).map
    assert torch.equal(first, other)
    assert not torch.equal(first, random_map(Call(GapNet(rank)), inputs(rank), ClassTarget(0), generator=noise(6)).map)


def test_stands_on_the_cells_of_the_methods_it_controls(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    assert random_map(Call(net), x, ClassTarget(0)).geometry == grad_cam(Call(net), x, ClassTarget(0)).geometry
    told = SelfExplaining(net)
    assert random_map(Call(told), x, ClassTarget(0)).geometry == evidence(Call(told), x, ClassTarget(0)).geometry
    assert random_map(Call(net), x, ClassTarget(0), layer="features.0").geometry.grid == (8,) * rank


@pytest.mark.checks("random_map", against="the uniform distribution (SciPy, Kolmogorov and Smirnov)", tolerance=0.02)
def test_is_uniform_and_differs_between_inputs(tolerance: float) -> None:
    values = random_map(Call(GapNet(2)), inputs(2, batch=8, side=64), ClassTarget(0), generator=noise(0)).map
    assert -1 <= float(values.min()) < -0.99
    assert 0.99 < float(values.max()) <= 1
    assert stats.kstest(values.flatten().numpy(), stats.uniform(-1, 2).cdf).statistic < tolerance
    assert len(values.flatten(1).unique(dim=0)) == 8


def test_one_generator_gives_a_batch_what_it_gives_its_inputs_in_turn() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    whole = random_map(Call(net), x, ClassTarget(0), generator=noise(3)).map
    generator = noise(3)
    turns = [random_map(Call(net), x[i : i + 1], ClassTarget(0), generator=generator).map for i in range(3)]
    assert torch.equal(whole, torch.cat(turns))


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    random_map(Call(GapNet(2)), inputs(2), ClassTarget(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_output_and_target_are_the_networks() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    found = random_map(Call(net), x, ClassTarget())
    torch.testing.assert_close(found.output, net(x).detach())
    assert isinstance(found.target, ClassTarget)
    assert torch.equal(torch.as_tensor(found.target.classes), net(x).argmax(1))
