"""Limits beside figures: every case of an interval and a limit, by hand."""

from __future__ import annotations

import pytest

from pellucid.audit.limits import judged, within
from pellucid.audit.policy import Limit, Policy
from pellucid.errors import OptionError
from pellucid.record import Interval
from pellucid.reporting.audit import Figure


def figure(low: float, mean: float, high: float, *, sized: bool = False) -> Figure:
    return Figure("k", Interval(mean, low, high, 50, 20), sized=sized)


NAN = float("nan")


@pytest.mark.parametrize(
    ("found", "limit", "by_interval", "by_estimate"),
    [
        (figure(0.81, 0.9, 0.95), Limit(at_least=0.8), True, True),
        (figure(0.75, 0.9, 0.95), Limit(at_least=0.8), False, True),
        (figure(0.6, 0.7, 0.75), Limit(at_least=0.8), False, False),
        (figure(0.1, 0.2, 0.24), Limit(at_most=0.25), True, True),
        (figure(0.1, 0.2, 0.3), Limit(at_most=0.25), False, True),
        (figure(0.1, 0.2, 0.3), Limit(at_least=0.1, at_most=0.3), True, True),
        (figure(-2.0, -1.5, -1.0), Limit(at_most=0.25), True, True),
        (figure(-2.0, -1.5, -1.0, sized=True), Limit(at_most=0.25), False, False),
        (figure(-0.2, -0.1, 0.1, sized=True), Limit(at_most=0.25), True, True),
        (figure(-0.2, 0.1, 0.4, sized=True), Limit(at_most=0.25), False, True),
        (figure(-0.2, 0.3, 0.4, sized=True), Limit(at_least=0.1), False, True),
        (figure(-0.4, -0.3, -0.2, sized=True), Limit(at_least=0.1), True, True),
        (figure(NAN, NAN, NAN), Limit(at_least=0.0), False, False),
        (figure(NAN, 0.5, NAN), Limit(at_least=0.0), False, True),
    ],
)
def test_within(found: Figure, limit: Limit, by_interval: bool, by_estimate: bool) -> None:
    assert within(found, limit, "interval") is by_interval
    assert within(found, limit, "estimate") is by_estimate


def policy(**limits: Limit) -> Policy:
    return Policy(limits={key.replace("_", "."): limit for key, limit in limits.items()})


def test_a_failed_limit_is_told_with_its_line_and_what_was_measured() -> None:
    found = {"performance.auc": figure(0.6, 0.7, 0.8), "data.pairs": figure(0, 0, 0)}
    held = policy(performance_auc=Limit(at_least=0.75), data_pairs=Limit(at_most=0))
    failed, met = judged(held, {"performance.auc": 12}, found, {})
    assert (failed.key, failed.met, failed.line) == ("performance.auc", False, 12)
    assert failed.words == "Measured 0.700 [0.600, 0.800], n 50."
    assert met.met
    assert met.line == 0


def test_what_was_not_measured_is_not_met() -> None:
    (line,) = judged(policy(data_pairs=Limit(at_most=0)), {}, {}, {"data.": "nobody knows."})
    assert not line.met
    assert line.words == "Not measured: nobody knows."


def test_what_no_audit_measures_is_refused_with_the_nearest_figure() -> None:
    found = {"performance.auc": figure(0.6, 0.7, 0.8)}
    with pytest.raises(OptionError, match=r"limits 'performance\.acu'") as error:
        list(judged(policy(performance_acu=Limit(at_least=0.5)), {"performance.acu": 7}, found, {}))
    assert "Line 7" in error.value.why
    assert "performance.auc" in error.value.hint
