"""Verdicts over zones: the right ones for effects that were put there, with SciPy's tests beside."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from scipy import stats

from audit.kit import reading
from pellucid.audit.observe import Reading, ZoneReading
from pellucid.audit.shortcuts import LEAST, zone_findings

N = 80


def readings(seed: int = 0, **effects: float) -> list[Reading]:
    """Zones that are shown with a mean effect, `given_...` ones whose content moves strangers as the class goes."""
    g = np.random.default_rng(seed)
    found = []
    for k in range(N):
        positive = bool(k % 2)
        zones = {}
        for name, effect in effects.items():
            chance = float(g.normal(0, 0.3))
            if name.startswith("given"):
                value = (effect / 2 if positive else -effect / 2) + chance
                zones[name] = ZoneReading(0.1, 0.2, 0.0, given=value, given_evidence=value / 4, removed=-value)
            else:
                zones[name] = ZoneReading(0.1, 0.2, 0.0, shown=effect + chance, with_it=effect / 2, without=effect / 4)
        found.append(reading(k, positive=positive, score=0.0, group=f"p{k // 2}", zones=zones))
    return found


@pytest.mark.parametrize("kind", ["shown", "given"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_effect_is_found_with_its_size_and_sign(kind: str, sign: int) -> None:
    (found,) = zone_findings([readings(**{kind: sign * 1.0})])
    assert (found.how, found.verdict) == (kind, "relied on")
    assert found.effect.mean == pytest.approx(sign * 1.0, abs=0.15)
    assert found.effect.low < sign * 1.0 < found.effect.high
    assert found.contrast.mean == pytest.approx(sign * 0.25, abs=0.05)
    assert found.p_value < 0.001


@pytest.mark.parametrize("kind", ["shown", "given"])
def test_silent_without_an_effect_and_below_what_matters(kind: str) -> None:
    (nothing,) = zone_findings([readings(**{kind: 0.0})])
    assert nothing.verdict == "not relied on"
    (small,) = zone_findings([readings(**{kind: 0.05})])
    assert small.verdict == "not relied on"  # whatever its p-value: the whole interval is below LEAST
    assert small.effect.high < LEAST


def test_an_effect_whose_interval_holds_the_limit_is_not_settled() -> None:
    (found,) = zone_findings([readings(shown=0.13)], least=0.2)
    assert found.effect.mean < 0.2 < found.effect.high
    assert found.p_value < 0.001  # there is an effect, and it may or may not matter
    assert found.verdict == "not settled"


def test_all_zones_are_corrected_together() -> None:
    found = zone_findings([readings(a=0.05, b=0.05, c=2.0)])
    order = sorted(found, key=lambda f: f.p_value)
    adjusted, worst = [], 0.0
    for k, f in enumerate(order):
        worst = max(worst, min(1.0, f.p_value * (3 - k)))
        adjusted.append(worst)
    assert [f.adjusted for f in order] == pytest.approx(adjusted)


def test_over_trainings_it_is_students_t() -> None:
    trainings = [readings(seed, shown=effect) for seed, effect in enumerate((0.8, 1.4, 1.1))]
    (found,) = zone_findings(trainings)
    means = [np.mean([r.zones["shown"].shown for r in one]) for one in trainings]
    assert found.trainings == 3
    assert found.p_value == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    wanted = stats.t.interval(0.95, 2, loc=np.mean(means), scale=stats.sem(means))
    assert (found.effect.low, found.effect.high) == pytest.approx(wanted)


def test_chance_of_one_training_is_no_verdict_over_several() -> None:
    """Each network relies a little on the thing, one way or the other: the data teach nothing."""
    trainings = [readings(seed, shown=effect) for seed, effect in enumerate((0.6, -0.5, 0.1))]
    assert zone_findings(trainings[:1])[0].verdict == "relied on"
    assert zone_findings(trainings)[0].verdict == "not settled"


def test_one_class_alone_gives_nothing_to_compare() -> None:
    only = [r for r in readings(given=1.0) if r.positive]
    (found,) = zone_findings([only])
    assert found.verdict == "not measured"
    assert isnan(found.effect.mean)


def test_a_zone_that_some_samples_have_rests_on_those() -> None:
    some = readings(shown=1.0)
    some[::4] = [reading(r.index, positive=r.positive, score=0.0) for r in some[::4]]
    (found,) = zone_findings([some])
    assert found.effect.n == N - N // 4
