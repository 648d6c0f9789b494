from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pellucid.ranking import rank_methods
from pellucid.record import Record, Table


def records(values: np.ndarray, metric: str = "auprc") -> tuple[Record, ...]:
    """`values[sample][method]`, two samples to a patient; nan is a missing value."""
    return tuple(
        Record(f"s{i}", f"p{i // 2}", "net", f"m{k}", metric, value=None if math.isnan(v) else float(v))
        for i, row in enumerate(values)
        for k, v in enumerate(row)
    )


def test_patients_are_ranked_by_their_means() -> None:
    values = np.random.default_rng(0).normal(size=(12, 4))
    found = rank_methods(Table(records(values)), "net", "auprc", higher=True)
    assert found is not None
    means = values.reshape(6, 2, 4).mean(1)
    assert found.methods == ("m0", "m1", "m2", "m3")
    assert found.ranking.ranks == pytest.approx(stats.rankdata(-means, axis=1).mean(0))
    assert found.ranking.p_value == pytest.approx(stats.friedmanchisquare(*means.T).pvalue)
    lower = rank_methods(Table(records(values)), "net", "auprc", higher=False)
    assert lower is not None
    assert lower.ranking.ranks == pytest.approx([5 - r for r in found.ranking.ranks])


def test_only_samples_that_all_methods_have_count() -> None:
    values = np.random.default_rng(1).normal(size=(6, 4))
    gaps = values.copy()
    gaps[0, 2] = gaps[4, 0] = gaps[5, 1] = math.nan
    found = rank_methods(Table(records(gaps)), "net", "auprc", higher=True)
    assert found is not None
    means = np.stack([values[1], values[2:4].mean(0)])
    assert found.ranking.ranks == pytest.approx(stats.rankdata(-means, axis=1).mean(0))
    assert found.ranking.n == 2


def test_nothing_to_rank() -> None:
    values = np.random.default_rng(2).normal(size=(6, 4))
    table = Table(records(values))
    assert rank_methods(table, "net", "iou", higher=True) is None
    assert rank_methods(table, "net", "auprc", higher=True, without=("m0", "m1")) is None
    assert rank_methods(Table(records(values[:2])), "net", "auprc", higher=True) is None
