"""The study of signals on a few made-up series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import signals
from pellucid.record import Prediction, Table


def test_the_difference_is_paired_by_series() -> None:
    """Right: plain on a, b; SoftCAM on b, c, d. The mean of -1, 0, 1, 1 is a quarter."""
    sure = {True: (0.1, 0.9), False: (0.9, 0.1)}
    answers = {signals.PLAIN: (1, 1, 0, 0), signals.SOFTCAM: (0, 1, 1, 1)}
    made = [
        Prediction(s, "", m, 1, sure[bool(a)]) for m, row in answers.items() for s, a in zip("abcd", row, strict=True)
    ]
    assert signals.difference(Table((), tuple(made))).mean == pytest.approx(0.25)


def test_every_series_is_judged_once_by_a_network_that_did_not_see_it(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    rows = [
        f"{label}," + ",".join(f"{v:.3f}" for v in chance.standard_normal(48)) for label in (1, 2) for _ in range(10)
    ]
    (tmp_path / "s.csv").write_text("\n".join(rows))
    study = signals.Study(("s.csv",), 1, {"names": {1: "gun", 2: "point"}})
    found = signals.run(study, tmp_path, 1)
    for name in (signals.PLAIN, signals.SOFTCAM):
        assert sorted(p.sample for p in found.table.predictions if p.model == name) == [
            f"s-{k:02d}" for k in range(1, 21)
        ]
    assert {(r.model, r.method) for r in found.table.records} == {(signals.SOFTCAM, m) for m in signals.METHODS}
    assert signals.faithfulness(found).count("\n") == len(signals.METHODS) + 1
    assert "gun" in signals.recalls(found)
    drawn = signals.picture(found, study.reading)
    assert drawn.width > 2 * 520
