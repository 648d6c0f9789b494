from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import BadInput, IntegrityError, OptionError
from pellucid.models import storage
from pellucid.models.convert import convert
from pellucid.models.inspection import compared, divergence, with_context
from pellucid.models.s8 import S8
from pellucid.models.softcam import SoftCAM
from reference.nets import GapNet, inputs
from reference.odd_nets import Wired
from reference.untouched import unchanged


def softmax(y: np.ndarray) -> np.ndarray:
    return np.exp(y) / np.exp(y).sum(1, keepdims=True)


def logits(seed: int, classes: int = 5, count: int = 40) -> Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_differences_by_hand() -> None:
    own = 3 * logits(0)
    made = own + 0.5 * logits(1)
    found = compared(made, own, "multiclass")
    a, b = made.numpy(), own.numpy()
    error = np.sort(np.abs(a - b).ravel())
    assert (found["images"], found["differ"]) == (40, True)
    assert found["parity"] == error[-1]
    assert found["parity_relative"] == pytest.approx(error[-1] / b.std(ddof=1))
    assert found["p99"] == pytest.approx(error[197] + 0.01 * (error[198] - error[197]))  # rank 0.99 * 199 = 197.01
    assert found["flips"] == int((a.argmax(1) != b.argmax(1)).sum()) > 0
    p, q = softmax(b), softmax(a)
    assert found["kl"] == pytest.approx((p * np.log(p / q)).sum(1).max())


def test_divergence_of_labels_and_single_logits() -> None:
    y, z = 2 * logits(2, 3), 2 * logits(3, 3)
    p, q = (1 / (1 + np.exp(-v.numpy())) for v in (y, z))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    np.testing.assert_allclose(divergence(y, z, "multilabel"), expected, rtol=1e-10)
    np.testing.assert_allclose(divergence(y[:, :1], z[:, :1], "binary"), (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))[:, 0])  # fmt: skip
    assert float(divergence(y, y, "multiclass").max()) == 0
    extreme = torch.tensor([[900.0, -900.0]])
    assert float(divergence(extreme, -extreme, "multiclass")) == pytest.approx(1800)
    assert compared(y, z, "regression")["kl"] is None


def test_a_single_logit_changes_its_answer_with_its_sign() -> None:
    made, own = torch.tensor([[1.0], [-1.0], [-2.0]]), torch.tensor([[1.0], [1.0], [-1.0]])
    assert compared(made, own, "binary")["flips"] == 1


