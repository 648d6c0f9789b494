"""`pellucid train` with several runs: seeds that are evaluated together, a sweep, and starting again."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest
import torch

import pellucid as pl
from cli.kit import Run, picture
from pellucid import plan

pytest.importorskip("lightning_fabric")

SMALL = ("lesionlab:fundus", "--model", "pellucid:s8", "--device", "cpu", "n_images=24", "size=64", "epochs=1", "batch_size=8", "lr=0.01")  # fmt: skip
CHEAP = ("--methods", "evidence", "--metrics", "sparseness", "--controls", "")


def test_seeds_are_evaluated_together(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "r"
    trained = run("train", *SMALL, "--folds", 2, "--seeds", 2, "--out", out)
    assert trained.code == 0, trained.err
    assert trained.out.strip().endswith(f"Next: pellucid evaluate {out}")
    assert run("evaluate", out, *CHEAP).code == 0
    scores = json.loads((out / "evaluate" / "scores.json").read_text())
    assert {p["model"] for p in scores["predictions"]} == {"SoftCAM, seed 0", "SoftCAM, seed 1"}
    found = json.loads((out / "seeds.json").read_text())["seeds"]
    for k in ("0", "1"):  # what was counted after the training, on another way
        mine = [p for p in scores["predictions"] if p["model"].endswith(f"seed {k}")]
        right = [p["label"] == max((0, 1), key=lambda c, p=p: p["probabilities"][c]) for p in mine]  # type: ignore[misc]
        assert sum(right) / 24 == pytest.approx(found[k]["accuracy"])
    assert run("verify", out / "evaluate").code == 0
    assert run("evaluate", out, "size=32").code == 2
    assert run("evaluate", out, "--model", out / "seed-0").code == 2


def test_a_sweep(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "r"
    ended = run("train", *SMALL, "--sweep", "--out", out, "penalty=l1", "strength=0.5", "val_fraction=0.5")
    assert ended.code == 0, ended.err
    assert f"{len(pl.Run.load(out / 'none').held_out)} samples are held out: so few choose badly." in ended.err
    stored = json.loads((out / "sweep.json").read_text())
    assert [r["name"] for r in stored["runs"]] == ["none", "l1-0.5"]
    told = re.search(r"--model (\S+)$", ended.out.strip())
    assert told is not None
    assert told[1] == str(out / stored["chosen"]["non_inferior"])
    assert pl.Run.load(told[1]).held_out
    assert run("verify", told[1]).code == 0
    assert run("evaluate", out).code == 2
    assert run("report", out).lines[-1] == f"fix:   Name one of its runs: {out / 'l1-0.5'}."


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("penalty=l11",), "Did you mean 'l1'?"),
        (("strength=a",), "For example strength=0.02,0.1,0.5."),
        (("strength=0.1,-1",), "For example strength=0.02,0.1,0.5."),
        (
            ("--folds", "3", "val_fraction=0.2"),
            "Leave out --folds, and set val_fraction=0.2 or, where the data come with such a part, --validation val.",
        ),
        (("--seeds", "2"), "Sweep first, then train what was chosen with --seeds."),
        (("--margin", "0", "val_fraction=0.2"), "For example --margin 0.01."),
        (("--black-box", "val_fraction=0.2"), "Leave out --probe and --black-box."),
    ],
)
def test_wrong_words_of_a_sweep(run: Run, tmp_path: Path, words: tuple[str, ...], hint: str) -> None:
    ended = run("train", *SMALL, "--sweep", "--out", tmp_path / "r", *words)
    assert (ended.code, ended.lines[-1]) == (2, f"fix:   {hint}")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("--nodes", "2"), 2, "Give all the same, for example --rdzv node1:29500."),
        (("--devices", "2", "--probe"), 2, "Leave them out."),
        (("--devices", "2", "--device", "cuda:0"), 2, "Use --device auto, cuda or cpu."),
        (("--devices", "64", "--device", "cuda"), 6, "Lower --devices, or use --device cpu."),
    ],
)
def test_processes_that_cannot_be(run: Run, tmp_path: Path, words: tuple[str, ...], code: int, hint: str) -> None:
    ended = run("train", *SMALL[:3], "n_images=8", "--out", tmp_path / "r", *words)
    assert (ended.code, ended.lines[-1]) == (code, f"fix:   {hint}")


def test_going_on_and_starting_again(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "r"

    def events(*words: str) -> list[str]:
        ended = run("train", *SMALL, "--out", out, *words)
        assert ended.code == 0, ended.err
        return [json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()]

    assert events() == events("--resume", "auto") == ["started", "epoch", "finished"]
    weights = (out / "model.safetensors").read_bytes()
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    assert events("--resume", "never") == ["started", "epoch", "finished"]
    assert (out / "model.safetensors").stat().st_mtime_ns > stamp
    assert (out / "model.safetensors").read_bytes() == weights
    assert run("verify", out).code == 0


@pytest.mark.parametrize("what", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_is_full_or_read_only(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: int) -> None:
    """At the fifth file: exit 6, and the same command goes on once there is room."""
    out, written, sync = tmp_path / "r", 0, os.fsync

    def fail(handle: int) -> None:
        nonlocal written
        written += 1
        if written == 5:
            raise OSError(what, os.strerror(what))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fail)
    ended = run("train", *SMALL, "--out", out)
    assert ended.code == 6
    assert os.strerror(what) in ended.lines[-2]
    assert not (out / "lock").exists()
    assert not list(out.rglob("*.part"))
    assert run("train", *SMALL, "--out", out).code == 0
    assert run("verify", out).code == 0


def test_a_newcomer(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty pictures in two folders, and no word besides; then what the command line proposes."""
    for k in range(40):
        picture(tmp_path / "photos" / ("cats", "dogs")[k % 2] / f"{k}.png", seed=100 * (k % 2) + k, side=32)
    monkeypatch.setattr(plan, "STEPS", 20)  # fewer than are proposed: this is about the way
    monkeypatch.chdir(tmp_path)
    ended = run("train", "photos")
    assert ended.code == 0, ended.err
    assert "pellucid:s8 for inputs of 3 x 32 x 32" in ended.err
    assert "multiclass, 2 classes" in ended.err
    assert "5 folds" in ended.err
    assert "patients are not known" in ended.err
    assert "with two labels" not in ended.err
    assert ended.out.strip() == "Wrote runs/train/ (5 networks).  Next: pellucid evaluate runs/train"
    assert run("evaluate", "runs/train", *CHEAP).code == 0
    scores = json.loads(Path("runs/train/evaluate/scores.json").read_text())
    assert len({p["sample"] for p in scores["predictions"]}) == 40
    ended = run("report", "runs/train", "--cases", 1)
    assert ended.code == 0, ended.err
    assert "SoftCAM on photos" in Path("runs/train/report.html").read_text()
    assert run("explain", "photos/cats/0.png", "--model", "runs/train/fold-0").code == 0
    assert run("verify", "runs/train").code == 0


