"""Methods beside each other, and runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

import pellucid as pl
from app.kit import ask, client_of, numbers, problem, small_softcam
from pellucid import files
from pellucid.app.calibration import Calibration, calibration
from pellucid.app.served import Served, open_all
from pellucid.comparison import compare_runs, words
from pellucid.data import open_data
from pellucid.networks import reading_for
from pellucid.record import Prediction, Table
from pellucid.sample import Facts, Sample


def compared(client: TestClient, photo: Path, **fields: str) -> Any:
    answer = client.post("/v1/compare", files={"file": ("a.png", photo.read_bytes())}, data=fields)
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


def test_scores_are_those_of_evaluate(client: TestClient, models: dict[str, Served], photo: Path) -> None:
    """On the same input, for its predicted class; controls are always there."""
    told = compared(client, photo, methods='["evidence", "grad_cam"]')
    names = [s["method"] for s in told["scores"]]
    assert names == [e["method"] for e in told["explanations"]] == ["evidence", "grad_cam", "random_map", "centre_map"]
    assert [s["control"] for s in told["scores"]] == [False, False, True, True]
    network = models["softcam"].network
    x = open_data(photo, **reading_for(network, str(photo), {}))[0].input
    table = pl.evaluate(network, _One(x), methods=names, metrics=["deletion", "insertion", "sparseness"], controls=[], target="predicted")  # fmt: skip
    for scores in told["scores"]:
        for record in table.where(method=scores["method"]).records:
            name = record.metric + ("_log_odds" if record.part == "log_odds" else "")
            assert scores["metrics"][name] == pytest.approx(record.value, abs=1e-5), (scores["method"], name)
    assert told["failed"] == {}


class _One:
    """One sample as a data set."""

    classes = ("apple", "pear", "plum")
    fingerprint = "one"

    def __init__(self, x: torch.Tensor) -> None:
        self.sample = Sample(x, label=0, name="one")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return self.sample

    def facts(self, index: int) -> Any:
        return Facts("one", 0, "")


def test_all_methods_answer_one_question(client: TestClient, photo: Path) -> None:
    told = compared(client, photo, target="pear against plum")
    assert {e["target"]["text"] for e in told["explanations"]} == {"pear against plum"}
    assert len({round(e["score"], 5) for e in told["explanations"]}) == 1
    evidence, cam = (e for e in told["explanations"] if e["method"] in ("evidence", "cam"))
    np.testing.assert_allclose(numbers(evidence["map"]), numbers(cam["map"]), atol=1e-5)
    assert all(e["input"] is None for e in told["explanations"])
    assert told["input"]["size"] == [64, 64]
    directions = {m["name"]: m["higher_is_better"] for m in told["metrics"]}
    assert directions["deletion"] is False
    assert directions["insertion_log_odds"] is True


def test_a_method_that_does_not_exist(client: TestClient, photo: Path) -> None:
    answer = client.post("/v1/compare", files={"file": ("a.png", photo.read_bytes())}, data={"methods": '["evidense"]'})
    assert "evidence" in problem(answer, 422)["hint"]


def test_a_method_that_fails_is_told_beside_the_others(client: TestClient, photo: Path) -> None:
    """A layer without positions is no reason to keep back what the other methods say."""
    told = compared(client, photo, model="plain", methods='["grad_cam", "saliency"]', layer="nowhere")
    assert set(told["failed"]) == {"grad_cam", "random_map"}
    assert "nowhere" in told["failed"]["grad_cam"]
    assert [s["method"] for s in told["scores"]] == ["saliency", "centre_map"]


def write(folder: Path, rows: Sequence[Prediction]) -> None:
    """The predictions as `evaluate` keeps them, without the intervals, which take seconds."""
    files.write_json(folder / "evaluate" / "scores.json", {"format": 1, **Table((), tuple(rows)).as_parts()})


def evaluated(folder: Path, gain: float, fold: int = 0) -> Path:
    """A run with one network and predictions of 16 patients; `gain` makes them better."""
    small_softcam().save(folder / "fold-0")
    draws = np.random.default_rng(3).normal(size=16)
    chances = [float(1 / (1 + np.exp(-(d + (2 * (i % 2) - 1) * (0.5 + gain))))) for i, d in enumerate(draws)]
    rows = tuple(Prediction(f"s{i}", f"g{i}", "SoftCAM", i % 2, (1 - p, p), 0, fold) for i, p in enumerate(chances))
    (folder / "study.json").write_text("{}")
    write(folder, rows)
    return folder


def test_two_runs_beside_each_other(tmp_path: Path) -> None:
    """New minus old, as `pellucid report --compare` has it."""
    folders = evaluated(tmp_path / "new", 1.0), evaluated(tmp_path / "old", 0.0)
    served = open_all([str(folder) for folder in folders], device=torch.device("cpu"))
    assert list(served) == ["new-fold-0", "old-fold-0"]
    with client_of(served) as client:
        told = client.get("/v1/runs/comparison", params={"new": "new-fold-0", "old": "old-fold-0"}).json()
        expected = compare_runs(*folders)
        assert {r["name"]: r["difference"] for r in told["performance"]} == {
            c.metric: pytest.approx(c.difference.mean) for c in expected.performance
        }
        assert told["words"] == words(expected)
        auc = next(r for r in told["performance"] if r["name"] == "auc")
        assert auc["verdict"].startswith("non-inferior: difference")
        problem(client.get("/v1/runs/comparison", params={"new": "new-fold-0", "old": "new-fold-0"}), 422)
        problem(client.get("/v1/runs/comparison", params={"new": "new-fold-0", "old": "none"}), 404)


def test_a_temperature_that_was_planted_is_found(tmp_path: Path) -> None:
    """Probabilities of logits that are twice as large as they should be; those of other folds do not count."""
    chance = np.random.default_rng(0)
    true = chance.normal(0, 2, 4000)
    labels = (chance.random(4000) < 1 / (1 + np.exp(-true))).astype(int)
    rows = [Prediction(f"s{i}", "", "SoftCAM", int(y), (1 - p, p), 0, 0) for i, (y, p) in enumerate(zip(labels, 1 / (1 + np.exp(-2 * true)), strict=True))]  # fmt: skip
    others = [Prediction(f"t{i}", "", "SoftCAM", i % 2, (0.5, 0.5), 0, 1) for i in range(500)]
    write(tmp_path, (*rows, *others))
    found = calibration(tmp_path / "fold-0")
    assert found.temperature == pytest.approx(2, rel=0.08)
    assert "4000 held-out" in found.note


def test_without_held_out_predictions_nothing_is_calibrated(tmp_path: Path) -> None:
    assert calibration(tmp_path / "fold-0").temperature is None
    run = evaluated(tmp_path / "run", 0.0, fold=3)
    assert calibration(run / "fold-0").temperature is None
    assert "0 held-out" in calibration(run / "fold-0").note


def test_calibrated_probabilities_are_those_of_divided_logits(models: dict[str, Served], photo: Path) -> None:
    served = {"a": replace(models["softcam"], id="a", calibrated=Calibration(2.0, ""))}
    with client_of(served) as client:
        told = ask(client, photo)["prediction"]
    expected = (torch.tensor(told["logits"]) / 2).softmax(0).tolist()
    assert told["calibrated"] == pytest.approx(expected)
    assert told["calibrated"] != told["probabilities"]


def test_what_cannot_be_compared(models: dict[str, Served], folder: Path, tmp_path: Path) -> None:
    """Two networks of one run, and a run that was not evaluated: said by their names, not by where they lie."""
    small_softcam().save(tmp_path / "other" / "fold-0")
    other = open_all([str(tmp_path / "other")], device=torch.device("cpu"))
    with client_of({**models, **other}) as client:
        told = problem(client.get("/v1/runs/comparison", params={"new": "softcam", "old": "plain"}), 422)
        assert told["title"] == "softcam and plain belong to one run."
        told = problem(client.get("/v1/runs/comparison", params={"new": "softcam", "old": "fold-0"}), 422)
        assert "the run of " in str(told)
        assert str(folder) not in str(told)
        assert str(tmp_path) not in str(told)