class Gate(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * z.mean(tuple(range(2, z.ndim)), keepdim=True).sigmoid()


def test_an_exact_network_of_any_rank(rank: int) -> None:
    x = inputs(rank, batch=5, side=32 if rank < 3 else 16)
    softcam = convert(GapNet(rank).eval(), x[:2])
    softcam.train()
    with unchanged(softcam):
        found = pl.inspect(softcam, x, closely=3, batch_size=2)
    assert softcam.certificate.effective_field is None  # a new certificate; the old one stays
    assert (found.kind, found.images, found.flips) == ("exact", 5, 0)
    assert found.parity < 1e-5
    assert found.p99 is not None
    assert found.kl is not None
    assert 0 <= found.p99 <= found.parity
    assert found.kl < 1e-9
    assert found.global_context == ()
    assert found.receptive_field == (7.0,) * rank
    assert found.effective_field is not None
    assert found.leakage is not None
    assert found.effective_field.side <= 7
    assert (found.effective_field.images, found.leakage.images) == (3, 3)
    assert found.leakage.box is not None
    assert found.leakage.box < 1e-6
    assert found.notes == softcam.certificate.notes


def trained(network: pl.MultiScale) -> pl.MultiScale:
    """Heads that say something, as training would make them."""
    for head in network.heads:
        nn.init.normal_(head.evidence.weight, generator=torch.Generator().manual_seed(1))  # type: ignore[union-attr, arg-type]
    return network


def test_several_heads_of_any_rank(rank: int) -> None:
    """What a cell sees through the finer head alone, and through both: layers of 3 in steps of 2."""
    x = inputs(rank, batch=5, side=32 if rank < 3 else 16)
    early = trained(pl.multi_scale(GapNet(rank).eval(), x[:2], "features.0", instead=True))
    with unchanged(early):
        found = pl.inspect(early, x, closely=3, batch_size=2)
    assert found.leakage is not None
    assert found.effective_field is not None
    assert (found.receptive_field, found.images, found.flips) == ((3.0,) * rank, 5, 0)
    assert found.leakage.box is not None
    assert found.leakage.box < 1e-6
    assert found.effective_field.side <= 3
    assert found.parity_relative < 1e-5
    both = trained(pl.multi_scale(GapNet(rank).eval(), x[:2], "features.0"))
    wide = pl.inspect(both, x, closely=3, batch_size=2)
    assert wide.leakage is not None
    assert wide.effective_field is not None
    assert wide.receptive_field is not None
    assert wide.receptive_field[0] > 7  # a fine cell's share of a coarse one that lies beside it
    assert 3 < wide.effective_field.side <= wide.receptive_field[0]
    assert wide.leakage.box is None or wide.leakage.box < 1e-6


def test_global_context_before_one_of_several_heads() -> None:
    net = GapNet(2)
    net.features.append(Gate())
    x = 3 * inputs(2, batch=4, side=32)
    both, early = (trained(pl.multi_scale(net.eval(), x, "features.0", instead=early)) for early in (False, True))
    assert pl.inspect(both, x).global_context == ("features.4 (Gate)",)
    assert pl.inspect(early, x).global_context == ()


def test_global_context_is_named_measured_and_reported() -> None:
    net = GapNet(2)
    net.features.append(Gate())
    x = 3 * inputs(2, batch=4, side=32)
    softcam = convert(net.eval(), x)
    found = pl.inspect(softcam, x)
    assert found.global_context == with_context(softcam, x[:1]).global_context == ("features.4 (Gate)",)
    assert found.whole_input
    assert found.receptive_field is None
    assert found.leakage is not None
    assert found.leakage.box is not None
    assert found.leakage.box > 1e-3
    said = dict(found.rows())
    assert "features.4 (Gate)" in said["warning"]
    assert "sees beyond its convolutions" in said["outside the receptive field"]


def test_gates_of_the_head_show_outside_the_field() -> None:
    """A hidden layer after the pooling: the map adds up at each input, and what a cell adds depends on all of them."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 3)
    )  # fmt: skip
    x = 3 * inputs(2, batch=6, side=24)
    softcam = convert(net.eval(), x)
    assert softcam.certificate.kind == "exact_at_this_image"
    found = pl.inspect(softcam, x)
    assert (found.flips, found.images) == (0, 6)
    assert found.parity_relative < 1e-5
    assert found.global_context == ()
    assert found.receptive_field == (3, 3)
    assert found.leakage is not None
    assert found.leakage.box is not None
    assert found.leakage.box > 1e-3
    assert "gates" in dict(found.rows())["warning"]


def test_another_original_shows() -> None:
    """The evidence of one network against the logits of another: counted, and noted once, however often."""
    x = inputs(2, batch=8, side=32)
    mine, other = GapNet(2, seed=0).eval(), GapNet(2, seed=5).eval()
    softcam = convert(mine, x[:2])
    with unchanged(other):
        found = pl.inspect(softcam, x, original=other)
    assert found.parity == pytest.approx(float((mine(x) - other(x)).detach().abs().max()), rel=1e-4)
    assert found.flips == int((mine(x).argmax(1) != other(x).argmax(1)).sum())
    assert "differ by more than rounding" in found.notes[-1]
    softcam.certificate = found
    assert pl.inspect(softcam, x, original=other).notes == found.notes
    assert pl.inspect(softcam, x).notes == found.notes[:-1]


def test_other_inputs_follow_the_images() -> None:
    def forward(self: Any, x: Tensor, scale: Tensor, *, shift: float) -> dict[str, Tensor]:
        return {"y": self.fc((self.trunk(x + shift) * scale[:, None, None, None]).mean((2, 3)))}

    net = Wired(forward, fc=nn.Linear(8, 3)).eval()
    x, scale = torch.randn(5, 3, 24, 24), torch.rand(5) + 0.5
    softcam = convert(net, x[:2], args=(scale[:2],), kwargs={"shift": 1.0}, output="y")
    found = pl.inspect(softcam, x, args=(scale,), kwargs={"shift": 1.0}, batch_size=2, closely=4)
    assert (found.images, found.flips) == (5, 0)
    assert found.parity_relative < 1e-5


def test_fused_heads_are_compared_with_the_head_they_replace() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)
    )  # fmt: skip
    x = inputs(2, side=24)
    softcam = convert(net.eval(), x)
    assert softcam.fused is not None
    assert pl.inspect(softcam, x).parity_relative < 1e-5
    with torch.no_grad():
        softcam.fused.bias += 1  # as training would change it
    assert pl.inspect(softcam, x).parity == pytest.approx(1, rel=1e-3)


def test_what_cannot_be_inspected() -> None:
    with pytest.raises(OptionError, match="GapNet cannot be inspected"):
        pl.inspect(GapNet(2), inputs(2))
    softcam = convert(GapNet(2).eval(), inputs(2))
    for images in (inputs(2)[0], inputs(2)[:0], inputs(3), "images"):
        with pytest.raises(BadInput, match="The images are"):
            pl.inspect(softcam, images)  # type: ignore[arg-type]


def saved(folder: Path) -> SoftCAM:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    from pellucid.models import zoo

    net = zoo.build("pellucid:s8", channels=(8, 8), strides=(2, 2))
    assert isinstance(net, S8)
    softcam = convert(net, x)
    softcam.train()
    softcam.save(folder)
    return softcam


def test_what_was_found_is_kept_with_the_model(tmp_path: Path) -> None:
    softcam = saved(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    storage.write_manifest(tmp_path, ("model.json", "model.safetensors"), run="a fact of its own")
    found = pl.inspect(softcam, torch.randn(3, 3, 32, 32))
    storage.write_certificate(tmp_path, found)
    again = pl.load(tmp_path)
    assert isinstance(again, SoftCAM)
    assert again.certificate == found
    assert again.training
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert storage.read_manifest(tmp_path)["run"] == "a fact of its own"
    assert set(storage.verify(tmp_path)) == {"model.json", "model.safetensors"}
    again.save(tmp_path / "copy")
    assert pl.load(tmp_path / "copy").certificate == found  # type: ignore[comparison-overlap]


def test_what_was_found_of_several_heads_is_kept(tmp_path: Path) -> None:
    from pellucid.models import zoo

    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = trained(pl.multi_scale(zoo.build("pellucid:s8", channels=(8, 8), strides=(2, 2)).eval(), x, "features.0"))
    network.save(tmp_path / "a")
    found = pl.inspect(network, x)
    storage.write_certificate(tmp_path / "a", found)
    again = pl.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert found != network.certificate
    assert again.certificate == pl.load(tmp_path / "b").certificate == found  # type: ignore[comparison-overlap]


def test_only_an_intact_softcam_takes_a_certificate(tmp_path: Path) -> None:
    softcam = saved(tmp_path / "a")
    storage.save_model(softcam.model, tmp_path / "b")
    with pytest.raises(OptionError, match="Only a SoftCAM"):
        storage.write_certificate(tmp_path / "b", softcam.certificate)
    path = tmp_path / "a" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError):
        storage.write_certificate(tmp_path / "a", softcam.certificate)
