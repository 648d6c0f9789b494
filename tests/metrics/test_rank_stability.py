from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pellucid.metrics.rank_stability import kendall_w, rank_stability
from pellucid.record import Finding, Record, Table


def table(means: Any, metric: str = "iou", samples: int = 2) -> Table:
    """`means[seed][method]`, spread over samples; nan is a missing value."""
    rows = [
        Record(f"s{i}", "", "net", f"m{k}", metric, value=None if math.isnan(v) else v + (i - 0.5) * 100, seed=seed)
        for seed, row in enumerate(means)
        for k, v in enumerate(row)
        for i in range(samples)
    ]
    return Table(tuple(rows))


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1
    return findings[0]


@pytest.mark.parametrize("ties", [True, False])
def test_equals_scipy(ties: bool) -> None:
    """Friedman's statistic is m (n - 1) W, ties included."""
    generator = np.random.default_rng(0)
    for m, n in ((2, 3), (5, 4), (3, 8)):
        scores = generator.normal(size=(m, n)) + np.arange(n) / 2
        scores = scores.round() if ties else scores
        friedman = stats.friedmanchisquare(*scores.T).statistic
        assert kendall_w(scores) == pytest.approx(friedman / (m * (n - 1)))
        found = only(rank_stability(table(scores)))
        assert found.value == pytest.approx(friedman / (m * (n - 1)))
        assert (found.model, found.metric, found.n) == ("net", "iou", m)
        assert found.basis == f"{m} seeds, {n} methods"


def test_agreement_and_none() -> None:
    assert only(rank_stability(table([[1, 2, 3], [10, 20, 30], [-3, -2, -1]]))).value == pytest.approx(1)
    assert only(rank_stability(table([[1, 2, 3], [3, 2, 1]]))).value == pytest.approx(0)


def test_means_are_compared_on_the_same_samples() -> None:
    """Method b failed on the easy sample; counting it for a alone would turn their order."""
    rows = []
    for seed in (0, 1):
        rows += [Record("easy", "", "net", "a", "auprc", value=1.0, seed=seed)]
        rows += [Record("easy", "", "net", "b", "auprc", status="undefined", seed=seed)]
        rows += [Record("hard", "", "net", "a", "auprc", value=0.1 + 0.01 * seed, seed=seed)]
        rows += [Record("hard", "", "net", "b", "auprc", value=0.105, seed=seed)]
    found = only(rank_stability(Table(tuple(rows))))
    assert found.value == pytest.approx(0)


def test_methods_can_be_left_out() -> None:
    """A control that is always last makes what is left look stable."""
    means = [[0, 1, 2], [0, 2, 1]]
    assert only(rank_stability(table(means))).value == pytest.approx(0.75)
    assert only(rank_stability(table(means), without=["m0"])).value == pytest.approx(0)


def test_what_cannot_be_said_is_said() -> None:
    for means in ([[1, 2, 3]], [[1], [2]], [[1, math.nan], [math.nan, 2]]):
        found = only(rank_stability(table(means)))
        assert found.value is None
        assert found.status == "needs two seeds and two methods"
    equal = only(rank_stability(table([[1, 1], [2, 2]])))
    assert (equal.value, equal.status) == (None, "all means are equal")
    assert rank_stability(Table(())) == []


def test_each_metric_and_part_by_itself() -> None:
    rows = table([[1, 2], [1, 2]]).records + table([[1, 2], [2, 1]], metric="auprc").records
    failed = Record("s0", "", "net", "m0", "", status="failed: no layer")
    assert {f.metric: f.value for f in rank_stability(Table((*rows, failed)))} == {"iou": 1, "auprc": 0}
