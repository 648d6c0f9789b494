"""Two runs beside each other: differences by hand, verdicts, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid.comparison import compare_runs, report_comparison, words
from pellucid.errors import BadInput, OptionError
from pellucid.performance import auc
from pellucid.record import Prediction, Record, Table


def run(place: Path, gain: float = 0.0, n: int = 40, prefix: str = "s", flipped: bool = False) -> Path:
    """An evaluated run: `gain` makes probabilities better and scores higher. Its folds differ from another's."""
    draws = np.random.default_rng(3).normal(size=n)
    predictions, records = [], []
    for i in range(n):
        label = (i + flipped) % 2
        p = float(1 / (1 + np.exp(-(draws[i] + (2 * label - 1) * (0.5 + gain)))))
        common: dict[str, Any] = {
            "sample": f"{prefix}{i}",
            "group": f"g{i // 2}",
            "model": "SoftCAM",
            "fold": int(gain > 0),
        }
        predictions.append(Prediction(label=label, probabilities=(1 - p, p), **common))
        for method in ("evidence", "random_map"):
            value = float(abs(draws[i])) + gain
            records.append(Record(method=method, metric="sparseness", value=value, **common))
    (place / "evaluate").mkdir(parents=True)
    (place / "study.json").write_text("{}")
    Table(tuple(records), tuple(predictions)).to_json(place / "evaluate" / "scores.json")
    return place


def test_differences_are_paired_and_by_hand(tmp_path: Path) -> None:
    found = compare_runs(run(tmp_path / "new", gain=1.0), run(tmp_path / "old"), margin=0.02)
    sides = [[p for p in found.table.predictions if p.model == m] for m in ("new", "old")]
    areas = [auc(np.array([p.probabilities[1] for p in s]), np.array([p.label for p in s])) for s in sides]
    row = next(c for c in found.performance if c.metric == "auc")
    assert row.difference.mean == pytest.approx(areas[0] - areas[1])
    assert row.verdict is not None
    assert (row.verdict.verdict, row.verdict.margin) == ("non-inferior", 0.02)
    assert all(c.verdict is None for c in found.performance if c.metric != "auc")
    (score,) = found.scores  # the control is left out
    assert (score.model, score.first, score.second) == ("evidence", "new", "old")
    assert (score.difference.mean, score.difference.low) == (pytest.approx(1.0), pytest.approx(1.0))
    assert score.adjusted < 0.01
    assert "non-inferior" in words(found)[0]


def test_the_page_has_the_verdict(tmp_path: Path) -> None:
    found = compare_runs(run(tmp_path / "new"), run(tmp_path / "old", gain=2.0))
    page = report_comparison(found, tmp_path / "c.html").read_text()
    assert "inferior (margin 0.01)" in page
    assert "new against old" in page
    assert "pellucid report --compare new old --margin 0.01" in page


def test_equal_runs_do_not_differ(tmp_path: Path) -> None:
    found = compare_runs(run(tmp_path / "a" / "r"), run(tmp_path / "b" / "r"))
    assert {c.difference.mean for c in (*found.performance, *found.scores)} == {0.0}
    assert words(found)[1].startswith("No score of the explanations differs")
    assert found.new != found.old


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    with pytest.raises(OptionError, match="with itself"):
        compare_runs(first, tmp_path / "x" / ".." / "a")
    with pytest.raises(OptionError, match="different samples"):
        compare_runs(first, run(tmp_path / "b", prefix="t"))
    with pytest.raises(OptionError, match="agree about labels"):
        compare_runs(first, run(tmp_path / "c", flipped=True))
    with pytest.raises(BadInput, match="is no run"):
        compare_runs(first, tmp_path)
    (tmp_path / "c" / "evaluate" / "scores.json").unlink()
    with pytest.raises(BadInput, match="was not evaluated"):
        compare_runs(first, tmp_path / "c")
