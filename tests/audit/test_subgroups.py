"""Subgroups by a column: counted by hand, compared as planted, silent without a plant."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from audit.kit import reading
from pellucid.audit.observe import Reading, ZoneReading
from pellucid.audit.subgroups import SubgroupRow, subgroup_rows, subgroups
from pellucid.errors import OptionError


def made(seed: int, shift: float, n: int = 100) -> list[Reading]:
    """Two sites alike in all but the scores of site B's positives, which are `shift` lower."""
    g = np.random.default_rng(seed)
    found = []
    for k in range(n):
        site, positive = "AB"[k % 2], bool(k // 2 % 2)
        value = float(g.normal(1.0 if positive else -1.0, 1.0)) - (shift if positive and site == "B" else 0)
        zones = {"corners": ZoneReading(0.1, float(g.random()))}
        found.append(reading(k, positive=positive, score=value, group=f"p{k}", meta={"site": site}, zones=zones))
    return found


@pytest.fixture(scope="module")
def planted() -> tuple[list[Reading], list[SubgroupRow]]:
    """Site B's positives are seen far worse."""
    readings = made(1, 3.0)
    return readings, subgroup_rows(readings, ["site"], cut=0.5)


def test_values_are_those_counted_in_each_subgroup(planted: tuple[list[Reading], list[SubgroupRow]]) -> None:
    readings = planted[0]
    rows = {(r.value, r.measure): r for r in planted[1]}
    for site in "AB":
        own = [r for r in readings if r.meta["site"] == site]
        y, s = np.array([r.label for r in own]), np.array([r.score for r in own])
        wanted = {
            "auc": roc_auc_score(y, s), "accuracy": ((s > 0) == y).mean(), "sensitivity": (s > 0.5)[y == 1].mean(), "specificity": (s <= 0.5)[y == 0].mean(),
            "brier": np.mean(2 * (1 / (1 + np.exp(-s)) - y) ** 2), "evidence in corners": np.mean([r.zones["corners"].mass for r in own]),
        }  # fmt: skip
        for measure, value in wanted.items():
            interval = rows[site, measure].interval
            assert interval is not None
            assert interval.mean == pytest.approx(value)
        assert rows[site, "sensitivity"].n == int(y.sum())


def test_a_planted_difference_is_found_and_only_where_it_is(planted: tuple[list[Reading], list[SubgroupRow]]) -> None:
    rows = [r for r in planted[1] if r.against is not None]
    apart = {r.measure for r in rows if r.against is not None and r.against.adjusted < 0.05}
    assert {"sensitivity", "accuracy", "auc", "brier"} <= apart
    assert not apart & {"specificity", "size of the evidence", "evidence in corners"}
    (sensitivity,) = [r for r in rows if r.measure == "sensitivity"]
    assert sensitivity.value == "A"
    assert sensitivity.against is not None
    assert sensitivity.against.interval.mean > 0.3


def test_sites_alike_do_not_differ() -> None:
    assert not [r for r in subgroup_rows(made(2, 0.0), ["site"]) if r.against is not None and r.against.adjusted < 0.05]


def test_too_few_samples_are_not_told_of() -> None:
    readings = [reading(k, positive=True, score=k % 3 - 0.5, meta={"site": "ABC"[k // 24]}) for k in range(60)]
    rows = {(r.value, r.measure): r for r in subgroup_rows(readings, ["site"], minimum=20)}
    assert rows["C", "accuracy"].interval is None
    assert rows["C", "accuracy"].against is None
    assert rows["C", "accuracy"].n == 12
    assert rows["B", "accuracy"].against is None  # of two told, what is said of A says it
    told = {(r.value, r.measure): r for r in subgroup_rows(readings, ["site"], minimum=12)}
    assert told["C", "accuracy"].interval is not None
    assert all(told[site, "accuracy"].against is not None for site in "ABC")  # each against the others


def test_one_class_alone_has_no_auc() -> None:
    readings = [
        reading(k, positive=k % 2 == 0 and k < 30, score=float(k % 3), meta={"site": "AB"[k >= 30]}) for k in range(60)
    ]
    rows = {(r.value, r.measure): r for r in subgroup_rows(readings, ["site"], minimum=10)}
    assert rows["A", "auc"].interval is not None
    assert rows["B", "auc"].interval is None
    assert rows["B", "specificity"].interval is None
    assert rows["B", "accuracy"].interval is not None


def test_numbers_of_many_values_are_cut_at_their_quartiles() -> None:
    readings = [reading(k, positive=True, score=0.0, meta={"age": k + 1}) for k in range(40)]
    found = subgroups(readings, "age")
    assert found.count("up to 10.75") == 10
    assert [found[0], found[10], found[39]] == ["up to 10.75", "above 10.75 to 20.5", "above 30.25"]


def test_words_of_many_values_and_blanks_stay() -> None:
    readings = [
        reading(k, positive=True, score=0.0, meta={"ward": f"w{k}", "age": None if k else 3}) for k in range(20)
    ]
    assert subgroups(readings, "ward")[3] == "w3"
    assert subgroups(readings, "age") == ["3"] + [""] * 19


def test_an_unknown_column_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(OptionError, match="no column 'sit'") as error:
        subgroups(made(0, 0.0, 4), "sit")
    assert "site" in error.value.hint
