from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pellucid.errors import BadInput, IntegrityError, OptionError
from pellucid.models import storage, zoo
from pellucid.models.convert import convert
from pellucid.models.s8 import S8
from pellucid.models.softcam import SoftCAM
from reference.odd_nets import Wired, roused

OPTIONS = {"in_channels": 2, "channels": (4,), "strides": (2,)}


def small(rank: int = 2, **options: Any) -> SoftCAM:
    net = roused(zoo.build("pellucid:s8", num_classes=3, rank=rank, **OPTIONS))
    return convert(net, torch.randn(2, 2, *(8,) * rank), **options)


def test_a_softcam_comes_back_the_same(rank: int, tmp_path: Path) -> None:
    softcam = small(rank, classes=("a", "b", "c"), task="multilabel")
    assert softcam.save(tmp_path / "m") == tmp_path / "m"
    loaded = storage.load(tmp_path / "m")
    assert isinstance(loaded, SoftCAM)
    x = torch.randn(3, 2, *(12,) * rank)
    assert torch.equal(loaded(x), softcam(x))
    assert torch.equal(loaded.evidence_maps(x), softcam.evidence_maps(x))
    assert loaded.evidence(x).geometry == softcam.evidence(x).geometry
    assert (loaded.certificate, loaded.classes, loaded.task, loaded.training) == (
        softcam.certificate,
        softcam.classes,
        softcam.task,
        softcam.training,
    )


def test_weights_keep_the_networks_own_names(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    softcam = small()
    softcam.save(tmp_path / "m")
    assert load_file(tmp_path / "m" / "model.safetensors").keys() == softcam.model.state_dict().keys()


def test_a_black_box_comes_back_with_what_is_known_of_it(tmp_path: Path) -> None:
    net = zoo.build("pellucid:s8", **OPTIONS)
    net.preprocessing = {"size": 32}
    storage.save_model(net, tmp_path / "m", classes=["no", "yes"], task="multiclass", input_shape=(2, 8, 8))
    loaded = storage.load_model(tmp_path / "m")
    assert isinstance(loaded, S8)
    x = torch.randn(1, 2, 8, 8)
    assert torch.equal(loaded(x), net(x))
    assert (loaded.classes, loaded.task, loaded.preprocessing) == (("no", "yes"), "multiclass", {"size": 32})
    assert storage.read_description(tmp_path / "m")["kind"] == "black box"


def test_torchvision_networks_rebuild_themselves(tmp_path: Path) -> None:
    net = zoo.build("torchvision:shufflenet_v2_x0_5", num_classes=4)
    softcam, x = convert(net, torch.randn(1, 3, 64, 64)), torch.randn(1, 3, 64, 64)
    softcam.save(tmp_path / "m")
    assert torch.equal(storage.load(tmp_path / "m")(x), net(x))


def own(wiring: Any, **layers: nn.Module) -> nn.Module:
    return roused(Wired(wiring, **layers).eval())


def plain(net: Any, x: torch.Tensor) -> torch.Tensor:
    return net.fc(net.trunk(x).mean((2, 3)))


def sharpened(net: Any, x: torch.Tensor) -> torch.Tensor:
    return net.fc(net.trunk(x).square().mean((2, 3)))


def normalised(net: Any, x: torch.Tensor) -> torch.Tensor:
    return net.fc(net.bn(net.trunk(x).mean((2, 3))))


def test_a_users_own_network_has_to_be_given_and_has_to_be_the_same(tmp_path: Path) -> None:
    net, x = own(plain, fc=nn.Linear(8, 3)), torch.randn(1, 3, 16, 16)
    convert(net, x).save(tmp_path / "m")
    with pytest.raises(OptionError, match="Wired of your own"):
        storage.load(tmp_path / "m")
    loaded = storage.load(tmp_path / "m", model=Wired(plain, fc=nn.Linear(8, 3)))
    assert torch.equal(loaded(x), net(x))
    with pytest.raises(OptionError, match="another network"):
        storage.load(tmp_path / "m", model=Wired(plain, fc=nn.Linear(8, 4)))
    with pytest.raises(OptionError, match="does not compute what"):
        storage.load(tmp_path / "m", model=Wired(sharpened, fc=nn.Linear(8, 3)))


def test_an_altered_zoo_network_does_not_come_back_as_the_plain_one(tmp_path: Path) -> None:
    net = zoo.build("pellucid:s8", **OPTIONS)
    net.features[0][2] = nn.Tanh()
    convert(net, torch.randn(1, 2, 8, 8)).save(tmp_path / "m")
    with pytest.raises(OptionError, match="does not compute what"):
        storage.load(tmp_path / "m")
    assert isinstance(storage.load(tmp_path / "m", model=net), SoftCAM)


def test_fused_evidence_and_low_precision_come_back(tmp_path: Path) -> None:
    net, x = own(normalised, fc=nn.Linear(8, 3), bn=nn.BatchNorm1d(8)), torch.randn(2, 3, 16, 16)
    softcam = convert(net, x)
    with torch.no_grad():
        assert softcam.fused is not None
        softcam.fused.weight.mul_(1.5)
    softcam.save(tmp_path / "m")
    loaded = storage.load(tmp_path / "m", model=Wired(normalised, fc=nn.Linear(8, 3), bn=nn.BatchNorm1d(8)))
    assert torch.equal(loaded(x), softcam(x))
    half = small().to(torch.bfloat16)
    half.save(tmp_path / "h")
    again = storage.load(tmp_path / "h")
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}


