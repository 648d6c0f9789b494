from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pellucid.errors import BadInput, IntegrityError, OptionError
from pellucid.models import zoo

TINY = {"channels": (4,), "strides": (2,)}


def tiny(**options: Any) -> nn.Module:
    return zoo.build("pellucid:s8", **{**TINY, **options})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18", "not the name of a network"),
        ("keras:resnet18", "not the name of a network"),
        ("torchvision:resnet19", "Did you mean 'resnet1"),
        ("timm:regnety_017", "Did you mean 'regnety_01"),
        ("pellucid:s9", "Known: s8"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, words: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(OptionError) as caught:
        zoo.build(name)
    assert words in str(caught.value)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(OptionError, match="colour"):
        zoo.build("pellucid:s8", colour="red")


def test_networks_are_those_of_the_source() -> None:
    from torchvision.models import resnet18

    built = zoo.build("torchvision:resnet18", num_classes=5)
    assert not built.training
    reference = resnet18(weights=None, num_classes=5).eval()
    reference.load_state_dict(built.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(built(x), reference(x))
    assert zoo.source_of(built) == {"name": "torchvision:resnet18", "options": {"num_classes": 5}}
    assert zoo.source_of(zoo.build("torchvision:resnet18", norm_layer=nn.BatchNorm2d)) is None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {"model": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
    ],
)
def test_weights_of_common_wrappings_are_loaded(tmp_path: Path, wrap: Any) -> None:
    source, other = tiny(), tiny()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    assert zoo.load_weights(other, tmp_path / "w.pth") == []
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(source(x), other(x))


def test_weights_as_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source, other = tiny(), tiny()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    zoo.load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(source.head.weight, other.head.weight)


def test_a_head_of_another_width_stays_random_only_where_asked(tmp_path: Path) -> None:
    torch.save(tiny(num_classes=7).state_dict(), tmp_path / "w.pth")
    fresh = zoo.build("pellucid:s8", weights=tmp_path / "w.pth", num_classes=3, **TINY)
    assert torch.equal(fresh.features[0][0].weight, torch.load(tmp_path / "w.pth")["features.0.0.weight"])
    assert fresh.head.weight.shape[0] == 3
    with pytest.raises(OptionError, match="another network"):
        zoo.load_weights(tiny(num_classes=3), tmp_path / "w.pth")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(tiny(channels=(5,)).state_dict(), tmp_path / "w.pth")
    with pytest.raises(OptionError, match="another network") as caught:
        zoo.build("pellucid:s8", weights=tmp_path / "w.pth", num_classes=2, **TINY)
    assert "in the file and" in caught.value.why
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(OptionError, match="another network"):
        zoo.load_weights(tiny(), tmp_path / "w.pth")
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(OptionError, match="no state dict"):
        zoo.load_weights(tiny(), tmp_path / "w.pth")


class Runs:
    """Would create a file while being unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "torch legacy", "pickle"])
def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path, writer: str) -> None:
    trap, file = tmp_path / "trap", tmp_path / "w.pth"
    content = {"state_dict": {**tiny().state_dict(), "extra": Runs(trap)}}
    if writer == "pickle":
        file.write_bytes(pickle.dumps(Runs(trap)))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(IntegrityError) as caught:
        zoo.load_weights(tiny(), file)
    assert caught.value.exit_code == 5
    assert not trap.exists()


def test_truncated_and_alien_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(tiny().state_dict(), file)
    whole = file.read_bytes()
    for part in range(0, len(whole), len(whole) // 40):
        file.write_bytes(whole[:part])
        with pytest.raises(IntegrityError):
            zoo.load_weights(tiny(), file)
    file.write_text("this is a letter, not a checkpoint")
    with pytest.raises(IntegrityError):
        zoo.load_weights(tiny(), file)
    (tmp_path / "w.safetensors").write_bytes(whole)
    with pytest.raises(IntegrityError):
        zoo.load_weights(tiny(), tmp_path / "w.safetensors")
    with pytest.raises(BadInput):
        zoo.load_weights(tiny(), tmp_path / "absent.pth")


def test_imagenet_names_come_with_torchvision_networks() -> None:
    names = zoo.categories("torchvision:mobilenet_v2")
    assert names is not None
    assert (len(names), names[0]) == (1000, "tench")
    assert zoo.categories("pellucid:s8") is None


@pytest.mark.parametrize("shape", [(1, 140), (6, 100), (1, 32, 32), (3, 32, 48), (2, 16, 16, 16)])
def test_our_networks_fit_any_inputs_and_others_are_as_they_are(shape: tuple[int, ...]) -> None:
    for name in ("pellucid:s8", "pellucid:bagnet9"):
        net = zoo.build(name, num_classes=4, **zoo.shape_options(name, shape))
        assert net(torch.zeros(1, *shape)).shape == (1, 4)
    assert zoo.shape_options("torchvision:resnet18", shape) == {}
