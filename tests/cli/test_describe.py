"""`pellucid describe`: a table and a tree, for a run and for a network on other data, and the tree in the run's report."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from cli.kit import Ended, Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two folds on a few drawn images."""
    from pellucid.study import Study, open_study, seal, train_fold
    from pellucid.training.config import TrainingConfig

    out = tmp_path_factory.mktemp("runs") / "eyes"
    recipe = TrainingConfig(epochs=2, batch_size=8, lr=1e-2)
    study = Study("lesionlab:fundus", {"n_images": 48, "size": 64}, "pellucid:s8", None, 2, False, False, recipe)
    data = open_study(study, out)
    for fold in data.folds:
        train_fold(study, data, fold, out, progress=False)
    seal(out)
    return out


@pytest.fixture
def describe(run: Run) -> Run:
    def call(*arguments: object) -> Ended:
        ended = run("describe", *arguments)
        assert ended.code == 0, ended.err
        return ended

    return call


def test_a_run_its_tree_and_its_report(describe: Run, run: Run, trained: Path, tmp_path: Path) -> None:
    out = shutil.copytree(trained, tmp_path / "eyes")
    ended = describe(out)
    assert "answers as the network does" in ended.out
    rows = list(csv.DictReader((out / "describe" / "descriptors.csv").read_text().splitlines()))
    assert len({r["sample"] for r in rows}) == 48
    assert (out / "describe" / "tree.svg").read_bytes().startswith(b"<?xml")
    judged = json.loads((out / "describe" / "tree.json").read_text())["standing"]
    assert judged["fidelity"]["n"] == 48
    assert describe(out, "--json").json["standing"] == judged
    assert run("verify", out).code == 0

    assert run("evaluate", out, "--methods", "evidence,random_map", "--metrics", "sparseness", "-q").code == 0
    assert run("report", out, "--cases", 0).code == 0
    page = (out / "report.html").read_text()
    assert "A tree that reads the evidence" in page
    assert f"pellucid describe {out}" in page
    assert run("verify", out).code == 0
    path = out / "describe" / "descriptors.csv"
    path.write_bytes(path.read_bytes().replace(b"lesion", b"lesson", 1))
    assert run("verify", out).code == 5


def test_a_network_on_data_it_has_not_seen(describe: Run, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("lesionlab:fundus", "--model", trained / "fold-0", "n_images=40", "split=test", "--out", out)
    ended = describe(*words, "--depth", 2, "--learn", "labels", "--json")
    assert ended.json["tree"]["learned"] == "labels"
    assert ended.json["standing"]["accuracy"]["n"] == 40
    assert sorted(p.name for p in out.iterdir()) == ["descriptors.csv", "manifest.json", "tree.json", "tree.svg"]


def test_what_is_asked_wrongly_is_refused(run: Run, refused: Run, trained: Path, tmp_path: Path) -> None:
    assert "one network" not in refused(2, "describe", "lesionlab:fundus").err
    assert "fix:   Name one: --model FOLDER." in refused(2, "describe", "lesionlab:fundus").err
    refused(2, "describe", trained, "--model", trained / "fold-0")
    refused(2, "describe", trained, "size=32")
    refused(2, "describe", trained, "--learn", "truth")
    refused(3, "describe", tmp_path / "nowhere", "--model", trained / "fold-0")
    refused(3, "describe", "lesionlab:fundus", "--model", tmp_path / "nothing")
    refused(2, "describe", trained, "--out", trained / "fold-0")  # would be mixed up with a run
    assert run("describe", trained, "--dry-run").code == 0
    assert not (trained / "describe").exists()