def test_output_functions_cannot_be_saved(tmp_path: Path) -> None:
    net = Wired(lambda net, x: (plain(net, x),), fc=nn.Linear(8, 3)).eval()
    softcam = convert(net, torch.randn(1, 3, 16, 16), output=lambda out: out[0])
    with pytest.raises(OptionError, match="function"):
        softcam.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    convert(net, torch.randn(1, 3, 16, 16), output=0).save(tmp_path / "n")
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(storage.load(tmp_path / "n", model=net)(x)[0], net(x)[0])


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """1,000 copies with one flipped bit each, at places that cover all files in proportion and each file's ends."""
    folder, chance = tmp_path / "m", random.Random(0)
    small().save(folder)
    whole = {p: p.read_bytes() for p in sorted(folder.iterdir())}
    assert {p.name for p in whole} == {"manifest.json", "model.json", "model.safetensors"}
    refused = 0
    for i in range(1000):
        path = sorted(whole)[i % 3]
        data = bytearray(whole[path])
        at = (0, len(data) - 1)[i // 3] if i < 6 else chance.randrange(len(data))
        data[at] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with pytest.raises(IntegrityError) as caught:
            storage.load(folder)
        assert caught.value.exit_code == 5
        refused += 1
        path.write_bytes(whole[path])
    assert refused == 1000
    assert isinstance(storage.load(folder), SoftCAM)


def test_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    small().save(folder)
    for name in ("manifest.json", "model.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        for part in range(0, len(whole), max(len(whole) // 70, 1)):
            (folder / name).write_bytes(whole[:part])
            with pytest.raises(IntegrityError):
                storage.load(folder)
        (folder / name).unlink()
        with pytest.raises(BadInput if name == "manifest.json" else IntegrityError):
            storage.load(folder)
        (folder / name).write_bytes(whole)
    with pytest.raises(BadInput, match="not a saved model"):
        storage.load(tmp_path)


def test_an_interrupted_save_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over an older model too: between the first and the last file there is no manifest."""
    folder = tmp_path / "m"
    small().save(folder)
    monkeypatch.setattr(storage.files, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        small().save(folder)
    with pytest.raises(BadInput, match="not a saved model"):
        storage.load(folder)


def test_verify_lists_what_it_checked_and_stays_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    small().save(folder)
    assert storage.verify(folder) == {
        name: storage.files.sha256(folder / name) for name in ("model.json", "model.safetensors")
    }
    (tmp_path / "secret").write_text("x")
    shutil.copy(folder / "model.json", tmp_path / "model.json")
    storage.write_manifest(folder, ["../secret"])
    with pytest.raises(IntegrityError, match=r"manifest.json is damaged"):
        storage.verify(folder)


def test_loading_a_network_of_our_own_imports_no_zoo(tmp_path: Path) -> None:
    small().save(tmp_path / "m")
    code = f"import sys, pellucid; m = pellucid.load({str(tmp_path / 'm')!r}); print(type(m).__name__, sorted({{'torchvision', 'timm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "SoftCAM []"
