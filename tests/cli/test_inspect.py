"""`pellucid inspect`: models, data and runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import pellucid as pl
from cli.kit import Run, small
from pellucid.models import storage, zoo
from pellucid.models.convert import convert
from pellucid.models.softcam import SoftCAM


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is written where one stands."""
    monkeypatch.chdir(tmp_path)


def test_a_saved_model_is_measured_and_what_was_found_is_kept(
    run: Run, model: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model, tmp_path / "fruit")
    before = (folder / "model.json").read_bytes()
    ended = run("inspect", folder, "--images", pictures, "--limit", 12, "--json")
    assert ended.code == 0, ended.err
    assert (folder / "model.json").read_bytes() == before  # looking changes nothing
    found = ended.json["certificate"]
    assert (ended.json["what"], found["kind"], found["images"], found["flips"]) == ("model", "exact", 12, 0)
    softcam = pl.load(folder)
    assert isinstance(softcam, SoftCAM)
    data = pl.open_data(pictures, size=64, crop="resize")
    direct = pl.inspect(softcam, torch.stack([data[i].input for i in range(12)]))
    assert found["parity"] == pytest.approx(direct.parity, rel=0.5)
    assert found["leakage"]["footprint"] == pytest.approx(direct.leakage.footprint, rel=1e-4)  # type: ignore[union-attr]
    assert found["effective_field"]["side"] == direct.effective_field.side  # type: ignore[union-attr]
    assert run("inspect", folder, "--images", pictures, "--limit", 12, "--write", "-q").code == 0
    assert run("verify", folder).code == 0
    kept = run("inspect", folder)
    assert kept.code == 0
    for words in ("kind", "effective field", "outside one stride", "0 of 12 answers changed"):
        assert words in kept.out
    assert "Nothing was measured" in kept.err


