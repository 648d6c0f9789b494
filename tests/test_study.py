"""Studies: what is written down before training, which folds there are, and that none is mixed up with another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import evaluation
from pellucid.data import open_data
from pellucid.data.lesionlab import LesionLab
from pellucid.errors import BadInput, OptionError
from pellucid.models import storage
from pellucid.networks import open_saved
from pellucid.record import Table
from pellucid.study import Study, evaluate_out_of_fold, is_study, open_study, seal, train_fold
from pellucid.training.config import TrainingConfig
from pellucid.training.run import Run

CPU = torch.device("cpu")


def drawn(**changes: Any) -> Study:
    recipe = TrainingConfig(epochs=1, batch_size=8, device="cpu")
    known: dict[str, Any] = {
        "source": "lesionlab:fundus", "reading": {"n_images": 20, "size": 64}, "model": "pellucid:s8", "weights": None,
        "folds": 3, "probe": False, "black_box": False, "recipe": recipe,
    }  # fmt: skip
    return Study(**{**known, **changes})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Twelve small pictures of six patients."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["path,label,group"]
    for k in range(12):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{k}.png")
        rows.append(f"{k}.png,{'ab'[k // 2 % 2]},p{k // 2}")
    (folder / "t.csv").write_text("\n".join(rows))
    return folder / "t.csv"


def test_folds_part_the_patients(tmp_path: Path) -> None:
    data = open_study(drawn(), tmp_path)
    whole = {data.dataset.facts(i).name for i in range(20)}
    seen: list[str] = []
    for fold in data.folds:
        assert fold.test is not None
        groups = [{part.facts(i).group for i in range(len(part))} for part in (fold.train, fold.test)]
        names = [{part.facts(i).name for i in range(len(part))} for part in (fold.train, fold.test)]
        assert not groups[0] & groups[1]
        assert names[0] | names[1] == whole
        seen += names[1]
    assert sorted(seen) == sorted(whole)


def test_a_study_comes_back_as_it_was(tmp_path: Path) -> None:
    study = drawn(probe=True, recipe=TrainingConfig(epochs=3, penalty="l1", strength=0.1))
    open_study(study, tmp_path)
    assert is_study(tmp_path)
    assert Study.load(tmp_path) == study
    assert study.kind == "linear probe"
    assert (drawn().kind, drawn(black_box=True).kind) == ("SoftCAM", "black box")


def test_files_are_found_again_where_all_moved_together(table: Path, tmp_path: Path) -> None:
    study = drawn(source=str(table), reading={"size": 32}, folds=2)
    first = open_study(study, table.parent / "runs" / "one")
    moved = shutil.move(table.parent, tmp_path / "far" / "away")
    again = Study.load(Path(moved) / "runs" / "one")
    assert again.source == str(Path(moved).resolve() / "t.csv")
    opened = open_study(again, Path(moved) / "runs" / "one")
    assert [f.train.indices for f in opened.folds] == [f.train.indices for f in first.folds]
    assert opened.dataset.fingerprint == first.dataset.fingerprint
    shutil.move(Path(moved) / "runs", tmp_path / "runs")  # the run alone: its data are not there
    with pytest.raises(BadInput, match="no data source"):
        open_study(Study.load(tmp_path / "runs" / "one"), tmp_path / "runs" / "one")


def test_opening_again_writes_nothing(tmp_path: Path) -> None:
    open_study(drawn(), tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    open_study(drawn(), tmp_path)
    assert before == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "change",
    [
        {"folds": 2},
        {"model": "pellucid:s9"},
        {"black_box": True},
        {"reading": {"n_images": 20, "size": 64, "seed": 1}},
        {"recipe": TrainingConfig(epochs=2)},
    ],
)
def test_another_study_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    open_study(drawn(), tmp_path)
    (tmp_path / "fold-0").mkdir()
    (tmp_path / "fold-0" / "plan.json").write_text("{}")  # a training was begun
    with pytest.raises(OptionError, match="another study") as error:
        open_study(drawn(**change), tmp_path)
    assert next(iter(change)) in error.value.why


def test_a_study_of_which_nothing_was_trained_gives_way(tmp_path: Path) -> None:
    """A slip of the pen in the first command does not block the folder."""
    open_study(drawn(model="pellucid:s9"), tmp_path)
    opened = open_study(drawn(folds=2), tmp_path)
    assert len(opened.folds) == 2
    assert Study.load(tmp_path) == drawn(folds=2)


def test_folders_that_are_no_study(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no run"):
        Study.load(tmp_path)
    for text in ("{}", "[]", '{"source": "x", "recipe": {}, "more": 1}', "{"):
        (tmp_path / "study.json").write_text(text)
        with pytest.raises(BadInput):
            Study.load(tmp_path)


def test_data_that_changed_are_noticed(table: Path, tmp_path: Path) -> None:
    study = drawn(source=str(table), reading={"size": 32}, folds=2)
    open_study(study, tmp_path / "r")
    Image.new("RGB", (40, 40)).save(table.parent / "3.png")
    with pytest.raises(BadInput, match="have changed"):
        open_study(study, tmp_path / "r")


def test_how_pictures_were_read_stays_with_the_weights(table: Path, tmp_path: Path) -> None:
    """A trained network is given pictures as in training: same pixels from the same file."""
    study = drawn(
        source=str(table), reading={"size": [32, 48], "crop": "resize", "mean": [0.5, 0.5, 0.5]}, folds=0, probe=True
    )
    data = open_study(study, tmp_path / "r")
    folder = train_fold(study, data, data.folds[0], tmp_path / "r", progress=False)
    known = storage.load(folder).preprocessing
    again = open_data(table.parent / "3.png", **known)[0]
    assert torch.equal(again.input, data.dataset[3].input)


@pytest.mark.parametrize(
    ("source", "grey"), [("lesionlab:fundus", {}), ("lesionlab:oct", {}), ("lesionlab:oct", {"grey": True})]
)
def test_how_drawn_pictures_were_made_stays_with_the_weights(
    source: str, grey: dict[str, bool], tmp_path: Path
) -> None:
    sample = open_data(source, n_images=1, size=64, **grey)
    study = drawn(source=source, reading={"n_images": 20, "size": 64, **grey}, folds=0, probe=True)
    data = open_study(study, tmp_path / "s")
    known = storage.load(train_fold(study, data, data.folds[0], tmp_path / "s", progress=False)).preprocessing
    Image.fromarray(sample[0].image).save(tmp_path / "drawn.png")
    again = open_data(tmp_path / "drawn.png", **known)[0]
    half_a_level = 0.5 / 255 / min(known["std"]) + 1e-5
    torch.testing.assert_close(again.input, sample[0].input, rtol=0, atol=half_a_level)


def test_a_probe_is_fitted_once(tmp_path: Path) -> None:
    study = drawn(folds=2, probe=True)
    data = open_study(study, tmp_path)
    folder = train_fold(study, data, data.folds[1], tmp_path, progress=False)
    assert folder == tmp_path / "fold-1"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    train_fold(study, data, data.folds[1], tmp_path, progress=False)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_bad_first_file_does_not_stop_training(table: Path, tmp_path: Path) -> None:
    (table.parent / "0.png").write_text("words")
    study = drawn(source=str(table), reading={"size": 32}, folds=0)
    data = open_study(study, tmp_path / "r")
    folder = train_fold(study, data, data.folds[0], tmp_path / "r", progress=False)
    assert (folder / "model.safetensors").exists()


def test_out_of_fold_scores_are_those_of_the_network_that_did_not_see_the_sample(tmp_path: Path) -> None:
    study = drawn(folds=2, probe=True)
    data = open_study(study, tmp_path)
    for fold in data.folds:
        train_fold(study, data, fold, tmp_path, progress=False)
    steps: list[tuple[int, int]] = []
    chosen: dict[str, Any] = {"methods": [], "metrics": [], "batch_size": 5, "seed": 0}

    def scored() -> Table:
        return evaluate_out_of_fold(
            tmp_path, chosen, device=CPU, folder_out=tmp_path / "evaluate", progress=lambda d, t: steps.append((d, t))
        )

    found = scored()
    assert steps == [(k + 1, len(steps)) for k in range(len(steps))]
    networks = {k: storage.load(tmp_path / f"fold-{k}").eval() for k in range(2)}
    index = {data.dataset.facts(i).name: i for i in range(20)}
    assert len(found.predictions) == 20
    for p in found.predictions:
        assert p.fold is not None
        with torch.no_grad():
            wanted = networks[p.fold](data.dataset[index[p.sample]].input[None]).softmax(1)[0]
        assert p.probabilities == pytest.approx(wanted.tolist(), abs=1e-5)
        fold = data.folds[p.fold]
        assert p.sample not in {fold.train.facts(i).name for i in range(len(fold.train))}
    assert scored() == found


def test_the_seal_covers_the_study_and_nothing_else(tmp_path: Path) -> None:
    study = drawn(folds=2, probe=True)
    data = open_study(study, tmp_path)
    for fold in data.folds:
        train_fold(study, data, fold, tmp_path, progress=False)
    (tmp_path / "my notes.txt").write_text("mine")
    seal(tmp_path)
    assert sorted(storage.verify(tmp_path)) == [
        "fold-0/manifest.json",
        "fold-1/manifest.json",
        "splits.json",
        "study.json",
    ]
    known = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps({**known, "folds": 3}))
    with pytest.raises(Exception, match="damaged"):
        storage.verify(tmp_path)


def test_a_study_from_before_a_setting_existed_goes_on(tmp_path: Path) -> None:
    open_study(drawn(), tmp_path)
    path = tmp_path / "study.json"
    known = json.loads(path.read_text())
    for later in ("penalty_ramp", "trunk_lr", "split_seed", "track"):
        del known["recipe"][later]
    del known["validation"]
    path.write_text(json.dumps(known))
    (tmp_path / "fold-0").mkdir()
    (tmp_path / "fold-0" / "plan.json").write_text("{}")  # a training was begun
    assert len(open_study(drawn(), tmp_path).folds) == 3
    assert Study.load(tmp_path) == drawn()
    with pytest.raises(OptionError, match="another study"):
        open_study(drawn(recipe=TrainingConfig(epochs=1, batch_size=8, device="cpu", penalty_ramp=0.5)), tmp_path)


def test_the_published_part_named_chooses_the_weights(tmp_path: Path) -> None:
    recipe = TrainingConfig(epochs=2, batch_size=8, lr=0.01, device="cpu", keep_best="val_loss")
    study = drawn(folds=0, validation="val", recipe=recipe)
    data = open_study(study, tmp_path)
    shown = LesionLab(n_images=20, size=64, split="val")
    assert data.validation is not None
    assert data.validation.fingerprint == shown.fingerprint
    assert len(data.folds[0].train) == 20  # nothing of the training part is held out
    train_fold(study, data, data.folds[0], tmp_path, progress=False)
    run = Run.load(tmp_path)
    assert run.validation == shown.fingerprint
    chosen = min(run.history, key=lambda row: row["val_loss"])
    found = evaluation.evaluate(open_saved(str(tmp_path)), shown, methods=[], controls=[])
    answers = [np.log(p.probabilities[p.label]) for p in found.predictions]
    assert -np.mean(answers) == pytest.approx(chosen["val_loss"], rel=1e-4)
    assert run.best_epoch == chosen["epoch"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": "vall"}, "split 'vall'"),
        ({"validation": "val", "folds": 3}, "goes with one training"),
        ({"validation": "val", "probe": True}, "goes with one training"),
        ({"validation": "train"}, "would be the same part"),
    ],
)
def test_a_validation_part_that_cannot_be(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_study(drawn(**{"folds": 0, **change}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_without_parts_have_none_for_validation(table: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="does not come in parts") as caught:
        open_study(drawn(source=str(table), reading={"size": 64}, folds=0, validation="val"), tmp_path)
    assert "val_fraction" in caught.value.hint


def test_the_classes_of_a_validation_part_are_those_of_training(tmp_path: Path) -> None:
    for part, label in (("train", "a"), ("train", "b"), ("val", "b"), ("test", "a")):
        (tmp_path / "d" / part / label).mkdir(parents=True)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "d" / part / label / "0.png")
    data = open_study(drawn(source=str(tmp_path / "d"), reading={}, folds=0, validation="val"), tmp_path / "out")
    assert data.validation is not None
    assert data.validation.classes == ("a", "b")
    assert [data.validation.facts(i).label for i in range(len(data.validation))] == [1]
