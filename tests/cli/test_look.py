"""`pellucid look`: pictures of a network's inside, and the numbers behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pellucid as pl
from cli.kit import CLASSES, Ended, Run, small
from pellucid.data.image_file import IMAGENET_MEAN, IMAGENET_STD, read_image
from pellucid.models import storage, zoo


@pytest.fixture
def look(run: Run, model: Path, tmp_path: Path) -> Run:
    def call(*more: object, model: object = model) -> Ended:
        ended = run("look", model, "--out", tmp_path / "out", *more)
        assert ended.code == 0, ended.err
        return ended

    return call


def told(folder: Path) -> Any:
    return json.loads((folder / "out" / "look.json").read_text())


def test_filters_alone_where_nothing_else_is_asked(look: Run, run: Run, model: Path, tmp_path: Path) -> None:
    ended = look()
    network = pl.load(model)
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    norms = [float(k.norm()) for k in first.weight.detach()]
    found = told(tmp_path)["views"]
    assert list(found) == ["filters"]
    assert found["filters"]["norms"] == pytest.approx(norms, rel=1e-5)
    assert found["filters"]["colour"]
    assert f"{len(norms)} filters" in ended.out
    with Image.open(tmp_path / "out" / "filters.png") as picture:
        assert min(picture.size) > 50
    assert run("verify", tmp_path / "out").code == 0


def test_with_an_input_its_channels_add_up_to_the_logit(look: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    file = pictures / "p03.png"
    ended = look("--input", file, "--target", "pear", "--json")
    found = told(tmp_path)
    assert ended.json == found
    assert sorted(found["views"]) == ["feature_maps", "filters"]
    maps = found["views"]["feature_maps"]
    row = maps["inputs"][0]
    with torch.no_grad():
        x = read_image(file, size=64, crop="resize").input[None]  # as the model's own preprocessing says
        logit = float(pl.load(model)(x)[0, CLASSES.index("pear")])
    assert (row["target"], maps["complete"]) == ("pear", True)
    assert row["score"] == pytest.approx(logit, abs=1e-5)
    assert sum(c["contribution"] for c in row["channels"]) + row["constant"] == pytest.approx(logit, abs=1e-4)
    values = [c["contribution"] for c in row["channels"]]
    assert values == sorted(values, reverse=True)
    assert (tmp_path / "out" / "feature_maps.png").stat().st_size > 1000


def test_what_excites_a_class(look: Run, model: Path, tmp_path: Path) -> None:
    look("--maximise", "plum, 0", "--view", "activation_maximisation", "--seed", 3, "steps=6", "smooth=1")
    first = (tmp_path / "out" / "activation_maximisation.png").read_bytes()
    rows = told(tmp_path)["views"]["activation_maximisation"]["maximised"]
    assert [r["name"] for r in rows] == ["plum", "apple"]
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    bounds = ((-mean / std).tolist(), ((1 - mean) / std).tolist())
    options: dict[str, Any] = {"steps": 6, "smooth": 1, "bounds": bounds, "colour": True}
    direct = pl.VIEWS["activation_maximisation"](
        pl.load(model), torch.zeros(1, 3, 64, 64), [2, 0], generator=torch.Generator().manual_seed(3), **options
    )
    assert [r["reached"] for r in rows] == pytest.approx(direct.reached.tolist(), abs=1e-3)
    look("--maximise", "plum, 0", "--view", "activation_maximisation", "--seed", 3, "steps=6", "smooth=1")
    assert (tmp_path / "out" / "activation_maximisation.png").read_bytes() == first


def test_channels_of_a_layer(look: Run, tmp_path: Path) -> None:
    network = small()
    layer = next(name for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    ended = look("--layer", f"model.{layer}", "--maximise", "1,4", "steps=3", "size=48")
    found = told(tmp_path)["views"]
    assert [r["name"] for r in found["activation_maximisation"]["maximised"]] == ["channel 1", "channel 4"]
    assert found["filters"]["layer"] == f"model.{layer}"
    assert "channel 4" in ended.out


def test_a_layer_named_for_its_responses_need_not_have_filters(look: Run, pictures: Path, tmp_path: Path) -> None:
    ended = look("--layer", "model.features", "--input", pictures, "--target", 0)
    assert "No filters" in ended.err
    assert "holds 20 inputs; the first is looked at" in ended.err
    assert list(told(tmp_path)["views"]) == ["feature_maps"]
    assert not (tmp_path / "out" / "filters.png").exists()


def test_a_look_replaces_the_one_before(look: Run, run: Run, pictures: Path, tmp_path: Path) -> None:
    look("--input", pictures / "p00.png")
    look()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["filters.png", "look.json", "manifest.json"]
    assert run("verify", tmp_path / "out").code == 0


def test_signals_need_a_size(look: Run, refused: Run, tmp_path: Path) -> None:
    options = {"num_classes": 2, "in_channels": 1, "rank": 1, "channels": (4, 4, 4), "strides": (2, 2, 2)}
    folder = storage.save_model(zoo.build("pellucid:s8", **options), tmp_path / "signal")  # type: ignore[arg-type]
    asked = ("--maximise", "1", "steps=4")
    assert "size=140" in refused(2, "look", folder, "--out", tmp_path / "out", *asked).err
    look(*asked, "size=64", model=folder)
    found = told(tmp_path)["views"]
    assert len(found["filters"]["size"]) == 1
    direct = pl.VIEWS["activation_maximisation"](pl.load(folder), torch.zeros(1, 1, 64), 1, steps=4)
    reached = found["activation_maximisation"]["maximised"][0]["reached"]
    assert reached == pytest.approx(float(direct.reached[0]), abs=1e-4)


def test_without_an_out_the_folder_is_named_after_the_model(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("look", model)
    assert ended.code == 0, ended.err
    assert (tmp_path / "runs" / "look" / "fruit" / "filters.png").is_file()
    ended = run("look", "pellucid:s8", "--dry-run", "--maximise", 0)
    assert "filters.png, activation_maximisation.png would be written to runs/look/pellucid-s8/" in ended.err
    assert not (tmp_path / "runs" / "look" / "pellucid-s8").exists()
    assert "at random" in run("look", "pellucid:s8").err


def test_what_cannot_be_looked_at(refused: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    given = ("look", model, "--out", tmp_path / "out")
    assert "'model.features.0" in refused(2, *given, "--layer", "model.feature.0").err
    assert "Did you mean 'feature_maps'" in refused(2, *given, "--view", "feature_map").err
    assert "needs --input" in refused(2, *given, "--view", "feature_maps").err
    assert "needs --maximise" in refused(2, *given, "--view", "activation_maximisation").err
    assert "no --input" in refused(2, *given, "--target", "pear").err
    assert "Did you mean 'steps'" in refused(2, *given, "--maximise", "1", "stepz=3").err
    assert "no setting 'steps'" in refused(2, *given, "steps=3").err
    assert "Did you mean 'plum'" in refused(2, *given, "--maximise", "plumm", "steps=1").err
    assert "no class 8" in refused(2, *given, "--maximise", "8", "steps=1").err
    assert "nothing to maximise" in refused(2, *given, "--maximise", " , ").err
    assert "no data source" in refused(3, *given, "--input", tmp_path / "no.png").err
    assert "is a Linear" in refused(2, *given, "--layer", "model.head").err
    (tmp_path / "text.png").write_text("no picture")
    assert refused(3, *given, "--input", tmp_path / "text.png").code == 3
    (tmp_path / "w.pth").write_bytes(b"damaged")
    assert refused(5, "look", "pellucid:s8", "--weights", tmp_path / "w.pth").code == 5
    assert not (tmp_path / "out").exists()


def test_a_models_folder_stays_what_it_is(refused: Run, model: Path) -> None:
    ended = refused(2, "look", model, "--out", model)
    assert "holds a model or a run" in ended.err
    assert np.all([not (model / f"{name}.png").exists() for name in pl.VIEWS])