def test_evidence_at_an_earlier_layer_with_cells_that_see_little(run: Run, tmp_path: Path) -> None:
    words = ("train", "lesionlab:fundus", "--model", "torchvision:resnet18", "n_images=8", "size=64", "epochs=1", "batch_size=4")  # fmt: skip
    narrow = run(*words, "--tap", "layer3", "--local-after", "layer1", "--out", tmp_path / "a", "penalty=l1", "strength=0.1")  # fmt: skip
    assert narrow.code == 0, narrow.err
    x = torch.randn(2, 3, 64, 64)
    e = pl.explain(pl.load(tmp_path / "a"), x)
    assert (tuple(e.map.shape[1:]), e.geometry.receptive_field) == ((16, 16), (43.0, 43.0))
    study = json.loads((tmp_path / "a" / "study.json").read_text())
    assert (study["layers"], study["besides"], study["local_after"]) == (["layer3"], False, "layer1")
    assert run(*words, "--tap", "layer3", "--local-after", "layer1", "--out", tmp_path / "a", "penalty=l1", "strength=0.1").code == 0  # fmt: skip
    several = run(*words, "--scale", "layer2", "--scale", "layer3", "--out", tmp_path / "b")
    assert several.code == 0, several.err
    made = pl.load(tmp_path / "b")
    assert [scale.name for scale in made.scales(x)][:2] == ["layer2", "layer3"]  # type: ignore[operator, union-attr]
    assert len(made.scales(x)) == 3  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tap", "layer3", "--scale", "layer2"), "--tap and --scale exclude each other"),
        (("--tap", "layer3", "--black-box"), "for trained evidence"),
        (("--scale", "layer3", "--probe"), "for trained evidence"),
        (("--tap", "layer9"), "no layer 'layer9'"),
        (("--local-after", "layer9"), "no layer 'layer9'"),
    ],
)
def test_layers_that_cannot_be(run: Run, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    ended = run("train", "lesionlab:fundus", "--model", "torchvision:resnet18", "--out", tmp_path / "r", *words, "n_images=8", "size=64")  # fmt: skip
    assert ended.code == 2
    assert message in ended.err
