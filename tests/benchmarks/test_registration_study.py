from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.registration import Plan, plainly, shifts

from benchmarks import registration
from pellucid.data.lesionlab import LesionLab
from pellucid.spatial import Geometry


@pytest.mark.parametrize(("start", "shift"), [(0.0, -15.5), (14.0, -1.5), (15.5, 0.0), (31.0, 15.5)])
def test_the_shift_is_centre_minus_peak(start: float, shift: float) -> None:
    true = Geometry((7, 7), (224, 224), (start, start), (32.0, 32.0), registered=True)
    assert shifts(plainly(true), true) == [shift] * 5
    assert shifts(true, true) == [0.0] * 5


def test_a_column_says_one_number_or_the_first_and_the_last() -> None:
    assert registration._span([-15.5, -15.5]) == "-15.5"
    assert registration._span([0.0, 0.0]) == "0"
    assert registration._span([2.0, -8.0, -23.0]) == "+2.0 to -23.0"


def test_the_study_compares_the_same_maps_drawn_in_two_ways(tmp_path: Path) -> None:
    found = registration.study(Plan(16, 24, diameter=2, epochs=1, seeds=2, networks=((2, 64),)), tmp_path)
    table = found.table
    (geometry,) = found.looks.values()
    assert (geometry.start, geometry.jump) == ((0.0, 0.0), (8.0, 8.0))
    methods = {m: table.where(method=m).records for m in (registration.PLAIN, registration.REGISTERED)}
    assert [(r.sample, r.seed, r.metric) for r in methods[registration.PLAIN]] == [
        (r.sample, r.seed, r.metric) for r in methods[registration.REGISTERED]
    ]
    rows = list(registration.study_rows(table))
    assert [row[1] for row in rows[1:]] == ["pointing game", "relevance mass", "mass over area"]
    for metric, row in zip(("pointing game", "relevance mass", "mass over area"), rows[1:], strict=True):
        values = [[r.value for r in found if r.metric == metric] for found in methods.values()]
        means = [sum(v for v in one if v is not None) / len(one) for one in values]
        assert row[2:4] == [f"{m:.3f}" for m in means]
        assert row[4].startswith(f"{means[1] - means[0]:+.3f}")
    for effect in found.effects:
        apart = effect.offsets[registration.PLAIN] - effect.offsets[registration.REGISTERED]
        assert len(apart) == len(effect.groups) > 0
        assert bool((apart == 3.5).all())


def test_lesions_are_those_that_can_be_taken_away() -> None:
    samples = [LesionLab(n_images=8, size=64, split="test", knobs={"diameter": 2.0})[i] for i in range(8)]
    for lesion in registration.lesions(samples):
        changed = (lesion.shown - lesion.hidden).abs().sum(0)
        assert bool(changed[round(lesion.centre[0]), round(lesion.centre[1])] > 0)
        assert all(16 < c < 48 for c in lesion.centre)
