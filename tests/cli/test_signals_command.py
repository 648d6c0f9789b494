"""The road of the command line for time series, end to end, on very little data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pellucid as pl
from cli.kit import Ended, Run
from pellucid.methods import COMPARED


def written(path: Path, count: int, seed: int = 0, channels: int = 1) -> Path:
    """Noise with a bump early (class up) or late (class down)."""
    chance = np.random.default_rng(seed)
    rows = []
    for k in range(count):
        x = 0.2 * chance.standard_normal((channels, 64))
        x[:, 8 + 32 * (k % 2) : 20 + 32 * (k % 2)] += 2
        rows.append(":".join(",".join(f"{v:.4f}" for v in line) for line in x) + ":" + ("up", "down")[k % 2])
    head = f"@univariate {str(channels == 1).lower()}\n@dimensions {channels}\n@classLabel true up down\n@data\n"
    path.write_text(head + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def go(run: Run) -> Run:
    def call(*arguments: object) -> Ended:
        ended = run(*arguments)
        assert ended.code == 0, ended.err
        return ended

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `s.ts` and a run of two folds on it."""
    from pellucid.cli import main

    place = tmp_path_factory.mktemp("signals")
    written(place / "s.ts", 32)
    words = ("train", f"ucr:{place / 's.ts'}", "--model", "pellucid:s8", "--folds", "2", "--out", str(place / "r"), "--quiet")  # fmt: skip
    recipe = ("epochs=8", "batch_size=8", "lr=0.02", "rate=32", "names={up: rise, down: fall}", "penalty=l1", "strength=0.05")  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main([*words, *recipe])
    assert not stop.value.code
    return place


def test_train_evaluate_report(go: Run, trained: Path, tmp_path: Path) -> None:
    """Every sample is scored once, by the network that did not see it; the run may move together with its data."""
    place = Path(shutil.copytree(trained, tmp_path / "moved"))
    go("evaluate", place / "r", "--methods", "evidence,grad_cam,saliency,occlusion,lrp,random_map", "--metrics", "deletion,completeness_residual")  # fmt: skip
    scores = json.loads((place / "r" / "evaluate" / "scores.json").read_text())
    assert len({p["sample"] for p in scores["predictions"]}) == len(scores["predictions"]) == 32
    accuracy = next(r["mean"] for r in scores["performance"] if r["metric"] == "accuracy")
    assert accuracy > 0.9  # the bump is easy to see
    residuals = [r["value"] for r in scores["records"] if r["method"] == "evidence" and r["metric"].startswith("compl")]
    assert len(residuals) == 32
    assert max(abs(r) for r in residuals) < 1e-5
    go("report", place / "r", "--cases", 2)
    page = (place / "r" / "report.html").read_text()
    assert "where (samples)" in page
    assert "where (pixels)" not in page
    assert "rise against fall" in page or "fall against rise" in page
    go("verify", place / "r")


def test_explain_reads_as_in_training_and_draws_time(go: Run, trained: Path, tmp_path: Path) -> None:
    more, out = written(tmp_path / "more.ts", 4, seed=1), tmp_path / "out"
    ended = go("explain", more, "--model", trained / "r" / "fold-0", "--out", out, "--json")
    assert ended.json["reading"]["rate"] == 32
    assert [row["prediction"] for row in ended.json["explained"]] == ["rise", "fall"] * 2
    kept = pl.Explanation.load(out / "more-1")
    assert kept.provenance["preprocessing"]["rate"] == 32
    assert kept.geometry.input_size == (64,)
    values, pixels = kept.at_input_size()[0], np.asarray(Image.open(out / "more-1.png"), dtype=int)
    assert float(values[:32].sum()) > float(values[32:].sum())  # the bump is early
    assert ((pixels[..., 0] - pixels[..., 2]) > 60).sum() > 500  # orange
    go("explain", more, "--model", trained / "r" / "fold-0", "--out", out, "rate=2", "unit=h")
    assert pl.Explanation.load(out / "more-1").provenance["preprocessing"]["unit"] == "h"


@pytest.mark.parametrize("method", [*COMPARED, "occlusion", "rise"])
def test_explain_with_a_method(go: Run, trained: Path, tmp_path: Path, method: str) -> None:
    go("explain", written(tmp_path / "one.ts", 1), "--model", trained / "r" / "fold-1", "--out", tmp_path / "o", "--method", method)  # fmt: skip
    with Image.open(tmp_path / "o" / "one-1.png") as picture:
        assert picture.width > 600
        assert len(picture.getcolors(1 << 20) or ()) > 50


def test_bad_lines_are_skipped_and_listed(go: Run, run: Run, trained: Path, tmp_path: Path) -> None:
    rows = written(tmp_path / "bad.ts", 20).read_text().splitlines()
    rows[6] = rows[6].replace("up", "sideways")
    (tmp_path / "bad.ts").write_text("\n".join(rows))
    ended = go("explain", tmp_path / "bad.ts", "--model", trained / "r" / "fold-0", "--out", tmp_path / "o")
    assert "skipped bad-03: bad.ts, line 7" in ended.err
    words = ("evaluate", tmp_path / "bad.ts", "--model", trained / "r" / "fold-0", "--out", tmp_path / "e", "--methods", "evidence", "--metrics", "sparseness")  # fmt: skip
    assert "bad-03: failed" in go(*words).err
    assert run(*words, "--max-bad", 0.01).code == 3


def test_several_channels_make_a_network_of_as_many(go: Run, tmp_path: Path) -> None:
    source = written(tmp_path / "two.ts", 12, channels=2)
    go("train", source, "--model", "pellucid:bagnet9", "--out", tmp_path / "r", "epochs=1", "batch_size=6")
    network = pl.load(tmp_path / "r")
    assert network(torch.zeros(1, 2, 64)).shape == (1, 2)
    assert network.preprocessing["normalise"] == "none"
    go("explain", source, "--model", tmp_path / "r", "--out", tmp_path / "o")


def test_a_black_box_keeps_its_clock_when_it_is_converted(go: Run, trained: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "s.ts", 12)
    go("train", source, "--model", "pellucid:s8", "--black-box", "--out", tmp_path / "r", "epochs=1", "batch_size=6", "rate=100")  # fmt: skip
    ended = go("explain", source, "--model", tmp_path / "r", "--out", tmp_path / "o")
    assert "converted exactly" in ended.err
    assert pl.Explanation.load(tmp_path / "o" / "s-01").provenance["preprocessing"]["rate"] == 100


def test_what_cannot_go_together_is_said(refused: Run, go: Run, trained: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "s.ts", 4)
    ended = refused(3, "train", source, "--model", "torchvision:mobilenet_v2", "--out", tmp_path / "r")
    assert "pellucid:s8" in ended.lines[-1]
    refused(3, "train", tmp_path / "none.ts", "--model", "pellucid:s8", "--out", tmp_path / "r")
    (tmp_path / "code.ts").write_text("export const a = 1;\n")
    refused(3, "explain", tmp_path / "code.ts", "--model", trained / "r" / "fold-0", "--out", tmp_path / "o")
    refused(2, "train", source, "--model", "pellucid:s8", "--out", tmp_path / "r", "rte=3")
    refused(2, "train", source, "--model", "pellucid:s8", "--out", tmp_path / "r", "augment=[vflip]")
    assert "(ucr)" in go("inspect", f"ucr:{source}", "--plan", tmp_path / "plan.json").out
