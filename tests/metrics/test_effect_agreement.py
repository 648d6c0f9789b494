from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.data.lesionlab import LesionLab
from pellucid.errors import BadInput
from pellucid.metrics.effect_agreement import effect_agreement
from pellucid.models.s8 import S8
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget

SIZE = (12, 12)
REGIONS = {"a": (slice(0, 4), slice(0, 4)), "b": (slice(5, 9), slice(5, 9)), "c": (slice(9, 12), slice(0, 3)), "d": (slice(0, 3), slice(9, 12))}  # fmt: skip


class Linear(nn.Module):
    """The score of the one class is the sum of weights times inputs: what each place does is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0] * self.weight).flatten(1).sum(1, keepdim=True)


def emptied(sample: Sample, name: str) -> Sample:
    changed = sample.input.clone()
    changed[(slice(None), *REGIONS[name])] = 0
    return replace(sample, input=changed)


def sample(seed: int, names: str = "abcd") -> Sample:
    x = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bare = Sample(x, name=f"s{seed}")
    zones = {name: torch.zeros(SIZE, dtype=torch.bool) for name in names}
    alternatives = {f"without {name}": partial(emptied, bare, name) for name in names}
    return replace(bare, zones=zones, alternatives={**alternatives, "without everything": partial(emptied, bare, "a")})


def agreement(samples: list[Sample], map: Tensor) -> dict[str, list[float]]:
    net, x = Linear(), torch.stack([s.input for s in samples])
    target, geometry = ClassTarget(0), Geometry.of_samples(SIZE)
    found = effect_agreement(Call(net, batch=len(x)), x, target, samples, map, geometry)
    return {part: values.tolist() for part, values in found.items()}


SAMPLES = [sample(0), sample(1), sample(2, "abc")]
WEIGHTS = Linear().weight.detach()
EXACT = torch.stack([s.input[0] * WEIGHTS for s in SAMPLES])


def test_exact_contributions_agree_and_their_negative_disagrees() -> None:
    """Of a linear model weight times input is what each place adds, so the sums are the effects themselves."""
    assert agreement(SAMPLES, EXACT)[""] == pytest.approx([1, 1, 1])
    assert agreement(SAMPLES, -EXACT)[""] == pytest.approx([-1, -1, -1])
    assert agreement(SAMPLES, 3 * EXACT)[""] == pytest.approx([1, 1, 1])


def test_moments_are_those_of_sums_and_effects() -> None:
    found = agreement(SAMPLES, 2 * EXACT)
    for i, s in enumerate(SAMPLES):
        effects = np.array([float(EXACT[i][REGIONS[name]].sum()) for name in s.zones])
        assert found["regions"][i] == len(effects)
        assert found["attributed"][i] == pytest.approx(2 * effects.mean())
        assert found["measured"][i] == pytest.approx(effects.mean())
        assert found["attributed_squared"][i] == pytest.approx(4 * (effects**2).mean())
        assert found["product"][i] == pytest.approx(2 * (effects**2).mean())


def test_regions_without_a_place_or_without_anything_in_them_do_not_count() -> None:
    """ "everything" is no zone; d is empty already, so nothing changes there."""
    whole, empty = sample(3), sample(3)
    blank = emptied(whole, "d")
    empty = replace(empty, input=blank.input, alternatives={f"without {n}": partial(emptied, blank, n) for n in "abcd"})
    map = torch.stack([whole.input[0] * WEIGHTS, empty.input[0] * WEIGHTS])
    assert agreement([whole, empty], map)["regions"] == [4, 3]


def test_two_regions_have_no_order_worth_a_number() -> None:
    found = agreement([sample(0), sample(1, "ab")], EXACT[:2])
    assert math.isnan(found[""][1])
    assert found["regions"] == [4, 2]


def test_needs_counterfactuals_and_says_so() -> None:
    bare = Sample(torch.zeros(1, *SIZE, dtype=torch.float64), name="photo")
    with pytest.raises(BadInput, match="'photo' cannot be rendered without any of its parts"):
        agreement([bare], EXACT[:1])
    mixed = agreement([sample(0), replace(bare, name="other")], EXACT[:2])
    assert all(math.isnan(values[1]) for values in mixed.values())


def test_on_lesionlab_every_part_that_is_shown_is_a_region() -> None:
    """Seen through `evaluate`, whose target of two classes is the log-odds: exact counterfactuals, one by one."""
    data = LesionLab(n_images=3, size=64, marker="letter", seed=2, knobs={"prevalence": 1.0})
    net = S8(channels=(4, 4), strides=(4, 2)).eval()
    table = pl.evaluate(net, data, methods=["grad_cam"], metrics=["effect_agreement"], controls=[])
    for i in range(len(data)):
        s = data[i]
        parts = [n for n in s.alternatives if n.startswith("without ") and n != "without lesions"]
        changed = {n: s.alternatives[n]().input for n in parts}
        shown = [n for n in parts if not torch.equal(changed[n], s.input)]
        own = {r.part: r.value for r in table.records if r.sample == s.name}
        assert own["regions"] == len(shown)
        with torch.no_grad():
            odds = [float(net(v[None]).diff(dim=1)) for v in (s.input, *(changed[n] for n in shown))]
        assert own["measured"] == pytest.approx(np.mean([odds[0] - o for o in odds[1:]]), abs=1e-5)
