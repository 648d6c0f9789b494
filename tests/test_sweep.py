"""The choices of a sweep on tables made by hand, and a small sweep that goes on where it was stopped."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pellucid.data.lesionlab import LesionLab
from pellucid.errors import OptionError
from pellucid.record import Interval, Prediction, Record, Table
from pellucid.statistics import NonInferiority, Verdict
from pellucid.study import Study
from pellucid.sweep import Point, judged, least_costly, recalibrated, sweep, within_one_error
from pellucid.training.config import TrainingConfig
from pellucid.training.run import Run

pytest.importorskip("lightning_fabric")


def point(name: str, auc: float, gini: float, verdict: Verdict = "non-inferior", error: float = 0.01) -> Point:
    def about(value: float) -> Interval:
        return Interval(value, value - 0.02, value + 0.02, 50, 50)

    change = NonInferiority(verdict, 0.01, auc - 0.95, auc - 0.96, auc - 0.94, 50)
    return Point(name, "l1", 0.1, about(auc), error, about(0.3), about(gini), None, change, 1.0, 0.1, 0.05)


def test_the_sparsest_within_one_standard_error_of_the_best() -> None:
    """The best has 0.960 with an error of 0.01, so 0.950 is the least that counts: its own error, not that of the others."""
    points = [
        point("none", 0.950, 0.40, error=0.5),
        point("best", 0.960, 0.45),
        point("just", 0.951, 0.60),
        point("below", 0.949, 0.90, error=0.5),
    ]
    assert within_one_error(points).name == "just"
    assert within_one_error(points[:2]).name == "best"
    assert within_one_error([*points, point("nothing", 0.955, float("nan"))]).name == "just"


def test_the_sparsest_that_is_not_inferior() -> None:
    points = [
        point("none", 0.950, 0.50),
        point("flatter", 0.960, 0.45),
        point("unknown", 0.940, 0.80, "inconclusive"),
        point("worse", 0.900, 0.90, "inferior"),
    ]
    assert least_costly(points).name == "none"
    assert least_costly([*points, point("sparser", 0.948, 0.70)]).name == "sparser"


def answers(model: str, logits: np.ndarray, labels: np.ndarray) -> list[Prediction]:
    return [
        Prediction(f"s{k}", f"p{k}", model, int(label), tuple(np.exp(row) / np.exp(row).sum()))
        for k, (row, label) in enumerate(zip(logits, labels, strict=True))
    ]


def test_judged_by_hand() -> None:
    """Two runs that order 8 samples alike, one of them with a wrong pair: AUC 1 and 15/16, and half the Gini index."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    right = np.stack([np.zeros(8), np.arange(8) - 3.5], 1)
    wrong = right[[0, 1, 2, 4, 3, 5, 6, 7]]
    records = [
        Record(
            f"s{k}", f"p{k}", model, "evidence", metric, value=value, status="ok" if value is not None else "no mask"
        )
        for model, gini in (("none", 0.4), ("l1-0.1", 0.8))
        for k in range(8)
        for metric, value in (("sparseness", gini), ("relevance_mass", None))
    ]
    table = Table(tuple(records), tuple(answers("none", right, labels) + answers("l1-0.1", wrong, labels)))
    found = judged(table, {"none": ("none", 0.0), "l1-0.1": ("l1", 0.1)}, margin=0.01)
    first, second = found.points
    assert (first.auc.mean, second.auc.mean) == (1.0, 15 / 16)
    assert (first.error, first.change.verdict) == (0.0, "non-inferior")
    assert second.change.difference == pytest.approx(-1 / 16)
    assert second.change.verdict == "inconclusive"
    assert (first.sparseness.mean, second.sparseness.mean) == pytest.approx((0.4, 0.8))
    assert first.localisation is None
    assert first.log_loss.mean == pytest.approx(np.mean(np.log1p(np.exp(-np.abs(np.arange(8) - 3.5)))))
    assert (found.one_error, found.non_inferior) == ("none", "none")
    assert str(found).splitlines()[1].split()[0] == "none"
    assert str(found).splitlines()[1].endswith("1 SE and NI")


def test_the_error_is_that_of_hanley_and_mcneil() -> None:
    """Their formula of 1982 for the standard error of an AUC from exponential scores, on 400 such."""
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1], 200)
    scores = generator.exponential(1 + 2.0 * labels)
    table = Table(
        tuple(Record("s0", "p0", "none", "evidence", metric) for metric in ("sparseness", "relevance_mass")),
        tuple(answers("none", np.stack([np.zeros(400), scores], 1), labels)),
    )
    (found,) = judged(table, {"none": ("none", 0.0)}, margin=0.01).points
    a = found.auc.mean
    variance = a * (1 - a) + 199 * (a / (2 - a) - a**2) + 199 * (2 * a**2 / (1 + a) - a**2)
    assert found.error == pytest.approx((variance / 200**2) ** 0.5, rel=0.1)


