"""The verb `evaluate`: every sample, method, metric and control has its record, whatever happens on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pellucid as pl
from pellucid.controls import CONTROLS
from pellucid.errors import OptionError
from pellucid.methods import METHODS
from pellucid.metrics import METRICS
from pellucid.record import Table
from reference.nets import GapNet
from reference.samples import Breaks, Samples, two, used
from reference.untouched import unchanged


def table(dataset: Any = None, **options: Any) -> Table:
    return pl.evaluate(
        two(),
        dataset or Samples(),
        **{"methods": ["evidence", "random_map"], "controls": [], "batch_size": 3, **options},
    )


def test_every_sample_method_and_metric_has_its_record() -> None:
    found = table(methods=["evidence", "saliency"], metrics=["sparseness", "deletion"])
    rows = {(r.sample, r.method, r.metric, r.part) for r in found.records}
    parts = [("sparseness", ""), ("deletion", "probability"), ("deletion", "log_odds")]
    assert rows == {(f"s{i}", m, *p) for i in range(7) for m in ("evidence", "saliency") for p in parts}
    assert all(r.status == "ok" and r.value is not None for r in found.records)
    assert {(r.sample, r.group) for r in found.records} == {(f"s{i}", f"p{i // 2}") for i in range(7)}


def test_predictions_are_the_networks_own() -> None:
    net = two()
    found = pl.evaluate(net, Samples(), methods=[], batch_size=3)
    for i, p in enumerate(found.predictions):
        with torch.no_grad():
            wanted = net(Samples()[i].input[None]).double().softmax(1)[0].tolist()
        assert (p.sample, p.label) == (f"s{i}", i % 2)
        assert p.probabilities == pytest.approx(wanted, abs=1e-6)


def test_two_classes_are_scored_on_their_log_odds() -> None:
    """All methods answer one question; the value of a metric is that of the explanation made by hand."""
    net, samples = two(), Samples(n=3)
    found = pl.evaluate(net, samples, methods=["evidence"], metrics=["sparseness"], controls=[])
    assert [r.target for r in found.records] == ["no against yes", "yes against no", "no against yes"]
    for i, record in enumerate(found.records):
        e = pl.explain(net, samples[i].input[None], pl.ContrastTarget(i % 2, 1 - i % 2), method="evidence")
        size = e.map.flatten().abs().double().sort().values
        n = len(size)
        gini = float(((2 * torch.arange(1, n + 1) - n - 1) * size).sum() / (n * size.sum()))
        assert record.value == pytest.approx(gini, abs=1e-6)


def test_a_bad_sample_is_listed_and_the_others_go_on() -> None:
    found = table(Samples(bad=(0, 4)), metrics=["sparseness"])
    assert [(r.sample, r.status) for r in found.failures()] == [
        ("s0", "failed: File 0 is damaged."),
        ("s4", "failed: File 4 is damaged."),
    ]
    assert {r.sample for r in found.records if r.value is not None} == {f"s{i}" for i in (1, 2, 3, 5, 6)}
    assert len(found.predictions) == 5
    whole = table(metrics=["sparseness"], methods=["evidence"])
    values = {r.sample: r.value for r in whole.records}
    for r in found.records:
        if r.method == "evidence":
            assert r.value == pytest.approx(values[r.sample], abs=1e-6)
    assert table(Samples(n=3, bad=(0, 1, 2))).predictions == ()


def test_what_is_not_defined_says_why() -> None:
    found = table(Samples(blind=(2,)), metrics=["pointing_game"], methods=["evidence"])
    assert {r.sample: r.status for r in found.records if r.value is None} == {"s2": "no mask"}


def test_a_method_that_needs_evidence_is_left_out_for_a_black_box() -> None:
    models = {"plain": GapNet(2, classes=2).eval(), "softcam": two()}
    found = pl.evaluate(models, Samples(n=2), methods=["evidence", "saliency"], metrics=["sparseness"], controls=[])
    assert {(r.model, r.method) for r in found.records} == {
        ("plain", "saliency"),
        ("softcam", "evidence"),
        ("softcam", "saliency"),
    }


def test_a_method_that_fails_is_listed() -> None:
    found = table(methods=["grad_cam", "saliency"], metrics=["sparseness"], options={"grad_cam": {"layer": "model.fc"}})
    failed = found.failures()
    assert {r.method for r in failed} == {"grad_cam"}
    assert len(failed) == 7
    assert all("model.fc" in r.status for r in failed)
    assert {r.method for r in found.records if r.value is not None} == {"saliency"}


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"methods": ["evidense"]}, "evidence"),
        ({"metrics": ["sparsenes"]}, "sparseness"),
        ({"options": {"evidence": {"gage": 1}}}, "gauge"),
        ({"options": {"pointing_game": {"tolerence": 1}}}, "tolerance"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_done(options: dict[str, Any], meant: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        table(folder=tmp_path / "e", **options)
    assert error.value.hint == f"Did you mean '{meant}'?"
    assert not (tmp_path / "e").exists()


def test_labels_are_needed_to_explain_them() -> None:
    with pytest.raises(OptionError, match="label"):
        table(Samples(labels=(None,)))
    found = table(Samples(labels=(None,)), target="predicted", metrics=["sparseness"])
    assert len(found.records) == 14
    assert found.predictions == ()
    with pytest.raises(OptionError, match="no target 'best'"):
        table(target="best")


class PowerCut(Exception):
    """The work is stopped from outside."""


def test_an_interrupted_evaluation_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"metrics": ["pointing_game", "deletion"], "options": {"pointing_game": {"tolerance": 2}}}
    table(folder=tmp_path / "clean", **options).to_json(tmp_path / "clean.json")
    done = []

    def stop(part: int, total: int) -> None:
        done.append((part, total))
        if part == 2:
            raise PowerCut

    with pytest.raises(PowerCut):
        table(folder=tmp_path / "cut", progress=stop, **options)
    assert done == [(1, 3), (2, 3)]
    parts = sorted((tmp_path / "cut").glob("*.done"))
    assert len(parts) == 2
    kept = parts[0].with_suffix(".json").stat().st_mtime_ns
    table(folder=tmp_path / "cut", **options).to_json(tmp_path / "cut.json")
    assert parts[0].with_suffix(".json").stat().st_mtime_ns == kept  # not made again
    parts[1].unlink()
    table(folder=tmp_path / "cut", **options).to_json(tmp_path / "again.json")
    clean = (tmp_path / "clean.json").read_bytes()
    assert clean == (tmp_path / "cut.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    for part in (tmp_path / "clean").glob("*.json"):
        assert part.read_bytes() == (tmp_path / "cut" / part.name).read_bytes()
    assert Table.from_json(tmp_path / "clean.json").records == table(**options).records


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"target": "predicted"},
        {"metrics": ["deletion"]},
        {"options": {"deletion": {"steps": 5}}},
        {"fold": 1},
        {"dataset": Samples(fingerprint="other")},
    ],
)
def test_a_folder_with_other_results_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    table(folder=tmp_path, metrics=["sparseness"])
    with pytest.raises(OptionError, match="another plan"):
        table(
            **{
                "folder": tmp_path,
                "metrics": ["sparseness", "deletion"] if "options" in change else ["sparseness"],
                **change,
            }
        )


def test_other_weights_are_other_results(tmp_path: Path) -> None:
    pl.evaluate(two(), Samples(n=2), folder=tmp_path, methods=[])
    with pytest.raises(OptionError, match="another plan"):
        pl.evaluate(two(seed=1), Samples(n=2), folder=tmp_path, methods=[])


def test_the_fold_and_seed_are_noted() -> None:
    found = table(fold=3, seed=5, metrics=["sparseness"])
    assert {(r.fold, r.seed) for r in found.records} == {(p.fold, p.seed) for p in found.predictions} == {(3, 5)}


def test_evaluate_leaves_the_network_alone() -> None:
    net = used(two())
    with unchanged(net):
        pl.evaluate(net, Samples(n=4, bad=(1,)), batch_size=2)
    breaks = used(Breaks())
    with unchanged(breaks), pytest.raises(RuntimeError, match="half way"):
        pl.evaluate(breaks, Samples(n=4), batch_size=2)


def test_scores_are_plain_json(tmp_path: Path) -> None:
    stored = json.loads(table(Samples(blind=(0,))).to_json(tmp_path / "s.json").read_text())
    assert {"records", "predictions", "summary", "performance"} <= set(stored)
    assert any(r["value"] is None for r in stored["records"])


# --- controls --------------------------------------------------------------------------------------------------------


def test_a_score_is_given_with_its_controls() -> None:
    found = pl.evaluate(two(), Samples(), methods=["evidence"], metrics=["relevance_mass", "completeness_residual"])
    assert set(CONTROLS) == {
        "random_map", "blurred_random_map", "centre_map", "edge_map", "another_map", "oracle_map",
    }  # fmt: skip
    assert {r.method for r in found.records} == {"evidence", *CONTROLS}
    for r in found.records:  # only the evidence promises to add up
        if r.metric == "completeness_residual":
            assert (r.value is not None) == (r.method == "evidence")
    alone = pl.evaluate(two(), Samples(), methods=[])
    assert alone.records == ()


def test_the_oracle_is_the_mask_on_the_cells_and_another_map_is_the_next_patients() -> None:
    samples = Samples(n=6, blind=(3,))
    found = pl.evaluate(two(), samples, methods=["evidence"], metrics=["relevance_mass"], batch_size=6, controls=["another_map", "oracle_map"])  # fmt: skip
    values = {(r.method, r.sample): r for r in found.records if r.part == ""}
    mask = samples[0].mask
    assert mask is not None
    model = two()
    x = torch.stack([samples[i].input for i in range(6)])
    label = torch.tensor([0, 1] * 3)
    maps = pl.explain(model, x, pl.ContrastTarget(label, 1 - label))
    rows, columns = maps.geometry.nearest_cell()
    tiles = torch.tensor(
        [[float(mask[rows == i][:, columns == j].double().mean()) for j in range(4)] for i in range(4)]
    )
    drawn = pl.explain(model, x, pl.ContrastTarget(label, 1 - label)).at_input_size()

    def mass(pixels: torch.Tensor) -> float:
        positive = pixels.double().clamp_min(0)
        return float((positive * mask).sum() / positive.sum())

    from pellucid.spatial import upsample

    assert values["oracle_map", "s0"].value == pytest.approx(mass(upsample(tiles, maps.geometry)), abs=1e-6)
    for i in (0, 1, 2, 4, 5):  # groups are pairs: 0 1 | 2 3 | 4 5
        partner = {0: 2, 1: 2, 2: 4, 4: 0, 5: 0}[i]
        assert values["another_map", f"s{i}"].value == pytest.approx(mass(drawn[partner]), abs=1e-5)
    assert values["oracle_map", "s3"].status == "no mask"


def test_a_patient_alone_has_no_other_map() -> None:
    found = pl.evaluate(two(), Samples(n=2), methods=["evidence"], metrics=["sparseness"], controls=["another_map"])
    assert [r.status for r in found.records if r.method == "another_map"] == ["undefined", "undefined"]


def test_a_metric_that_cannot_be_had_is_listed_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.metrics import METRICS, sparseness

    def refuses(map: torch.Tensor) -> torch.Tensor:
        raise OptionError("This needs something else.")

    monkeypatch.setattr(sparseness, "sparseness", refuses)
    found = table(metrics=["sparseness", "pointing_game"])
    assert {r.status for r in found.records if r.metric == "sparseness"} == {"failed: This needs something else."}
    assert all(r.value is not None for r in found.records if r.metric == "pointing_game")
    assert "sparseness" in METRICS


def test_a_control_that_does_not_exist() -> None:
    with pytest.raises(OptionError, match="no control called 'oracle'"):
        table(controls=["oracle"])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_scored(method: str) -> None:
    found = pl.evaluate(two(), Samples(n=2), methods=[method], metrics=["sparseness"], controls=["random_map"])
    allowed = ("ok", "undefined") if method == "guided_grad_cam" else ("ok",)  # it may leave a map of zeros
    assert {r.status for r in found.records if r.method == method} <= set(allowed)


def test_metrics_explain_anew_in_the_way_of_the_case() -> None:
    from pellucid.contracts import Again
    from pellucid.metrics import METRICS
    from pellucid.registry import MetricRow

    seen: list[Any] = []

    def repeats(map: torch.Tensor, x: torch.Tensor, again: Again) -> torch.Tensor:
        other = nn.Sequential(two())
        seen.append((map, again().map, again(x=x + 1).map, again(model=two(seed=1)).map, other))
        return torch.zeros(len(map))

    class Row(MetricRow):
        def load(self) -> Any:
            return repeats

    METRICS["repeats"] = Row("", "")
    try:
        options = {"smooth_grad": {"samples": 3, "reduce": "abs_max"}}
        found = pl.evaluate(two(), Samples(n=3), methods=["smooth_grad"], metrics=["repeats"], controls=["another_map"], options=options)  # fmt: skip
    finally:
        del METRICS["repeats"]
    ((own, same, moved, changed, _),) = seen
    assert torch.equal(own, same)
    assert not torch.allclose(own, moved)
    assert not torch.allclose(own, changed)
    assert {r.method for r in found.records} == {"smooth_grad"}  # a control has no way of explaining anew


def test_all_maps_on_the_networks_cells() -> None:
    """What lies in a cell is added up by hand; maps that have these cells already stay as they are."""
    net, samples = two(), Samples(n=2)
    names: Any = {"methods": ["evidence", "saliency"], "metrics": ["sparseness"], "controls": ["edge_map"]}
    own, cells = (pl.evaluate(net, samples, grid=grid, **names) for grid in ("own", "cells"))
    value = {(t, r.method, r.sample): r.value for t, found in (("own", own), ("cells", cells)) for r in found.records}
    assert value["own", "evidence", "s0"] == value["cells", "evidence", "s0"]
    assert value["own", "edge_map", "s0"] != value["cells", "edge_map", "s0"]
    geometry = pl.explain(net, samples[0].input[None], method="evidence").geometry
    rows, columns = geometry.nearest_cell()
    for i in range(2):
        target = pl.ContrastTarget(i % 2, 1 - i % 2)
        map = pl.explain(net, samples[i].input[None], target, method="saliency").map[0]
        summed = torch.zeros(geometry.grid, dtype=torch.float64)
        for y, row in enumerate(rows.tolist()):
            for x, column in enumerate(columns.tolist()):
                summed[row, column] += map[y, x]
        expected = METRICS["sparseness"](map=summed[None]).item()
        assert value["cells", "saliency", f"s{i}"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(OptionError, match="no grid 'pixels'"):
        pl.evaluate(net, samples, grid="pixels")


def test_what_explains_anew_does_so_on_the_same_cells() -> None:
    found = pl.evaluate(
        two(), Samples(n=2), methods=["saliency"], metrics=["max_sensitivity"], controls=[], grid="cells"
    )
    assert all(r.status == "ok" for r in found.records)