def test_a_network_with_several_heads_is_measured_too(run: Run, pictures: Path, tmp_path: Path) -> None:
    network = pl.multi_scale(zoo.build("pellucid:s8").eval(), torch.randn(2, 3, 64, 64), "features.1", instead=True)
    torch.nn.init.normal_(network.heads[0].evidence.weight)  # type: ignore[union-attr, arg-type]
    network.save(tmp_path / "early")
    ended = run("inspect", tmp_path / "early", "--images", pictures, "--limit", 3, "--write", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["certificate"]["leakage"]["box"] < 1e-6
    assert run("verify", tmp_path / "early").code == 0
    assert "outside the receptive field" in run("inspect", tmp_path / "early").out


def test_a_named_network_is_converted_to_be_looked_into(run: Run, pictures: Path, tmp_path: Path) -> None:
    torch.save(zoo.build("pellucid:s8").state_dict(), tmp_path / "w.pth")
    given = ("inspect", "pellucid:s8", "--weights", tmp_path / "w.pth", "--size", 72)
    plain = run(*given, "--json").json["certificate"]
    assert (plain["input_size"], plain["leakage"]) == ([72, 72], None)
    ended = run(*given, "--images", pictures, "--limit", 3, "--json")
    assert "nothing was saved" in ended.err
    assert ended.json["certificate"]["effective_field"]["input_size"] == [72, 72]
    assert "at random" in run("inspect", "pellucid:s8", "--size", 64).err


def test_layers_with_global_context_are_named_in_a_warning(run: Run) -> None:
    pytest.importorskip("torchvision")
    ended = run("inspect", "torchvision:mnasnet0_5", "--size", 64, "-q")
    assert ended.code == 0, ended.err
    assert "warning" not in ended.out
    ended = run("inspect", "torchvision:efficientnet_b0", "--size", 64, "-q")
    assert "features.1.0.block.1 (SqueezeExcitation)" in ended.out
    assert "whole input" in ended.out


def test_a_network_that_cannot_be_converted(refused: Run) -> None:
    ended = refused(2, "inspect", "pellucid:s8", "--size", 8, "-q")
    assert "Give a larger example" in ended.err


def test_a_black_box_of_a_folder_is_converted_too(run: Run, tmp_path: Path) -> None:
    storage.save_model(small(), tmp_path / "plain", classes=("a", "b", "c"))
    ended = run("inspect", tmp_path / "plain", "--size", 64, "--features", "features", "--head", "head")
    assert ended.code == 0, ended.err
    assert "the output of 'features'" in ended.out


def test_what_is_no_source_and_what_is_no_network(refused: Run, tmp_path: Path) -> None:
    assert "no data source" in refused(3, "inspect", tmp_path / "nothing").err
    assert "torchvision has no network 'resnet999'" in refused(2, "inspect", "torchvision:resnet999").err
    assert "is not the name of a network" in refused(2, "inspect", "torchvison:resnet18").err
    (tmp_path / "w.pth").write_bytes(b"weights")
    assert "--weights" in refused(3, "inspect", tmp_path / "w.pth").err


def test_damage_is_noticed(refused: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "fruit")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    refused(5, "inspect", folder, "--images", pictures)


def test_bad_images_are_skipped_up_to_a_point(
    run: Run, refused: Run, model: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    (folder / "p00.png").write_text("text")
    ended = run("inspect", model, "--images", folder)
    assert ended.code == 0
    assert "skipped p00.png" in ended.err
    for k in range(1, 4):
        (folder / f"p{k:02d}.png").write_bytes(b"")
    assert "4 of 20 images" in refused(3, "inspect", model, "--images", folder).err
    assert run("inspect", model, "--images", folder, "--max-bad", 0.5).code == 0
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.png").write_text("text")
    refused(3, "inspect", model, "--images", only, "--max-bad", 1)
    refused(3, "inspect", model, "--images", pictures, "grey=true")  # the network wants three channels


def test_writing_needs_a_place_and_something_to_write(refused: Run, model: Path, pictures: Path) -> None:
    refused(2, "inspect", model, "--write")
    refused(2, "inspect", "pellucid:s8", "--images", pictures, "--write")
    refused(2, "inspect", model, "size=64")  # a reader's setting without images
    refused(2, "inspect", model, "--images", pictures, "sise=64")


def test_data_on_one_page(run: Run, refused: Run, labelled: Path, tmp_path: Path) -> None:
    ended = run("inspect", labelled, "size=32")
    assert ended.code == 0
    assert "samples            12" in ended.out
    assert "  dark             6" in ended.out
    told = run("inspect", labelled, "--json", "--limit", 4).json
    assert (told["what"], told["reader"], told["classes"], told["read"]) == (
        "data",
        "folder",
        {"dark": 6, "light": 6},
        4,
    )
    folder = shutil.copytree(labelled, tmp_path / "labelled")
    (folder / "dark" / "0.png").write_text("text")
    assert run("inspect", folder).code == 0  # one in twelve
    (folder / "dark" / "1.png").write_text("text")
    assert "2 of 12" in run("inspect", folder).err
    assert run("inspect", folder).code == 3
    assert "  dark/1.png" in run("inspect", folder).out  # the page is printed all the same
    assert "2 of 12" in run("inspect", folder, "--json").json["message"]
    refused(2, "inspect", labelled, "sise=32")


def test_a_run_and_the_networks_in_it(run: Run, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = (
        "train",
        labelled,
        "--model",
        "pellucid:s8",
        "--folds",
        2,
        "--out",
        out,
        "-q",
        "size=32",
        "epochs=1",
        "batch_size=4",
    )
    assert run(*given).code == 0
    ended = run("inspect", out)
    assert ended.code == 0, ended.err
    for words in ("pellucid:s8", "fold-0", "fold-1", "SoftCAM of a S8, exact", "epochs"):
        assert words in ended.out
    told = run("inspect", out, "--json").json
    assert (told["what"], sorted(told["networks"]), told["scored"]) == ("run", ["fold-0", "fold-1"], False)
    assert told["study"]["recipe"]["epochs"] == 1
    assert run("inspect", out / "fold-0", "--images", labelled, "--write").code == 0
    assert run("verify", out).code == 0  # the run's own manifest speaks of the new one
    kept = json.loads((out / "fold-0" / "model.json").read_text())["certificate"]
    assert (kept["images"], kept["effective_field"]["input_size"]) == (12, [32, 32])


def test_a_softcam_with_a_sum_that_fails_is_said(run: Run, pictures: Path, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))  # fmt: skip
    softcam = convert(net, torch.randn(2, 3, 64, 64))
    softcam.save(tmp_path / "own")
    ended = run("inspect", tmp_path / "own")  # a network of the user's own cannot be rebuilt from a folder
    assert ended.code == 2
    assert "never names code" in ended.err


def test_a_plan_is_written_and_obeyed(run: Run, refused: Run, labelled: Path, tmp_path: Path) -> None:
    ended = run("inspect", labelled)
    assert ended.code == 0, ended.err
    assert "network   pellucid:s8 for inputs of" in ended.out
    assert f"pellucid train {labelled} --plan plan.json" in ended.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["source"], plan["samples"], plan["classes"], plan["folds"]) == (
        str(labelled),
        12,
        {"dark": 6, "light": 6},
        5,
    )
    assert run("inspect", labelled, "--json").json["plan"] == plan
    plan["recipe"] |= {"epochs": 1, "batch_size": 4}
    plan |= {"folds": 2}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    ended = run("train", labelled, "--plan", "plan.json", "--out", "obeyed", "lr=0.002")
    assert ended.code == 0, ended.err
    assert "split     2 folds" in ended.err
    study = json.loads(Path("obeyed/study.json").read_text())
    assert (study["model"], study["folds"], study["reading"]) == ("pellucid:s8", 2, plan["reading"])
    assert {k: study["recipe"][k] for k in ("epochs", "batch_size", "lr")} == {
        "epochs": 1,
        "batch_size": 4,
        "lr": 0.002,
    }
    assert run("evaluate", "obeyed", "-q").code == 0
    Path("own.json").write_text("{}")
    refused(2, "inspect", labelled, "--plan", "own.json")  # it is no plan and would be lost
    refused(3, "train", labelled, "--plan", "own.json")
    other = shutil.copytree(labelled, tmp_path / "other")
    assert "other data" in refused(3, "train", other, "--plan", "plan.json").err
    (labelled_copy := tmp_path / "again").mkdir()
    shutil.copytree(labelled, labelled_copy, dirs_exist_ok=True)
    assert run("inspect", labelled_copy, "-q").code == 0
    shutil.copy(labelled_copy / "dark" / "0.png", labelled_copy / "dark" / "new.png")
    assert "other data" in refused(3, "train", labelled_copy, "--plan", "plan.json").err


def test_a_folder_trains_with_nothing_else(run: Run, labelled: Path) -> None:
    ended = run("train", labelled, "--out", "run", "epochs=1", "--folds", 2)
    assert ended.code == 0, ended.err
    assert "because   2 folds" in ended.err or "because   5 folds" in ended.err
    assert json.loads(Path("run/study.json").read_text())["model"] == "pellucid:s8"
    assert run("explain", labelled / "dark" / "0.png", "--model", "run/fold-0", "-q").code == 0
