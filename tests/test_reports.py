"""Which cases a report shows, and that its words follow from the table."""

from __future__ import annotations

from dataclasses import replace

from pellucid import reports
from pellucid.record import Prediction, Record, Table


def table() -> Table:
    predictions = tuple(
        Prediction(f"s{i}", f"p{i}", "net", i % 2, (1 - p, p))
        for i, p in enumerate((0.1, 0.9, 0.95, 0.2, 0.5, 0.7, 0.45))
    )
    records = tuple(
        Record(p.sample, p.group, "net", method, "relevance_mass", value=value)
        for p in predictions
        for method, value in (("evidence", 0.5), ("random_map", 0.1))
    )
    return Table(records, predictions)


def test_worst_cases_come_first_and_typical_ones_lie_in_the_middle() -> None:
    # probability of the true class: s0 .9, s1 .9, s2 .05, s3 .2, s4 .5, s5 .7, s6 .55
    found = [(p.sample, why) for p, why in reports.chosen(table(), "net", 4)]
    assert found == [("s2", "worst"), ("s3", "worst"), ("s6", "typical"), ("s5", "typical")]


def test_a_score_is_called_better_than_chance_only_when_intervals_do_not_touch() -> None:
    words = reports._score_words(table().summary(), "net")
    assert words == [
        "relevance_mass: evidence of the net 0.500 [0.500, 0.500], random_map 0.100 [0.100, 0.100]; better than chance: the intervals do not touch."
    ]
    same = Table(tuple(r if r.method == "evidence" else replace(r, value=0.5) for r in table().records))
    assert "not shown to be better than chance" in reports._score_words(same.summary(), "net")[0]


def test_failures_are_said() -> None:
    failed = Table((Record("bad.png", "bad.png", "net", "", "", status="failed: truncated"),))
    assert reports._failure_words(failed) == [
        "1 inputs or explanations failed, for example bad.png: failed: truncated."
    ]
