"""Intervals resample patients, comparisons are paired, and equal tables give equal bytes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pellucid.errors import OptionError
from pellucid.performance import SCORES, auc
from pellucid.record import (
    Prediction,
    Record,
    Table,
    bootstrap,
    crossed_interval,
    mean_interval,
    sign_flip_p,
    t_interval,
)


def rows(values: dict[str, list[float]]) -> Table:
    return Table(
        tuple(
            Record(f"s{i}", f"p{i // 2}", "net", method, "gini", value=v)
            for method, many in values.items()
            for i, v in enumerate(many)
        )
    )


def test_cluster_bootstrap_equals_a_literal_one() -> None:
    values, groups = [1.0, 3.0, 2.0, 8.0, 5.0], ["a", "a", "b", "c", "c"]
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(3, [1 / 3] * 3, size=2000)
    means = []
    for counts in drawn:
        picked: list[float] = []
        for group, times in zip("abc", counts, strict=True):
            picked += times * [v for v, g in zip(values, groups, strict=True) if g == group]
        means.append(np.mean(picked))
    found = mean_interval(values, groups, seed=0)
    assert found.mean == pytest.approx(3.8)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert (found.n, found.groups) == (5, 3)


def test_general_bootstrap_agrees_with_scipy_when_every_row_is_its_own_group() -> None:
    values = np.random.default_rng(1).normal(2, 1, 60)
    ours = bootstrap(lambda r: float(values[r].mean()), [str(i) for i in range(60)], seed=2)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=3).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_repeating_a_patient_does_not_narrow_the_interval() -> None:
    values = list(np.random.default_rng(0).normal(size=20))
    once = mean_interval(values, [str(i) for i in range(20)])
    tenfold = mean_interval(values * 10, [str(i) for i in range(20)] * 10)
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=1e-9)


def test_sign_flip_p_equals_the_full_enumeration() -> None:
    differences = [0.5, 1.0, -0.2, 0.7, 0.9, 0.4]
    exact = stats.permutation_test(
        (np.array(differences), np.zeros(6)),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
    ).pvalue
    assert sign_flip_p(differences, list("abcdef")) == pytest.approx(exact, abs=0.01)


def test_compare_is_paired_on_shared_samples() -> None:
    table = rows({"evidence": [1, 2, 3, 4], "random": [0, 1, 2, 3]})
    (found,) = table.compare("evidence", "random")
    assert (found.difference.mean, found.difference.low, found.difference.high) == (1, 1, 1)
    with pytest.raises(OptionError, match="Did you mean 'evidence'"):
        table.compare("evidense", "random")


def test_undefined_values_are_counted_not_averaged() -> None:
    table = Table((*rows({"cam": [1, 3]}).records, Record("s9", "p9", "net", "cam", "gini", status="undefined")))
    (row,) = table.summary()
    assert (row.interval.mean, row.undefined) == (2, 1)


def test_files_are_equal_for_equal_tables_and_come_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    table = rows({"cam": [1.0, 0.1 + 0.2], "random": [0.0, 1e-17]})
    first, second = table.to_json(tmp_path / "a.json"), table.to_json(tmp_path / "b.json")
    assert first.read_bytes() == second.read_bytes()
    assert Table.from_json(first) == table
    assert (
        table.to_csv(tmp_path / "a.csv")
        .read_text()
        .splitlines()[2]
        .startswith("s1,p0,net,cam,gini,,,0.30000000000000004,ok")
    )


def test_performance_equals_scikit_learn_and_keeps_patients_together() -> None:
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    probabilities = generator.dirichlet((1, 1, 1), 60)
    table = Table(
        (),
        tuple(
            Prediction(f"s{i}", f"p{i // 3}", "net", int(c), tuple(p))
            for i, (c, p) in enumerate(zip(labels, probabilities, strict=True))
        ),
    )
    found = {r.metric: r.interval for r in table.performance(resamples=50)}
    assert found["auc"].mean == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert found["balanced_accuracy"].mean == pytest.approx(balanced_accuracy_score(labels, probabilities.argmax(1)))
    assert (found["auc"].n, found["auc"].groups) == (60, 20)


def test_auc_of_a_sigmoid_head_and_of_one_class() -> None:
    labels = np.array([0, 0, 1, 1])
    assert SCORES["auc"](np.array([[0.1], [0.6], [0.4], [0.9]]), labels) == pytest.approx(0.75)
    assert np.isnan(SCORES["auc"](np.array([[0.1], [0.6]]), labels[:2]))


def test_crossed_interval_draws_patients_and_trainings() -> None:
    """A literal pigeonhole bootstrap with the same draws; with one training there is nothing but patients to draw."""
    generator = np.random.default_rng(1)
    patients, runs = generator.integers(0, 6, 40), generator.integers(0, 3, 40)
    values = (generator.normal(size=40) + runs).tolist()
    groups = [f"p{k}" for k in patients]
    found = crossed_interval(values, groups, runs.tolist(), resamples=200)
    draws = np.random.default_rng(0)
    drawn = draws.multinomial(6, np.full(6, 1 / 6), size=200)
    again = draws.multinomial(3, np.full(3, 1 / 3), size=200)
    means = []
    for p, r in zip(drawn, again, strict=True):
        weights = p[patients] * r[runs]
        means.append((weights * values).sum() / weights.sum())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert (found.mean, found.n, found.groups) == (pytest.approx(np.mean(values)), 40, 6)
    alone = crossed_interval(values, groups, [7] * 40)
    assert (alone.low, alone.high) == pytest.approx(
        (mean_interval(values, groups).low, mean_interval(values, groups).high)
    )
    assert found.high - found.low > alone.high - alone.low


def test_t_interval_equals_scipy() -> None:
    values = [4.1, 5.0, 4.7]
    found = t_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert np.isnan(t_interval([1.0]).low)


def test_comparisons_carry_ranks_and_corrected_p_values() -> None:
    rng = np.random.default_rng(0)
    names = [f"s{i}" for i in range(30)]
    records = [
        Record(s, s, "net", method, metric, value=float(rng.normal() + (method == "a") * strength))
        for metric, strength in (("large", 3), ("small", 0.4), ("none", 0))
        for method in ("a", "b")
        for s in names
    ]
    table = Table(tuple(records))
    found = {c.metric: c for c in table.compare("a", "b")}
    values = {m: [r.value for r in records if (r.metric, r.method) == ("small", m)] for m in "ab"}
    differences = np.array(values["a"]) - np.array(values["b"])
    assert found["small"].ranks.p_value == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert found["large"].ranks.effect > 0.95
    raw = sorted(c.p_value for c in found.values())
    assert found["large"].adjusted == pytest.approx(3 * raw[0])
    assert all(c.adjusted >= c.p_value for c in found.values())
    explored = {c.metric: c.adjusted for c in table.compare("a", "b", adjust="benjamini_hochberg")}
    assert all(explored[m] <= found[m].adjusted + 1e-12 for m in found)


def test_networks_are_compared_on_shared_patients_with_a_verdict() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    good = labels + rng.normal(0, 0.5, 400)
    bad = labels + rng.normal(0, 3, 400)

    def predictions(model: str, scores: np.ndarray) -> list[Prediction]:
        p = 1 / (1 + np.exp(-scores + 0.5))
        return [
            Prediction(f"s{i}", f"p{i // 2}", model, int(labels[i]), (1 - float(p[i]), float(p[i]))) for i in range(400)
        ]

    table = Table((), tuple(predictions("old", good) + predictions("same", good) + predictions("worse", bad)))
    same = {c.metric: c for c in table.compare_performance("same", "old", margin=0.01, resamples=200)}
    assert (same["auc"].difference.mean, same["auc"].difference.groups) == (0, 200)
    assert same["auc"].verdict is not None
    assert same["auc"].verdict.verdict == "non-inferior"
    worse = {c.metric: c for c in table.compare_performance("worse", "old", margin=0.01, resamples=200)}
    assert {c.verdict.verdict for m, c in worse.items() if c.verdict and m in ("auc", "accuracy", "brier")} == {
        "inferior"
    }
    assert worse["auc"].difference.mean == pytest.approx(auc(bad, labels) - auc(good, labels))
    with pytest.raises(OptionError, match="no predictions of 'odd'"):
        table.compare_performance("odd", "old")


def test_some_scores_of_performance_are_those_of_all() -> None:
    answers = np.random.default_rng(3).random((2, 30))
    table = Table(
        (),
        tuple(
            Prediction(f"s{i}", "", model, i % 2, (1 - p, p))
            for model, row in zip("ab", answers.tolist(), strict=True)
            for i, p in enumerate(row)
        ),
    )
    some = table.performance(scores=["brier", "auc"], resamples=50)
    assert some == [r for r in table.performance(resamples=50) if r.metric in ("auc", "brier")]
    assert [c.metric for c in table.compare_performance("a", "b", scores=["auc"], resamples=50)] == ["auc"]
    with pytest.raises(OptionError, match="no score 'acu'"):
        table.performance(scores=["acu"])
    with pytest.raises(OptionError, match="no score 'acu'"):
        table.compare_performance("a", "b", scores=["acu"])
