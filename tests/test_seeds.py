"""Several seeds of one study: the same folds, scores by hand, nothing trained twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch

from pellucid.errors import BadInput, OptionError
from pellucid.seeds import spread_of, train_seeds
from pellucid.study import Study, check_is_study
from pellucid.training.config import TrainingConfig
from pellucid.training.metrics import predict
from pellucid.training.run import Run

pytest.importorskip("lightning_fabric")


def drawn(folds: int = 0, **recipe: object) -> Study:
    made = TrainingConfig(epochs=1, batch_size=8, lr=0.01, device="cpu", seed=4, **recipe)
    reading = {"n_images": 24, "size": 64}
    return Study("lesionlab:fundus", reading, "pellucid:s8", None, folds, False, False, made)


def test_spread_by_hand() -> None:
    (auc,) = spread_of([{"auc": 0.7, "loss": float("nan")}, {"auc": 0.9, "loss": 1.0}, {"auc": 0.8}])
    assert auc.interval.mean == pytest.approx(mean([0.7, 0.9, 0.8]))
    assert auc.deviation == pytest.approx(stdev([0.7, 0.9, 0.8]))
    half = 4.302653 * auc.deviation / 3**0.5  # Student's t with two degrees of freedom
    assert auc.interval.high - auc.interval.mean == pytest.approx(half, rel=1e-5)


def test_seeds_share_their_folds_and_differ_in_their_weights(tmp_path: Path) -> None:
    study = drawn(folds=2)
    spreads = train_seeds(study, tmp_path, 2, progress=False, say=lambda _: None)
    places = [tmp_path / "seed-4", tmp_path / "seed-5"]
    assert (places[0] / "splits.json").read_text() == (places[1] / "splits.json").read_text()
    weights = [(p / "fold-0" / "model.safetensors").read_bytes() for p in places]
    assert weights[0] != weights[1]

    from pellucid.data import open_data
    from pellucid.data.splits import Split
    from pellucid.models.storage import load

    data = open_data(study.source, **study.reading)
    split = Split.read(places[1] / "splits.json", data)
    right = 0.0
    for part in split.parts:
        found = predict(load(places[1] / f"fold-{part}"), split.subset(data, part))
        right += float((found.predicted == found.labels).sum())
    accuracy = next(s for s in spreads if s.score == "accuracy")
    assert accuracy.values[1] == pytest.approx(right / 24)
    stored = json.loads((tmp_path / "seeds.json").read_text())
    assert stored["seeds"]["5"]["accuracy"] == accuracy.values[1]

    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("model.safetensors")}
    assert train_seeds(study, tmp_path, 2, progress=False, say=lambda _: None) == spreads
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("model.safetensors")}
    with pytest.raises(BadInput) as error:
        check_is_study(tmp_path)
    assert str(places[0]) in error.value.hint


def test_held_out_samples_are_the_same_for_all_seeds(tmp_path: Path) -> None:
    spreads = train_seeds(drawn(val_fraction=0.4), tmp_path, 2, progress=False, say=lambda _: None)
    runs = [Run.load(tmp_path / f"seed-{k}") for k in (4, 5)]
    assert runs[0].held_out == runs[1].held_out
    loss = next(s for s in spreads if s.score == "loss")
    assert loss.values == tuple(r.last("val_loss") for r in runs)
    assert not torch.equal(*(next(r.model.parameters()) for r in runs))


def test_what_has_no_spread(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="training data alone"):
        train_seeds(drawn(), tmp_path, 2)
    with pytest.raises(OptionError, match="no seeds"):
        train_seeds(replace(drawn(folds=2), probe=True), tmp_path, 2)
    assert not list(tmp_path.iterdir())
