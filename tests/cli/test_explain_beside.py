"""`pellucid explain` with words for others, further views and networks, erasing, and places that look alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pellucid as pl
from cli.kit import CLASSES, Ended, Run, small
from pellucid.models.convert import convert
from pellucid.models.zoo import build


@pytest.fixture
def explain(run: Run, model: Path, pictures: Path, tmp_path: Path) -> Run:
    def call(*more: object, model: object = model) -> Ended:
        ended = run("explain", pictures / "p03.png", "--model", model, "--out", tmp_path / "out", *more)
        assert ended.code == 0, ended.err
        assert run("verify", tmp_path / "out").code == 0
        return ended

    return call


def row(folder: Path) -> Any:
    return json.loads((folder / "out" / "index.json").read_text())["explained"][0]


def test_words_for_others(explain: Run, tmp_path: Path) -> None:
    name = row(tmp_path)["prediction"] if explain() else ""
    assert f"„{name}“" in explain("--text", "professional", "--language", "de").out
    assert "The computer's answer is" in explain("--text", "short").out
    assert "The computer's answer is" in row(tmp_path)["text"]


def test_views_and_erasing(explain: Run, tmp_path: Path) -> None:
    explain("--augment", "--erase", "--null", 19)
    found = row(tmp_path)
    assert found["spread"]["kind"] == "views"
    assert len(found["spread"]["members"]) == len(found["spread"]["scores"]) == 6
    assert found["spread"]["scores"][0] == pytest.approx(found["score"])
    assert found["null"]["draws"] == 19
    back = pl.Explanation.load(tmp_path / "out" / "p03.png")
    assert back.spread is not None
    if found["without_first_region"] is not None:
        assert back.erased is not None
        assert float(back.erased.score[0, 0]) == pytest.approx(found["without_first_region"]["score"])
    explain()
    assert row(tmp_path)["spread"] is None


def other(tmp_path: Path) -> Path:
    net = small()
    net.head.weight.data += 0.5 * torch.randn(net.head.weight.shape, generator=torch.Generator().manual_seed(1))
    made = convert(net, torch.randn(2, 3, 64, 64), classes=CLASSES)
    made.preprocessing = {"size": 64, "crop": "resize"}
    return made.save(tmp_path / "other")


def test_an_ensemble_is_explained_by_its_mean(explain: Run, model: Path, tmp_path: Path) -> None:
    second = other(tmp_path)
    explain("--target", "apple against pear", model=model)
    first = row(tmp_path)["score"]
    explain("--target", "apple against pear", model=second)
    assert row(tmp_path)["score"] != pytest.approx(first)
    both = (first + row(tmp_path)["score"]) / 2
    explain("--target", "apple against pear", "--ensemble", second)
    assert row(tmp_path)["score"] == pytest.approx(both, abs=1e-5)
    assert row(tmp_path)["spread"]["members"] == ["network 0, as it is", "network 1, as it is"]


def test_places_that_look_alike(explain: Run, pictures: Path, tmp_path: Path) -> None:
    explain("--like", pictures)
    found = row(tmp_path)["alike"]
    if found is None:
        pytest.skip("no region speaks for the answer")
    assert len(found["matches"]) == 5
    assert "p03.png" not in {m["sample"] for m in found["matches"]}
    with Image.open(tmp_path / "out" / "p03.png" / "alike.png") as shown:
        assert shown.width > 5 * 150
    explain()
    assert not (tmp_path / "out" / "p03.png" / "alike.png").exists()


def test_gated_attention_is_laid_open(explain: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build("pellucid:s8", num_classes=3, channels=(8, 8), strides=(2, 2), pooling="gated_attention")
    made = convert(net.eval(), torch.randn(2, 3, 64, 64), classes=CLASSES)
    made.preprocessing = {"size": 64, "crop": "resize"}
    explain(model=made.save(tmp_path / "gated"))
    with Image.open(tmp_path / "out" / "p03.png" / "attention.png") as shown:
        assert np.asarray(shown).std() > 5


def test_what_does_not_go_together_is_refused(refused: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    words = ("explain", pictures / "p03.png", "--model", model, "--out", tmp_path / "out")
    refused(2, *words, "--text", "kurz")
    refused(2, *words, "--language", "fr")
    refused(3, *words, "--ensemble", tmp_path / "nothing")
    refused(2, *words, "--ensemble", model, "--null", 19)
    refused(2, *words, "--ensemble", model, "--like", pictures)
    refused(3, *words, "--like", tmp_path / "nothing")
    two = convert(small(2), torch.randn(2, 3, 64, 64), classes=("a", "b"))
    ended = refused(2, *words, "--ensemble", two.save(tmp_path / "two"))
    assert "a, b against apple, pear, plum" in ended.err
    assert not (tmp_path / "out").exists()
