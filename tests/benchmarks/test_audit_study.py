"""The tables of the audit's studies, from figures made up; and where they are put."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.audit import Asked, ladder_words, mending_words, subgroup_words
from scipy import stats

from benchmarks import audit as benchmark
from pellucid import files


def network(rho: float, seed: int, verdict: str, effect: float) -> dict[str, Any]:
    names = ("sample:marker", "corners", "border", "drawing 1", "drawing 2")
    zones = {name: {"verdict": verdict if name != "border" else "not relied on", "effect": effect, "mass": 0.1} for name in names}  # fmt: skip
    return {"rho": rho, "seed": seed, "auc": 0.9, "zones": zones, "seconds": 2.0}


FOUND = [network(0.0, k, "not relied on", 0.1 * k) for k in range(3)] + [network(0.9, k, "relied on" if k else "not settled", 3.0) for k in range(3)]  # fmt: skip


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_ladder_counts_verdicts_with_wilsons_interval() -> None:
    none, strong = cells(ladder_words(FOUND))
    low, high = stats.binomtest(2, 3).proportion_ci(method="wilson")
    wanted = f"2 of 3 [{low:.2f}, {high:.2f}]"
    assert none[:3] == ["0", "3", "0.900 [0.900, 0.900]"]
    assert none[4].startswith("0 of 3")
    assert strong[4:7] == [wanted] * 3  # rendered, corners, either drawing
    assert strong[7].startswith("0 of 3")
    interval = stats.t.interval(0.95, 2, loc=0.1, scale=stats.sem([0.0, 0.1, 0.2]))
    assert none[3] == f"0.100 [{interval[0]:.3f}, {interval[1]:.3f}]"


def test_mending_is_paired_by_training() -> None:
    conditions = ("as they are", "zone goes with the class", "zone goes against the class")
    found = [
        {"how": "exchange", "scores": {c: {"before": 0.5 + k / 10, "after": 0.7 + k / 10} for c in conditions}}
        for k in range(3)
    ]
    rows = cells(mending_words(found))
    assert [row[1] for row in rows] == list(conditions)
    assert all(row[5] == "0.200 [0.200, 0.200]" for row in rows)  # the trainings differ, the gain does not


def test_subgroups_count_what_survives_correction() -> None:
    def one(name: str, *adjusted: float) -> dict[str, Any]:
        return {"name": name, "measures": {f"m{k}": {"difference": 0.2, "adjusted": p} for k, p in enumerate(adjusted)}}

    made = [one("planted", 0.01, 0.2), one("planted", 0.3, 0.04), one("none", 0.5, 0.06)]
    either, first, second = cells(subgroup_words(made))
    assert either[1].startswith("2 of 2")
    assert either[3].startswith("0 of 1")
    assert first[:3] == ["m0", "1 of 2", "0.200 [0.200, 0.200]"]
    assert second[3] == "0 of 1"


def test_write_replaces_what_is_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "audit.md"
    page.write_text(
        "before\n<!-- ladder: begin -->\nold\n<!-- ladder: end -->\nafter <!-- mending: begin --> <!-- mending: end -->\n"
    )
    monkeypatch.setattr(benchmark, "PAGE", page)
    for k, one in enumerate(FOUND):
        files.write_json(tmp_path / "ladder" / f"{k}.json", one)
    benchmark.write(Asked(tmp_path, 3))
    text = page.read_text()
    assert text.startswith("before\n<!-- ladder: begin -->\n| rho |")
    assert "old" not in text
    assert "`python -m benchmarks.audit ladder --seeds 3 --out FOLDER`; 12 s of one core" in text
    assert text.endswith("after <!-- mending: begin --> <!-- mending: end -->\n")
