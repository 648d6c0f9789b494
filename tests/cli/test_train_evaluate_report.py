"""The road of the command line, end to end, on very little data."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import pellucid as pl
from cli.kit import Ended, Run, picture
from pellucid.controls import CONTROLS
from pellucid.methods import COMPARED
from pellucid.models import storage

SMALL = ("size=64", "epochs=1", "batch_size=8", "lr=0.01")


@pytest.fixture
def go(run: Run) -> Run:
    def call(*arguments: object) -> Ended:
        ended = run(*arguments)
        assert ended.code == 0, ended.err
        return ended

    return call


def test_folds_of_drawn_images_to_the_report(
    go: Run, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    words = ("train", "lesionlab:fundus", "--model", "pellucid:s8", "--folds", 2, "--out", out, "n_images=24", *SMALL)
    ended = go(*words, "penalty=l1", "strength=0.1")
    assert f"pellucid evaluate {out}" in ended.out
    weights = {p: p.read_bytes() for p in out.glob("fold-*/model.safetensors")}
    assert len(weights) == 2

    ended = go("evaluate", out, "--metrics", "pointing_game,sparseness", "pointing_game.tolerance=4", "--batch-size", 8)
    assert "balanced_accuracy" in ended.out
    scores = json.loads((out / "evaluate" / "scores.json").read_text())
    predicted = [p["sample"] for p in scores["predictions"]]
    assert len(predicted) == len(set(predicted)) == 24  # out of fold: everyone once
    split = json.loads((out / "splits.json").read_text())["parts"]
    assert all(p["sample"] in split[str(p["fold"])] for p in scores["predictions"])
    assert {r["method"] for r in scores["records"]} == {*COMPARED, *CONTROLS}
    table = list(csv.DictReader((out / "evaluate" / "scores.csv").read_text().splitlines()))
    assert len(table) == len(scores["records"])

    go("report", out, "--cases", 2)
    page = (out / "report.html").read_text()
    assert "SoftCAM on lesionlab:fundus" in page
    assert "random_map" in page
    go("verify", out)

    # Again: nothing is trained twice, and a part that was lost comes back to the same bytes.
    first = (out / "evaluate" / "scores.json").read_bytes()
    go(*words, "penalty=l1", "strength=0.1")
    assert weights == {p: p.read_bytes() for p in out.glob("fold-*/model.safetensors")}
    lost = sorted((out / "evaluate" / "fold-1").glob("*.done"))[0]
    lost.unlink()
    lost.with_suffix(".json").unlink()
    assert run("verify", out).code == 5  # it is missing now
    go("evaluate", out, "--metrics", "pointing_game,sparseness", "pointing_game.tolerance=4", "--batch-size", 8)
    assert (out / "evaluate" / "scores.json").read_bytes() == first
    go("verify", out)

    # Other settings do not mix with what is there.
    ended = run(*words, "penalty=l2", "strength=0.1")
    assert ended.code == 2
    assert "recipe" in ended.lines[-2]
    assert run("evaluate", out, "--metrics", "sparseness").code == 2
    assert run("evaluate", out, "size=32").code == 2
    assert run("evaluate", out, "--model", out / "fold-0").code == 2
    ended = run("explain", "lesionlab:fundus", "--model", out)
    assert (ended.code, ended.lines[-1]) == (2, f"fix:   Name one: {out / 'fold-0'}")

    # One bit anywhere in what was sealed.
    for name in (
        "study.json",
        "splits.json",
        "report.html",
        "evaluate/scores.json",
        "fold-0/model.safetensors",
        "fold-1/metrics.csv",
    ):
        path = out / name
        whole = path.read_bytes()
        path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
        assert run("verify", out).code == 5, name
        path.write_bytes(whole)

    # The trained networks read pictures as they were trained to.
    monkeypatch.chdir(tmp_path)
    go("explain", "lesionlab:fundus", "--model", out / "fold-0", "n_images=1", "split=test")
    assert json.loads(Path("explained/index.json").read_text())["reading"]["size"] == 64


def test_a_table_with_masks_and_a_probe(go: Run, run: Run, tmp_path: Path) -> None:
    """A frozen network with a linear probe, on files that move to another place afterwards."""
    rows = ["file,label,who,mask"]
    for k in range(12):
        picture(tmp_path / "study" / "in" / f"{k}.png", k % 2 * 3 + k, side=64)
        mask = np.zeros((72, 64), np.uint8)
        mask[10 : 20 + k, 10:40] = 1 + k % 2
        from PIL import Image

        Image.fromarray(mask).save(tmp_path / "study" / "in" / f"{k}-mask.png")
        rows.append(f"in/{k}.png,{'odd' if k % 2 else 'even'},p{k // 2 if k < 4 else k},in/{k}-mask.png")
    (tmp_path / "study" / "t.csv").write_text("\n".join(rows))
    out = tmp_path / "study" / "r"
    go(
        "train",
        tmp_path / "study" / "t.csv",
        "--model",
        "pellucid:s8",
        "--folds",
        2,
        "--probe",
        "--out",
        out,
        "path=file",
        "group=who",
        "mask_values=1",
        "size=64",
    )
    refused = run(
        "train",
        tmp_path / "study" / "t.csv",
        "--model",
        "pellucid:s8",
        "--probe",
        "--out",
        out,
        "path=file",
        "epochs=3",
    )
    assert refused.code == 2
    probe = pl.load(out / "fold-0")
    assert probe.preprocessing["size"] == 64
    assert probe.classes == ("even", "odd")

    moved = shutil.move(tmp_path / "study", tmp_path / "elsewhere") / Path("r")
    ended = go("evaluate", moved, "--metrics", "relevance_mass", "--methods", "evidence,random_map", "--json")
    found = ended.json
    assert {r["model"] for r in found["performance"]} == {"linear probe"}
    assert found["failures"] == []
    assert all(r["n"] + r["undefined"] == 12 for r in found["scores"])
    # Rows of the class "even" have masks of value 2 only: there is nothing of value 1 to find.
    assert all(r["undefined"] == 6 for r in found["scores"] if r["metric"] == "relevance_mass")
    go("report", moved, "--out", tmp_path, "--title", "My title", "--json")
    page = (tmp_path / "report.html").read_text()
    assert "My title" in page
    go("verify", moved)

    # A changed picture is another data set.
    picture(tmp_path / "elsewhere" / "in" / "3.png", 99, side=64)
    ended = run("evaluate", moved)
    assert ended.code == 3
    assert "have changed" in ended.lines[-3]


def test_one_network_on_everything(go: Run, run: Run, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    (labelled / "dark" / "hidden").mkdir(exist_ok=True)
    ended = go("train", labelled, "--model", "pellucid:s8", "--out", out, *SMALL, "--json")
    assert ended.json == {"runs": [str(out)]}
    ended = run("evaluate", out)
    assert ended.code == 2  # it has seen all of it
    assert "--folds 5" in ended.lines[-1]
    go(
        "evaluate",
        labelled,
        "--model",
        out,
        "--out",
        tmp_path / "e",
        "--methods",
        "evidence",
        "--metrics",
        "completeness_residual",
        "--controls",
        "",
    )
    scores = json.loads((tmp_path / "e" / "evaluate" / "scores.json").read_text())
    assert len(scores["records"]) == 12
    assert all(abs(r["value"]) < 1e-5 for r in scores["records"])
    go("verify", out)
    go("verify", tmp_path / "e")
    assert run("report", tmp_path / "e").code == 3


def test_a_black_box_with_bad_files(go: Run, run: Run, labelled: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(labelled, tmp_path / "in")
    (folder / "dark" / "0.png").write_text("words")
    out = tmp_path / "r"
    go("train", folder, "--model", "pellucid:s8", "--black-box", "--out", out, *SMALL)
    assert list(pl.Run.load(out).skipped) == ["dark/0.png"]
    words = (
        "evaluate",
        folder,
        "--model",
        out,
        "--out",
        tmp_path / "e",
        "--methods",
        "evidence,saliency",
        "--metrics",
        "sparseness",
    )
    ended = go(*words)
    assert "dark/0.png: failed:" in ended.err
    records = json.loads((tmp_path / "e" / "evaluate" / "scores.json").read_text())["records"]
    assert {r["method"] for r in records} == {"", "saliency", *CONTROLS}  # a black box has no evidence
    assert run(*words, "--max-bad", 0.01).code == 3


def test_the_order_of_classes_is_the_networks(go: Run, run: Run, model: Path, tmp_path: Path) -> None:
    """A table that names fewer classes is read in the network's order; unknown classes are refused."""
    for k in range(3):
        picture(tmp_path / f"{k}.png", k)
    table = tmp_path / "t.csv"
    table.write_text("path,label\n0.png,plum\n1.png,pear\n2.png,plum\n")
    words = ("--model", model, "--out", tmp_path / "e", "--methods", "evidence", "--metrics", "sparseness", "--quiet")
    go("evaluate", table, *words)
    scores = json.loads((tmp_path / "e" / "evaluate" / "scores.json").read_text())
    assert [p["label"] for p in scores["predictions"]] == [2, 1, 2]
    network = pl.load(model)
    x = torch.stack([pl.open_data(tmp_path / f"{k}.png", **network.preprocessing)[0].input for k in range(3)])
    with torch.no_grad():
        wanted = network(x).softmax(1)
    np.testing.assert_allclose([p["probabilities"] for p in scores["predictions"]], wanted, atol=1e-5)
    table.write_text("path,label\n0.png,plumm\n1.png,pear\n")
    ended = run("evaluate", table, *words)
    assert (ended.code, ended.lines[-1]) == (2, "fix:   Did you mean 'plum'?")


