"""`pellucid convert` and `pellucid doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pellucid as pl
from cli.kit import Run, picture, small
from pellucid.models import storage, zoo
from pellucid.models.softcam import SoftCAM


def test_a_checkpoint_becomes_a_softcam_with_the_same_logits(run: Run, tmp_path: Path) -> None:
    net = zoo.build("pellucid:s8")
    torch.save(net.state_dict(), tmp_path / "w.pth")
    picture(tmp_path / "in" / "a.png")
    ended = run(
        "convert",
        "pellucid:s8",
        "--weights",
        tmp_path / "w.pth",
        "--out",
        tmp_path / "m",
        "--size",
        64,
        "--images",
        tmp_path / "in",
        "--json",
    )
    assert ended.code == 0, ended.err
    assert (ended.json["kind"], ended.json["flips"]) == ("exact", 0)
    softcam = pl.load(tmp_path / "m")
    assert isinstance(softcam, SoftCAM)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(softcam(x), net(x))
    assert run("verify", tmp_path / "m").code == 0
    assert run("convert", tmp_path / "m", "--out", tmp_path / "again").code == 2  # it is one already


def test_the_seed_decides_weights_that_are_not_given(run: Run, tmp_path: Path) -> None:
    for k, seed in enumerate((1, 1, 2)):
        ended = run(
            "convert", "pellucid:s8", "--out", tmp_path / str(k), "--size", 32, "--seed", seed, "--num-classes", 4
        )
        assert "at random" in ended.err
    first, second, third = ((tmp_path / str(k) / "model.safetensors").read_bytes() for k in range(3))
    assert first == second != third
    assert pl.load(tmp_path / "0")(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_a_saved_black_box_and_named_layers(run: Run, tmp_path: Path) -> None:
    net = small()
    storage.save_model(net, tmp_path / "plain", classes=("a", "b", "c"))
    ended = run(
        "convert", tmp_path / "plain", "--out", tmp_path / "m", "--size", 64, "--features", "features", "--head", "head"
    )
    assert ended.code == 0, ended.err
    assert pl.load(tmp_path / "m").classes == ("a", "b", "c")
    assert run("convert", tmp_path / "plain", "--out", tmp_path / "n", "--features", "featurs").code == 2
    assert run("convert", tmp_path / "plain", "--out", tmp_path / "n", "--dry-run", "--size", 64).code == 0
    assert not (tmp_path / "n").exists()


def test_imagenet_names_are_kept_with_imagenet_weights(run: Run, test_data: Path, tmp_path: Path) -> None:
    weights = test_data / "weights" / "mobilenet_v2-b0353104.pth"
    ended = run("convert", "torchvision:mobilenet_v2", "--weights", weights, "--out", tmp_path / "m", "--size", 96)
    assert ended.code == 0, ended.err
    names = pl.load(tmp_path / "m").classes
    assert (len(names), names[294]) == (1000, "brown bear")
    run(
        "convert",
        "torchvision:mobilenet_v2",
        "--weights",
        weights,
        "--num-classes",
        2,
        "--out",
        tmp_path / "n",
        "--size",
        96,
    )
    assert pl.load(tmp_path / "n").classes is None


@pytest.mark.parametrize("fast", [[], ["--fast"]])
def test_doctor_says_what_there_is(run: Run, fast: list[str]) -> None:
    found = run("doctor", "--json", *fast).json
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["pellucid"] == pl.__version__
    assert found["lightning_fabric"] == "installed" or "pellucid[train]" in found["lightning_fabric"]
    assert ("accelerators" in found) == (not fast)
    plain = run("doctor", *fast)
    assert plain.code == 0
    assert all(line.split("  ")[0] in found for line in plain.out.splitlines())
