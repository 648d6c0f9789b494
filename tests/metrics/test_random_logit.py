from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import pellucid as pl
from pellucid.errors import OptionError, TargetError
from pellucid.metrics.random_logit import random_logit
from pellucid.metrics.ranking import spearman
from pellucid.targets import ClassTarget, ContrastTarget, OneVsRestTarget, Target
from reference.again import case, score, shown
from reference.nets import GapNet, SelfExplaining, inputs
from reference.untouched import unchanged


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", [ClassTarget, OneVsRestTarget])
def test_the_map_of_another_class(kind: type[Target], rank: int) -> None:
    """One of the two others, and over draws each of them."""
    model, x = SelfExplaining(GapNet(rank)).double().eval(), inputs(rank).double()
    classes = torch.tensor([0, 2, 1])
    given = case(model, x, kind(classes), "evidence")  # type: ignore[call-arg]
    others = {
        step: pl.explain(model, x, kind((classes + step) % 3)).map  # type: ignore[call-arg]
        for step in (1, 2)
    }
    seen = set()
    for seed in range(20):
        found = score(random_logit, given, generator=chance(seed))
        step = next(s for s in (1, 2) if torch.equal(found[""], spearman(given.map, others[s])))
        assert torch.equal(found["absolute"], spearman(given.map.abs(), others[step].abs()))
        seen.add(step)
    assert seen == {1, 2}


def test_a_map_that_ignores_the_class_fails() -> None:
    found = score(random_logit, case(GapNet(2).eval(), inputs(2), 1, "edge_map"))
    assert found[""].tolist() == found["absolute"].tolist() == pytest.approx([1, 1, 1])


def test_flat_maps_have_no_value() -> None:
    found = random_logit(shown(torch.ones(1, 4)), lambda **_: shown(torch.rand(1, 4)), chance())  # type: ignore[arg-type]
    assert math.isnan(float(found[""]))


def test_no_other_class_is_said() -> None:
    two = shown(torch.rand(2, 4), logits=torch.zeros(2, 2), target=ContrastTarget(1, 0))
    for e in (two, replace(shown(torch.rand(2, 4)), logits=torch.zeros(2, 1))):
        with pytest.raises(TargetError, match="three classes or more"):
            random_logit(e, lambda **_: two, chance())  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="explains anew"):
        random_logit(shown(torch.rand(2, 4)), None, chance())  # type: ignore[arg-type]


def test_network_and_input_stay() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    given, kept = case(net, x, 1, "grad_cam"), x.clone()
    with unchanged(net):
        score(random_logit, given)
    assert torch.equal(x, kept)