def test_data_without_labels_are_scored_for_the_answer(
    go: Run, run: Run, model: Path, pictures: Path, tmp_path: Path
) -> None:
    words = (
        "evaluate",
        pictures,
        "--model",
        model,
        "--out",
        tmp_path / "e",
        "--methods",
        "evidence",
        "--metrics",
        "sparseness",
        "--quiet",
    )
    assert run(*words).code == 2
    ended = go(*words, "--target", "predicted", "--json")
    assert ended.json["performance"] == []
    assert ended.json["scores"][0]["n"] == 20


def test_networks_that_read_differently_are_not_mixed(run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    other = pl.load(model)
    other.preprocessing = {"size": 32}
    storage.save_model(other, tmp_path / "other")
    ended = run("evaluate", pictures, "--model", model, "--model", tmp_path / "other", "--out", tmp_path / "e")
    assert ended.code == 2
    assert "crop, size" in ended.lines[-2]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["pointing_gme.tolerance=3"], "Did you mean 'pointing_game'?"),
        (["pointing_game.tolerence=3"], "Did you mean 'tolerance'?"),
        (["sise=3"], "Did you mean 'size'?"),
        (["--metrics", "sparsenes"], "Did you mean 'sparseness'?"),
        (["--methods", "evidense"], "Did you mean 'evidence'?"),
        (["--target", "best"], "Choose 'label' or 'predicted'."),
    ],
)
def test_wrong_words_of_evaluate(
    refused: Run, model: Path, pictures: Path, tmp_path: Path, words: list[str], hint: str
) -> None:
    ended = refused(2, "evaluate", pictures, "--model", model, "--out", tmp_path, *words)
    assert ended.lines[-1] == f"fix:   {hint}"


