from __future__ import annotations

import pytest

from pellucid.errors import OptionError
from pellucid.metrics import SUMMARIES
from pellucid.metrics.validated_iou import validated_iou
from pellucid.record import Finding, Record, Table


def table(values: dict[str, dict[str, list[float]]], method: str = "cam") -> Table:
    """part -> patient -> values of its images."""
    return Table(
        tuple(
            Record(f"{patient}{i}", patient, "net", method, "iou", part, value=v)
            for part, patients in values.items()
            for patient, images in patients.items()
            for i, v in enumerate(images)
        )
    )


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1
    return findings[0]


def test_others_choose_the_threshold() -> None:
    """Patient a is best at 0.5 and would choose it; b and c, who choose for a, are best at 0.25."""
    given = table({"at_0.25": {"a": [0.1], "b": [0.6], "c": [0.5]}, "at_0.5": {"a": [0.9], "b": [0.3], "c": [0.3]}})
    found = only(validated_iou(given, folds=3))
    # for a: 0.25 (0.55 against 0.3), for b: 0.5 (0.6 against 0.3), for c: 0.5 (0.6 against 0.35)
    assert found.value == pytest.approx((0.1 + 0.3 + 0.3) / 3)
    assert found.basis == "threshold (folds): 0.25 (1), 0.5 (2)"
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.7 / 3 <= found.high
    assert (found.method, found.part, found.n) == ("cam", "", 3)


def test_images_of_one_patient_stay_together() -> None:
    """With two patients in two folds, each has the threshold of the other for all of its images."""
    given = table({"at_0.25": {"a": [1, 1, 0], "b": [0.2]}, "at_0.5": {"a": [0.5, 0.5, 0.5], "b": [0.4]}})
    found = only(validated_iou(given, folds=2))
    assert found.value == pytest.approx((0.5 * 3 + 0.2) / 4)
    assert found.n == 4


def test_one_good_threshold_is_its_mean_and_grids_are_apart() -> None:
    values = {f"p{i}": [i / 10] for i in range(10)}
    low = {name: [0.0] for name in values}
    rows = table({"at_0.5": values, "at_0.9": low, "cells_at_0.5": low, "cells_at_0.9": values})
    found = {f.part: f for f in validated_iou(rows)}
    assert {part: f.value for part, f in found.items()} == pytest.approx({"": 0.45, "cells": 0.45})
    assert found["cells"].basis == "threshold (folds): 0.9 (5)"


def test_what_is_missing_is_said() -> None:
    with pytest.raises(OptionError, match="no 'iou'"):
        validated_iou(Table(()))
    with pytest.raises(OptionError, match="folds=1"):
        validated_iou(table({"at_0.5": {"a": [1]}}), folds=1)
    found = only(validated_iou(table({"at_0.5": {"a": [1, 0]}})))
    assert (found.value, found.status) == (None, "needs two patients")


@pytest.mark.parametrize("name", list(SUMMARIES))
def test_every_summary_is_named_after_its_file(name: str) -> None:
    row = SUMMARIES[name]
    assert row.path == f"pellucid.metrics.{name}:{name}"
    assert row.summary
    assert row.load().__doc__
