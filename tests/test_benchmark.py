"""The benchmark on a tiny setting, and its verdicts on tables made by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pellucid.benchmark import PRESETS, Plan, results, run
from pellucid.benchmark.plan import Together, planned
from pellucid.benchmark.results import Score, Values
from pellucid.controls import CONTROLS
from pellucid.data.lesionlab import LesionLab
from pellucid.errors import OptionError
from pellucid.models import storage
from pellucid.record import Prediction, Record, Table

TINY = Plan(
    trainings=2, ladders=1, size=64, images=16, epochs=1, tuning_epochs=1, letter_images=16, letter_epochs=1, tested_images=8, scored_images=2,
    methods=("evidence", "saliency", "input_x_gradient"), rhos=(0.0, 1.0), passes=2,
)  # fmt: skip
WRITTEN = ("results.json", "scores.csv", "results.md", "manifest.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmark") / "run"
    jobs: list[tuple[int, int]] = []
    run(out, TINY, progress=lambda done, total: jobs.append((done, total)))
    assert jobs == [(k + 1, len(jobs)) for k in range(len(jobs))]
    return out


def test_a_killed_run_goes_on_and_gives_the_same_bytes(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in WRITTEN}
    kept = (folder / "networks" / "fundus-0" / "black-box" / "manifest.json").stat().st_mtime_ns
    shutil.rmtree(folder / "figures")
    shutil.rmtree(folder / "networks" / "fundus-1" / "sparse")
    (folder / "results.json").unlink()
    (folder / "parts" / "fundus-1" / "factorial" / "01-000000.done").unlink()
    run(folder, TINY)
    assert {name: (folder / name).read_bytes() for name in WRITTEN} == before
    assert (folder / "networks" / "fundus-0" / "black-box" / "manifest.json").stat().st_mtime_ns == kept
    storage.verify(folder)


def test_what_is_written(folder: Path) -> None:
    found = json.loads((folder / "results.json").read_text())
    (kind,) = found["kinds"]
    scored = {(v["model"], v["score"]["metric"], v["score"]["part"]) for v in kind["verdicts"]}
    assert scored == {(m, *s) for m in ("converted", "sparse") for s in results.CANDIDATES}
    assert all(set(v["controls"]) == set(CONTROLS) and set(v["methods"]) == set(TINY.methods) for v in kind["verdicts"])
    assert [rung["rho"] for rung in kind["ladder"]] == [0, 1]
    page = (folder / "results.md").read_text()
    for name in (p.name for p in (folder / "figures").iterdir()):
        assert ElementTree.parse(folder / "figures" / name).getroot().tag.endswith("svg")
        assert f"figures/{name}" in page
    lines = (folder / "scores.csv").read_text().splitlines()
    assert lines[0].startswith("kind,study,network,seed,method")
    assert {line.split(",")[1] for line in lines[1:]} >= {"factorial", "own-cells", "blank", "letters", "gauges"}


def test_another_plan_is_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="holds another benchmark"):
        run(folder, replace(TINY, seed=1))


def test_pictures_that_are_scored() -> None:
    data = replace(TINY, scored_images=6).ill("fundus")
    samples = [data[i] for i in range(len(data))]
    assert len({s.group for s in samples}) == 6
    assert all(s.mask is not None and s.mask.any() and s.label == 1 for s in samples)
    one = samples[0].alternatives["without lesions"]
    assert one() is one()


def test_data_sets_as_one() -> None:
    parts = tuple(LesionLab(n_images=n, size=64, seed=n) for n in (2, 3))
    whole = Together(parts)
    names = [p.facts(i).name for p in parts for i in range(len(p))]
    assert [whole.facts(i).name for i in range(5)] == names == [s.name for s in whole]
    with pytest.raises(IndexError):
        whole[5]


def test_presets() -> None:
    assert planned("small") == PRESETS["small"]
    assert planned("small", "all", 2, 7).kinds == ("fundus", "oct", "xray")
    assert planned("small", "oct", 2).networks == 2 * (2 + 6 + 1)
    assert planned("small").networks == 5 * 2 + 3 * (6 + 1)
    for bad in (("smal",), ("small", "mri")):
        with pytest.raises(OptionError):
            planned(*bad)


Means = Mapping[str, tuple[float, ...]]  # per method one value per picture


def table(methods: Means, metric: str = "auprc", model: str = "converted", seeds: int = 2) -> Table:
    return Table(
        tuple(
            Record(f"s{i}", f"p{i}", model, method, metric, value=value, seed=seed)
            for method, values in methods.items()
            for seed in range(seeds)
            for i, value in enumerate(values)
        )
    )


BLIND: Means = {name: (0.1, 0.2, 0.3) for name in CONTROLS if name != "oracle_map"}
GOOD: Means = {
    **BLIND, "edge_map": (0.2, 0.2, 0.2), "evidence": (0.5, 0.6, 0.7), "saliency": (0.3, 0.4, 0.5), "oracle_map": (0.8, 0.9, 1.0),
}  # fmt: skip


def verdict(methods: Means, metric: str = "auprc") -> results.Verdict:
    return next(iter(results._verdicts(table(methods, metric), [(metric, "")])))


def test_a_score_holds_where_truth_beats_methods_and_these_noise() -> None:
    found = verdict(GOOD)
    assert found.holds
    assert (found.order, found.stability) == (["evidence", "saliency"], 1)
    assert found.methods["evidence"].mean == pytest.approx(0.6)
    lost = verdict({**GOOD, "evidence": (0.5, 0.6, 1.1)})
    assert (lost.holds, lost.not_below_truth) == (False, ("evidence",))
    blind = verdict({**GOOD, "saliency": (0.1, 0.2, 0.4)})
    assert (blind.holds, blind.not_above_noise) == (False, ("saliency",))
    edges = verdict({**GOOD, "edge_map": (0.6, 0.6, 0.6)})
    assert (edges.holds, edges.not_below_best) == (False, ("edge_map",))


def test_pictures_are_compared_with_themselves() -> None:
    """Differences of .01 on pictures that differ by far more."""
    values = (0.1, 0.5, 0.9)
    near = {
        **dict.fromkeys(BLIND, values),
        "evidence": tuple(v + 0.01 for v in values),
        "oracle_map": tuple(v + 0.02 for v in values),
    }
    assert verdict(near).holds


def test_less_is_better_is_turned() -> None:
    turned = {name: tuple(-v for v in values) for name, values in GOOD.items()}
    assert verdict(turned, "deletion").holds
    assert verdict(turned, "deletion").order == ["evidence", "saliency"]
    assert not verdict(GOOD, "deletion").holds


def test_a_network_that_learnt_nothing_must_not_beat_the_edges() -> None:
    found = Values(table(GOOD, model="untrained"))
    assert {(o.method, o.model) for o in results._offences(found)} == {
        ("evidence", "untrained"),
        ("saliency", "untrained"),
    }
    assert list(results._offences(Values(table({**GOOD, "edge_map": (0.6, 0.6, 0.6)}, model="untrained")))) == []


def test_a_remedy_is_judged_by_its_interval() -> None:
    def effect(gain: tuple[float, ...]) -> str:
        rows = [table({"evidence": v}, model=m) for m, v in (("without", (0.1, 0.5, 0.9)), ("with", gain))]
        joined = Values(Table(tuple(r for t in rows for r in t.records)))
        return next(
            r for r in results._compared(joined, "x", "y", "without", "with") if r.score == Score("auprc", "")
        ).effect

    assert effect((0.2, 0.6, 1.0)) == "helps"
    assert effect((0.0, 0.4, 0.8)) == "harms"
    assert effect((0.2, 0.4, 0.9)) == "no difference shown"


def test_share_of_pictures_that_are_right() -> None:
    rows = [("a", 1, (0.2, 0.8)), ("b", 1, (0.7, 0.3)), ("c", 1, (0.1, 0.9)), ("d", 1, (0.4, 0.6))]
    predictions = tuple(Prediction(name, name, "net", label, p) for name, label, p in rows)
    assert results._recognised(Table((), predictions), "net").mean == 0.75