def test_wrong_words_of_train(refused: Run, pictures: Path, tmp_path: Path) -> None:
    words = ("train", "lesionlab:fundus", "--model", "pellucid:s8", "--out", tmp_path / "r")
    assert refused(2, *words, "epohs=3").lines[-1] == "fix:   Did you mean 'epochs'?"
    assert refused(2, *words, "schedule=cosin").lines[-1] == "fix:   Did you mean 'cosine'?"
    refused(2, *words, "--probe", "--black-box")
    refused(2, *words[:2], "--model", "pellucid:s9")
    refused(3, "train", pictures, "--model", "pellucid:s8", "--out", tmp_path / "r")  # no labels
    refused(3, *words, "n_images=8", "size=64", "--folds", 7)  # too few patients
    assert not (tmp_path / "r" / "model.json").exists()


def test_a_network_that_is_no_softcam_may_be_trained_all_the_same(refused: Run, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    words = (
        "train",
        "lesionlab:fundus",
        "--model",
        "torchvision:vit_b_32",
        "--out",
        tmp_path / "r",
        "n_images=4",
        "size=224",
    )
    assert "--black-box" in refused(2, *words, "--quiet").lines[-1]


def test_dry_runs_do_nothing(go: Run, model: Path, tmp_path: Path) -> None:
    go("train", "lesionlab:fundus", "--model", "pellucid:s8", "--out", tmp_path / "r", "--dry-run", "epochs=3")
    go("evaluate", "lesionlab:fundus", "--model", model, "--out", tmp_path / "e", "--dry-run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_its_own_split_trains_on_one_part_and_chooses_on_another(go: Run, tmp_path: Path) -> None:
    for part, count in (("train", 12), ("val", 6), ("test", 4)):
        for label in ("apple", "pear"):
            for k in range(count):
                picture(
                    tmp_path / "d" / part / label / f"{part}{k}.png", seed=k + 7 * len(label) + 100 * count, side=40
                )
    ended = go("train", tmp_path / "d", "--out", tmp_path / "r", "epochs=2")
    assert "the part 'val'" in ended.out + ended.err
    study = json.loads((tmp_path / "r" / "study.json").read_text())
    assert (study["validation"], study["folds"], study["recipe"]["keep_best"]) == ("val", 0, "val_loss")
    run = pl.Run.load(tmp_path / "r")
    assert run.held_out == ()
    assert "val_auc" in run.history[-1]
    go(
        "evaluate",
        tmp_path / "d",
        "--model",
        tmp_path / "r",
        "--out",
        tmp_path / "e",
        "split=test",
        "--methods",
        "evidence",
    )
    scores = json.loads((tmp_path / "e" / "evaluate" / "scores.json").read_text())
    assert {Path(p["sample"]).name[:4] for p in scores["predictions"]} == {"test"}