def test_one_class_has_no_area() -> None:
    table = Table(
        tuple(Record("s0", "p0", "none", "evidence", metric) for metric in ("sparseness", "relevance_mass")),
        tuple(answers("none", np.zeros((3, 2)), np.zeros(3, int))),
    )
    with pytest.raises(OptionError, match="no AUC"):
        judged(table, {"none": ("none", 0.0)}, margin=0.01)


def test_temperatures_are_fitted_on_the_other_half() -> None:
    """Logits that are five times too large are mended; a half that is as it should be is not spoilt by itself."""
    generator = np.random.default_rng(0)
    truth = generator.normal(size=4000) * 2
    labels = (generator.random(4000) < 1 / (1 + np.exp(-truth))).astype(int)
    logits = np.stack([np.zeros(4000), truth], 1)
    groups = [f"p{k // 2}" for k in range(4000)]
    assert recalibrated(logits * 5, labels, groups) == pytest.approx(recalibrated(logits, labels, groups), abs=1e-3)
    assert recalibrated(logits * 5, labels, groups) < 0.03
    # Where only one half is wrong, each is divided by what fits the other.
    odd = np.array([sorted(set(groups)).index(g) % 2 == 1 for g in groups])
    mixed = np.where(odd[:, None], logits, logits * 5)
    assert recalibrated(mixed, labels, groups) > 0.1


def drawn(**recipe: object) -> Study:
    made = TrainingConfig(**{"epochs": 1, "batch_size": 8, "lr": 0.01, "device": "cpu", "val_fraction": 0.5, **recipe})
    return Study("lesionlab:fundus", {"n_images": 24, "size": 64}, "pellucid:s8", None, 0, False, False, made)


def test_a_small_sweep_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def again() -> dict[str, bytes]:
        sweep(drawn(), tmp_path, ["l1"], [0.5], progress=False, say=lambda _: None)
        return {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}

    files = again()
    assert set(files) == {"sweep.json", "sweep.csv", "sparseness.svg", "localisation.svg"}
    stored = json.loads(files["sweep.json"])
    assert [r["name"] for r in stored["runs"]] == ["none", "l1-0.5"]
    rows = list(csv.DictReader(files["sweep.csv"].decode().splitlines()))
    assert [float(r["auc"]) for r in rows] == [r["auc"]["mean"] for r in stored["runs"]]
    held = Run.load(tmp_path / "none").held_out
    for name in ("none", "l1-0.5"):
        run = Run.load(tmp_path / name)
        assert run.held_out == held
        assert run.last("val_auc") == pytest.approx(next(float(r["auc"]) for r in rows if r["run"] == name), abs=1e-9)
        parts = [json.loads(p.read_text()) for p in (tmp_path / "validation" / name).glob("*-*.json")]
        assert {r["sample"] for part in parts for r in part["records"]} == set(held)  # and nothing else is judged

    # Stopped while the second was trained, and before the first was judged.
    weights = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/model.safetensors")}
    (tmp_path / "l1-0.5" / "manifest.json").unlink()
    for part in (tmp_path / "validation" / "none").glob("*.done"):
        part.unlink()
    for name in files:
        (tmp_path / name).unlink()
    assert again() == files
    assert {p for p, t in weights.items() if p.stat().st_mtime_ns != t} == {tmp_path / "l1-0.5" / "model.safetensors"}


def test_a_sweep_chooses_on_the_published_validation_part(tmp_path: Path) -> None:
    study = replace(drawn(val_fraction=0.0), validation="val")
    sweep(study, tmp_path, ["l1"], [0.5], progress=False, say=lambda _: None)
    shown = LesionLab(n_images=24, size=64, split="val")
    parts = [json.loads(p.read_text()) for p in (tmp_path / "validation" / "l1-0.5").glob("*-*.json")]
    assert {r["sample"] for part in parts for r in part["records"]} == {shown.facts(i).name for i in range(24)}
    assert Run.load(tmp_path / "none").validation == shown.fingerprint


def test_what_cannot_be_swept(tmp_path: Path) -> None:
    for study, message in (
        (drawn(val_fraction=0.0), "Nothing is held out"),
        (replace(drawn(), folds=5), "what the result is judged on"),
        (replace(drawn(), black_box=True), "no evidence"),
        (replace(drawn(), probe=True), "no evidence"),
    ):
        with pytest.raises(OptionError) as caught:
            sweep(study, tmp_path, say=lambda _: None)
        assert message in caught.value.why
    assert not list(tmp_path.iterdir())
