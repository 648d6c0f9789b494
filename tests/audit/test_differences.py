"""Differences between two sides: against scipy's permutation test and bootstrap, and by hand where units are patients."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from pellucid.audit.differences import Difference, corrected, difference, mean_difference
from pellucid.record import Interval


def test_p_value_is_that_of_scipys_permutation_test() -> None:
    g = np.random.default_rng(0)
    a, b = g.normal(0.5, 1, 30), g.normal(0, 1, 40)
    wanted = stats.permutation_test((a, b), lambda x, y: x.mean() - y.mean(), n_resamples=20_000, random_state=1)
    names = [f"p{k}" for k in range(70)]
    found = mean_difference([*a, *b], [True] * 30 + [False] * 40, names)
    assert found.interval.mean == pytest.approx(a.mean() - b.mean())
    assert found.p_value == pytest.approx(wanted.pvalue, abs=0.01)


def test_interval_is_that_of_scipys_bootstrap() -> None:
    g = np.random.default_rng(1)
    a, b = g.exponential(1, 40), g.exponential(1.4, 50)
    wanted = stats.bootstrap(
        (a, b), lambda x, y: x.mean() - y.mean(), method="percentile", n_resamples=8000, vectorized=False, rng=np.random.default_rng(2)
    ).confidence_interval  # fmt: skip
    found = mean_difference([*a, *b], [True] * 40 + [False] * 50, [f"p{k}" for k in range(90)], resamples=8000).interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.03)
    assert (found.n, found.groups) == (90, 90)


def test_patients_change_sides_whole_and_within_their_labels() -> None:
    """Six patients, two labels: all ways of exchanging them within labels, written out."""
    value = {"a": 5.0, "b": 1.0, "c": 2.0, "d": 9.0, "e": 7.0, "f": 3.0}
    label = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1, "f": 1}
    ours = {"a", "d"}
    rows = [name for name in value for _ in range(2)]  # two images each
    values = [value[r] + 0.1 * (k % 2) for k, r in enumerate(rows)]
    found = mean_difference(values, [r in ours for r in rows], rows, strata=[label[r] for r in rows])

    means = {name: np.mean([v for v, r in zip(values, rows, strict=True) if r == name]) for name in value}

    def apart(inside: set[str]) -> float:
        return float(np.mean([means[n] for n in inside]) - np.mean([means[n] for n in value if n not in inside]))

    every = [apart({x, y}) for x, *_ in permutations("abc") for y, *_ in permutations("def")]
    assert found.interval.mean == pytest.approx(apart(ours))
    share = np.mean(np.abs(every) >= abs(apart(ours)) - 1e-12)
    assert found.p_value == pytest.approx(share, abs=0.015)


def test_any_statistic_gives_what_the_mean_gives() -> None:
    g = np.random.default_rng(3)
    values, first, names = g.normal(size=50), g.random(50) < 0.4, [f"p{k % 35}" for k in range(50)]
    fast = mean_difference(values, first, names, seed=5)
    slow = difference(lambda rows: float(values[rows].mean()), first, names, seed=5)
    assert slow.interval.mean == pytest.approx(fast.interval.mean)
    assert (slow.interval.low, slow.interval.high) == pytest.approx((fast.interval.low, fast.interval.high))
    assert slow.p_value == pytest.approx(fast.p_value, abs=0.03)


def test_sides_that_differ_in_labels_only_do_not_differ() -> None:
    """The value is the label; one side has more of it, and within labels there is nothing left to exchange."""
    labels = [1] * 30 + [0] * 10 + [1] * 10 + [0] * 30
    found = mean_difference(labels, [True] * 40 + [False] * 40, [str(k) for k in range(80)], strata=labels)
    assert found.interval.mean == pytest.approx(0.5)
    assert found.p_value == 1


def test_a_statistic_without_a_value_gives_no_p_value() -> None:
    found = difference(lambda rows: float("nan"), [True, False], ["a", "b"], resamples=20)
    assert np.isnan([found.p_value, found.interval.low, found.interval.high]).all()


def test_corrected_is_holms() -> None:
    p_values = [0.01, 0.04, 0.03, 0.2]
    made = [Difference(Interval(0, 0, 0, 1, 1), p) for p in p_values]
    # In order 0.01, 0.03, 0.04, 0.2, times 4, 3, 2, 1, and never less than one before.
    assert [d.adjusted for d in corrected(made)] == pytest.approx([0.04, 0.09, 0.09, 0.2])
