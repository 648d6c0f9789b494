"""Which network a name means, and how its inputs are to be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pellucid.errors import BadInput, OptionError
from pellucid.models import storage, zoo
from pellucid.models.convert import convert
from pellucid.networks import (
    check_names,
    check_takes,
    class_names,
    made_explainable,
    open_network,
    open_saved,
    random_weights,
    reading_for,
)

CPU = torch.device("cpu")


def small(**options: Any) -> nn.Module:
    return zoo.build("pellucid:s8", **{"channels": (4, 4), "strides": (2, 4), **options})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    net = small()
    net.preprocessing = {"size": 48, "shorter_side": 50, "mean": [0.4, 0.4, 0.4], "grey": False}
    return storage.save_model(net.train(), tmp_path / "m", classes=("no", "yes"))


def test_a_saved_model_comes_back_in_evaluation_mode_with_what_is_known(saved: Path) -> None:
    network = open_network(str(saved), weights=None, device=CPU)
    assert not any(m.training for m in network.modules())
    assert class_names(network, str(saved), None) == ("no", "yes")
    assert network.preprocessing["size"] == 48


def test_a_softcam_keeps_how_it_reads_its_inputs(tmp_path: Path) -> None:
    softcam = convert(small(), torch.randn(1, 3, 32, 32), classes=("no", "yes"))
    softcam.preprocessing = {"size": 32, "window": [0, 4000]}
    softcam.save(tmp_path / "m")
    loaded = storage.load(tmp_path / "m")
    assert (loaded.preprocessing, loaded.classes) == ({"size": 32, "window": [0, 4000]}, ("no", "yes"))


def test_a_named_network_is_built(tmp_path: Path) -> None:
    net = small()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    assert open_network("pellucid:s8", weights=None, device=CPU, num_classes=7)(torch.zeros(1, 3, 16, 16)).shape == (
        1,
        7,
    )
    with pytest.raises(OptionError, match="another network"):
        open_network("pellucid:s8", weights=tmp_path / "w.pth", device=CPU)
    assert random_weights("pellucid:s8", tmp_path / "w.pth") == ""
    assert random_weights(str(tmp_path), None) == ""
    assert "at random" in random_weights("pellucid:s8", None)


def test_what_is_no_model_is_refused(saved: Path, tmp_path: Path) -> None:
    for name, what in (
        (saved / "model.json", "is not a model"),
        (tmp_path / "nothing", "There is no model"),
        (tmp_path, "holds 1 models"),
    ):
        with pytest.raises((BadInput, OptionError), match=what):
            open_saved(str(name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="is not a saved model"):
        open_saved(str(tmp_path / "empty"))
    with pytest.raises(OptionError, match="has weights and classes of its own"):
        open_network(str(saved), weights=tmp_path / "w.pth", device=CPU)


def test_inputs_that_do_not_fit_are_told_apart_from_faults() -> None:
    net = small().train()
    assert check_takes(net, torch.zeros(1, 3, 16, 16)).shape == (1, 2)
    assert net.training
    with pytest.raises(BadInput, match=r"inputs of shape \(1, 16, 16\)"):
        check_takes(net, torch.zeros(1, 1, 16, 16))


def test_names_fit_logits() -> None:
    for names, width in ((("a", "b"), 2), (("a", "b"), 1), (("a",), 1), (None, 5)):
        check_names(names, torch.zeros(1, width))
    check_names(("a", "b"), [{"boxes": 1}])  # no logits to compare with
    for names, width in ((("a", "b"), 3), (("a",), 2), (("a", "b", "c"), 1)):
        with pytest.raises(OptionError, match="class names for"):
            check_names(names, torch.zeros(1, width))


def test_what_is_converted_and_what_stays() -> None:
    x = torch.randn(2, 3, 32, 32)
    net = small()
    softcam, said = made_explainable(net, x, "mine")
    assert "mine was converted exactly" in said
    assert torch.equal(softcam(x), net(x))
    assert made_explainable(softcam, x, "mine")[0] is softcam
    assert made_explainable(net, x, "mine", keep="as I wish") == (net, "mine is explained as it is (as I wish).")
    flat = nn.Sequential(nn.Conv2d(3, 2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(450, 2))
    kept, said = made_explainable(flat, x, "mine")
    assert kept is flat
    assert said.startswith("mine stays a black box: ")


def test_inputs_are_read_as_in_training_unless_told_otherwise(saved: Path, tmp_path: Path) -> None:
    network = storage.load(saved)
    (tmp_path / "t.csv").write_text("path,label\na.png,no\n")
    table = str(tmp_path / "t.csv")
    assert reading_for(network, table, {"negative": "no"}) == {
        "size": 48,
        "shorter_side": 50,
        "mean": [0.4] * 3,
        "grey": False,
        "negative": "no",
    }
    assert reading_for(network, table, {"size": 64}) == {
        "size": 64,
        "mean": [0.4] * 3,
        "grey": False,
    }  # the shorter side went with it
    assert reading_for(network, table, {"grey": True}) == {"size": 48, "shorter_side": 50, "grey": True}
    assert reading_for(network, "lesionlab:fundus", {}) == {"size": 48, "grey": False}
    network.preprocessing = {"size": [48, 64]}  # type: ignore[assignment]
    assert reading_for(network, "lesionlab:fundus", {"n_images": 2}) == {"n_images": 2}
    assert reading_for(small(), table, {}) == {}


def test_imagenet_names_belong_to_torchvisions_networks() -> None:
    pytest.importorskip("torchvision")
    names = class_names(small(), "torchvision:resnet18", None)
    assert names is not None
    assert (len(names), names[0], names[-1]) == (1000, "tench", "toilet tissue")
    assert class_names(small(), "torchvision:r3d_18", None) is None  # trained on something else
    assert class_names(small(), "pellucid:s8", None) is None
