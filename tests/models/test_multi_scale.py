"""Maps of several scales against literal sums; what training may and may not change."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import BadInput, ConversionError, IntegrityError, LayerError, OptionError
from pellucid.models import zoo
from pellucid.models.convert import convert
from pellucid.models.multi_scale import MultiScale, Scale, _onto, multi_scale, with_pooling
from pellucid.models.pooling import POOLINGS, PoolingName
from pellucid.models.s8 import S8
from pellucid.sample import Facts, Sample
from pellucid.spatial import Geometry
from reference.odd_nets import Wired, roused

NAMES: list[PoolingName] = list(POOLINGS)
LAYERS = ("features.0", "features.1")


def small(rank: int = 2, classes: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return roused(S8(2, classes, rank, channels=(4, 6, 5), strides=(1, 2, 2), **options).eval())


def inputs(rank: int = 2, batch: int = 2, side: int = 8) -> Tensor:
    return torch.randn(batch, 2, *(side + 4, side, side)[:rank], generator=torch.Generator().manual_seed(1))


def stirred(net: MultiScale) -> MultiScale:
    """Every head says something."""
    torch.manual_seed(3)
    with torch.no_grad():
        for head in net.heads:
            for p in head.parameters():
                p.copy_(0.5 * torch.randn_like(p))
    return net


def seen_by(net: MultiScale, x: Tensor) -> list[Tensor]:
    """The stages' feature maps, by hooks of this test's own."""
    found: dict[str, Tensor] = {}
    handles = [
        net.model.get_submodule(s.capture.name).register_forward_hook(
            lambda m, a, out, name=s.capture.name: found.__setitem__(name, out.detach().clone())
        )
        for s in net.stages
    ]
    with torch.no_grad():
        net.model(x)
    for handle in handles:
        handle.remove()
    return [found[s.capture.name] for s in net.stages]


def test_untrained_it_answers_as_the_network_does_to_the_bit(rank: int) -> None:
    net, x = small(rank), inputs(rank)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    made = multi_scale(net, x, LAYERS)
    assert torch.equal(made(x), net(x))
    assert made.certificate.kind == "exact"
    assert made.certificate.grid == made.evidence(x).geometry.grid
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*net.modules(), *made.modules()))


def test_a_logit_is_the_sum_over_scales_of_their_means(rank: int) -> None:
    made, x = stirred(multi_scale(small(rank), inputs(rank), LAYERS)).double(), inputs(rank).double()
    expected = sum(
        (f.flatten(2).transpose(1, 2) @ head.evidence.weight.T).mean(1)
        for f, head in zip(seen_by(made, x), made.heads, strict=True)
    )
    assert torch.allclose(made(x), expected + made.heads[-1].evidence.bias, atol=1e-12)


def test_the_map_is_that_of_a_literal_division_of_stretches() -> None:
    """A cell of stride s stands for the s samples around its centre; the fine cells, of stride 1, take what they share of it."""
    made, x = stirred(multi_scale(small(1), inputs(1), LAYERS)).double(), inputs(1).double()
    expected = torch.zeros(2, 3, 12).double()
    for f, head, stride in zip(seen_by(made, x), made.heads, (1, 2, 4), strict=True):
        cells = torch.einsum("cd,bdp->bcp", head.evidence.weight, f) / f.shape[2]
        for i in range(f.shape[2]):
            low, high = stride * i - stride / 2, stride * i + stride / 2
            common = [max(0.0, min(high, p + 0.5) - max(low, p - 0.5)) for p in range(12)]
            for p in range(12):
                expected[:, :, p] += cells[:, :, i] * common[p] / sum(common)
    told = made.evidence(x)
    assert told.positions == 12
    assert torch.allclose(told.maps / told.positions, expected, atol=1e-12)
    assert torch.allclose(told.bias, made.heads[-1].evidence.bias, atol=1e-12)
    assert (told.geometry.registered, told.geometry.start, told.geometry.jump) == (True, (0.0,), (1.0,))


def test_what_is_shared_out_stays_centred_where_the_cell_looks() -> None:
    """By hand: strides 8 and 32, both centred on 0: a coarse cell gives 1/8, 1/4, 1/4, 1/4, 1/8 to five fine ones."""
    fine, coarse = Geometry((12,), (96,), (0.0,), (8.0,), True), Geometry((3,), (96,), (0.0,), (32.0,), True)
    cells = torch.tensor([[[0.0, 8.0, 0.0]]])
    spread = _onto(fine, Scale("s", cells, cells.sum(2), coarse))
    assert spread.flatten().tolist() == [0, 0, 1, 2, 2, 2, 1, 0, 0, 0, 0, 0]
    first = _onto(fine, Scale("s", cells.roll(-1, 2), cells.sum(2), coarse)).flatten()
    assert first[:4].tolist() == pytest.approx([8 * 8 / 20, 8 * 8 / 20, 8 * 4 / 20, 0])
    # A cell that looks outside of the fine grid goes to the nearest of its cells.
    beyond = Geometry((3,), (96,), (-100.0,), (32.0,), True)
    assert _onto(fine, Scale("s", torch.ones(1, 1, 3), cells.sum(2), beyond)).flatten().tolist()[0] == pytest.approx(3)


@pytest.mark.parametrize("pooling", NAMES)
def test_cells_and_constant_add_up_to_the_logits(pooling: PoolingName, rank: int) -> None:
    made, x = stirred(multi_scale(small(rank), inputs(rank), LAYERS, pooling=pooling)).double(), inputs(rank).double()
    told, logits = made.evidence(x), made(x)
    assert torch.allclose(told.maps.flatten(2).mean(2) + told.bias, logits, atol=1e-12)
    assert torch.equal(told.logits, logits)
    assert told.bias.shape == ((3,) if pooling == "mean" else (2, 3))
    parts = [s.cells.flatten(2).sum(2) + s.constant for s in made.scales(x)]
    assert torch.allclose(torch.stack(parts).sum(0), logits, atol=1e-12)
    output, maps = made(x, return_evidence=True)
    assert torch.equal(output, logits)
    assert torch.allclose(maps.flatten(2).mean(2), logits, atol=1e-12)
    assert torch.equal(maps, made.evidence_maps(x))


@pytest.mark.parametrize("pooling", NAMES)
def test_explained_ledgers_add_up(pooling: PoolingName) -> None:
    made, x = stirred(multi_scale(small(), inputs(), LAYERS, pooling=pooling, classes=("a", "b", "c"))), inputs()
    for target in (None, "b", pl.ContrastTarget(0, 2)):
        explained = pl.explain(made, x, target)
        parts = explained.contributions()
        assert bool((parts.residual.abs() <= 1e-5 * parts.score.abs().clamp_min(1)).all())
        ledger = explained[0].ledger()
        assert sum(row.value for row in ledger.rows) == pytest.approx(ledger.score, abs=1e-5)
    assert pl.explain(made, x, method="grad_cam").map.shape[1:] == (3, 2)


def test_a_coarse_cell_stays_where_it_looks() -> None:
    """ResNet: cells of every scale are centred on multiples of their stride, and so is what they add to the map."""
    torch.manual_seed(0)
    net = zoo.build("torchvision:resnet18", num_classes=2)
    x = torch.randn(1, 3, 96, 128)
    made = multi_scale(net, x, ("layer2", "layer3"))
    assert torch.equal(made(x), net(x))
    scales = {s.name: s for s in made.scales(x)}
    assert [scales[n].geometry.jump[0] for n in ("layer2", "layer3", "layer4")] == [8, 16, 32]
    assert all(s.geometry.registered and s.geometry.start == (0, 0) for s in scales.values())
    # Only layer 4 speaks yet: at its own centres, every fourth fine cell, the map is a sixteenth of its cells.
    told, coarse = made.evidence(x), scales["layer4"].cells
    fine = told.maps / told.positions
    assert fine.shape[2:] == (12, 16)
    assert torch.allclose(fine[..., 4::4, 4::4], coarse[..., 1:, 1:] / 16, atol=1e-6)
    assert told.geometry.receptive_field is not None
    assert told.geometry.receptive_field[0] >= 435 + 32


@pytest.mark.parametrize("pooling", NAMES)
def test_with_pooling_keeps_the_weights_and_says_what_changed(pooling: PoolingName, rank: int) -> None:
    net, x = small(rank), inputs(rank)
    made = with_pooling(net, x, pooling, k=2, sharpness=5)
    features, W, b = net.features(x), net.head.weight, net.head.bias
    own = torch.einsum("cd,bdp->bcp", W, features.flatten(2))
    ways = {"mean": own.mean(2), "gated_attention": own.mean(2), "top_k": own.sort(2).values[..., -2:].mean(2), "lse": (5 * own).exp().mean(2).log() / 5}  # fmt: skip
    assert torch.allclose(made(x), ways[pooling] + b, atol=1e-5)
    kinds = {"mean": "exact", "gated_attention": "exact_at_this_image", "top_k": "retrain", "lse": "retrain"}
    assert made.certificate.kind == kinds[pooling]
    assert ("train it" in str(made.certificate)) == (kinds[pooling] == "retrain")
    if pooling == "mean":
        assert torch.equal(made(x), net(x))
        assert torch.allclose(made.evidence(x).maps, convert(net, x).evidence(x).maps, atol=1e-5)


ODD: dict[str, Any] = {
    "functional relu, in place": (lambda n, x: n.fc(F.relu(n.trunk(x) - 0.5, inplace=True).mean((2, 3))), {"fc": nn.Linear(8, 3)}),
    "the map is the evidence": (lambda n, x: F.relu(n.out(n.trunk(x))).mean((2, 3)), {"out": nn.Conv2d(8, 3, 1)}),
    "no bias": (lambda n, x: n.fc(n.trunk(x).mean((2, 3))), {"fc": nn.Linear(8, 3, bias=False)}),
    "1x1 convolution after pooling": (lambda n, x: n.out(F.adaptive_avg_pool2d(n.trunk(x), 1)).flatten(1), {"out": nn.Conv2d(8, 3, 1)}),
    "fused": (lambda n, x: n.fc(n.bn(n.trunk(x).mean((2, 3)))), {"bn": nn.BatchNorm1d(8), "fc": nn.Linear(8, 3)}),
    "channels last": (lambda n, x: n.fc(n.trunk(x).permute(0, 2, 3, 1).mean((1, 2))), {"fc": nn.Linear(8, 3)}),
    "tokens in a row": (lambda n, x: n.fc(n.norm(n.trunk(x).flatten(2).transpose(1, 2)).mean(1)), {"norm": nn.LayerNorm(8), "fc": nn.Linear(8, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_heads_of_other_networks(name: str) -> None:
    wiring, layers = ODD[name]
    torch.manual_seed(0)
    net, x = roused(Wired(wiring, **layers).eval()), torch.randn(3, 3, 16, 24)
    made = multi_scale(net, x, ("trunk.2",))
    assert torch.allclose(made(x), net(x), atol=1e-5)
    told = stirred(made).evidence(x)
    assert torch.allclose(told.maps.flatten(2).mean(2) + told.bias, made(x), atol=1e-5)
    made.train()
    made(x).square().sum().backward()  # an in-place operation after a stage must not spoil what was taken
    assert all(p.grad is not None for p in made.heads.parameters())


@pytest.mark.parametrize("pooling", NAMES)
@pytest.mark.parametrize("layers", [(), LAYERS])
def test_training_lowers_the_loss_and_keeps_completeness(pooling: PoolingName, layers: tuple[str, ...]) -> None:
    net, x, y = small(), inputs(batch=12), torch.arange(12) % 3
    made = multi_scale(net, x, layers, pooling=pooling).train()
    optimiser = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        logits, maps = made(x, return_evidence=True)
        loss = F.cross_entropy(logits, y) + 1e-3 * maps.abs().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]
    assert all(bool(head.evidence.weight.any()) for head in made.heads)
    told = made.eval().evidence(x)
    summed = told.maps.double().flatten(2).mean(2) + told.bias
    assert torch.allclose(summed.float(), made(x), atol=1e-5)
    assert torch.equal(made.model.head.weight, net.head.weight)  # the old head is kept, and no longer trains
    assert not made.model.head.weight.requires_grad


def test_low_precision_runs_give_maps_in_float32() -> None:
    made, x = stirred(multi_scale(small(), inputs(), LAYERS)), inputs()
    exact = made.evidence_maps(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        told = made.evidence(x)
    assert told.maps.dtype is torch.float32
    assert torch.allclose(told.maps + told.bias.view(1, -1, 1, 1), exact, atol=0.05 * float(exact.abs().max()))


def test_a_batch_is_its_elements_one_at_a_time() -> None:
    made, x = stirred(multi_scale(small(), inputs(), LAYERS, pooling="lse")), inputs(batch=4)
    together = made.evidence_maps(x)
    for i in (2, 0, 3, 1):
        assert torch.allclose(made.evidence_maps(x[i : i + 1])[0], together[i], atol=1e-5)


def test_other_sizes_and_modes() -> None:
    made = stirred(multi_scale(small(), inputs(), LAYERS, pooling="top_k", k=0.3))
    for side in (8, 9, 16, 23):
        x = inputs(side=side)
        told = made.evidence(x)
        assert torch.allclose(told.maps.flatten(2).mean(2) + told.bias, made(x), atol=1e-5)
    assert deepcopy(made)(inputs()).equal(made(inputs()))
    assert multi_scale(small().train(), inputs(), LAYERS).training
    assert made.geometry((2, 2), (8, 8)).jump == (4.0, 4.0)
    assert made.geometry((8, 8), (8, 8)).jump == (1.0, 1.0)


@pytest.mark.parametrize("pooling", NAMES)
def test_a_named_trunk_is_saved_and_rebuilds_itself(pooling: PoolingName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = zoo.build("pellucid:s8", in_channels=2, num_classes=3, channels=[4, 6], strides=[2, 1]), inputs()
    made = stirred(multi_scale(net, x, "features.0", pooling=pooling, classes=("a", "b", "c"), task="multilabel"))
    made.save(tmp_path)
    loaded = pl.load(tmp_path)
    assert isinstance(loaded, MultiScale)
    assert torch.equal(loaded(x), made(x))
    assert torch.equal(loaded.evidence(x).maps, made.evidence(x).maps)
    assert loaded.evidence(x).geometry == made.evidence(x).geometry
    assert (loaded.classes, loaded.task, loaded.stages) == (("a", "b", "c"), "multilabel", made.stages)
    assert loaded.certificate == made.certificate


def test_a_trunk_of_the_users_own_has_to_be_given(tmp_path: Path) -> None:
    net, x = small(), inputs()
    made = stirred(multi_scale(net, x, LAYERS))
    made.save(tmp_path)
    with pytest.raises(OptionError, match="of your own"):
        pl.load(tmp_path)
    loaded = pl.load(tmp_path, model=multi_scale(small(), x, LAYERS))
    assert torch.equal(loaded(x), made(x))
    with pytest.raises(OptionError):
        pl.load(tmp_path, model=multi_scale(small(), x, LAYERS[:1]))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError):
        pl.load(tmp_path, model=multi_scale(small(), x, LAYERS))


def test_layers_that_give_no_map_are_refused() -> None:
    net, x = small(), inputs()
    with pytest.raises(LayerError, match="no layer 'features"):
        multi_scale(net, x, ("features.9",))
    with pytest.raises(LayerError):
        multi_scale(net, x, ("head",))
    pooled = Wired(lambda n, x: n.fc(n.trunk(x).mean((2, 3))) + n.pool(x).flatten(1)[:, :3] * 0, fc=nn.Linear(8, 3), pool=nn.AdaptiveAvgPool2d(1))  # fmt: skip
    with pytest.raises((LayerError, ConversionError)):
        multi_scale(pooled.eval(), torch.randn(2, 3, 16, 16), ("pool",))


def test_networks_that_are_not_exact_are_refused() -> None:
    summed = Wired(lambda n, x: n.fc(n.trunk(x).sum((2, 3))), fc=nn.Linear(8, 3)).eval()
    with pytest.raises(ConversionError, match="sums its cells"):
        multi_scale(summed, torch.randn(2, 3, 16, 16))
    curved = Wired(lambda n, x: n.fc(n.trunk(x).mean((2, 3)).tanh()), fc=nn.Linear(8, 3)).eval()
    with pytest.raises(ConversionError):
        with_pooling(curved, torch.randn(2, 3, 16, 16), "lse")
    with pytest.raises(OptionError, match="no pooling 'max'"):
        with_pooling(small(), inputs(), "max")  # type: ignore[arg-type]


def test_a_map_finer_along_one_axis_and_coarser_along_the_other_adds_up_too() -> None:
    net = Wired(
        lambda n, x: n.fc((n.trunk(x) + 0 * n.tall(x).mean()).mean((2, 3))),
        tall=nn.Conv2d(3, 2, 1, (8, 1)),
        fc=nn.Linear(8, 3),
    ).eval()
    x = torch.randn(2, 3, 16, 24)
    made = stirred(multi_scale(net, x, ("tall",)))
    told = made.evidence(x)
    assert [tuple(s.cells.shape[2:]) for s in made.scales(x)] == [(2, 24), (8, 12)]
    assert told.maps.shape[2:] == (8, 12)
    assert torch.allclose(told.maps.mean((2, 3)) + told.bias, made(x), atol=1e-5)


def test_an_input_without_places_is_refused() -> None:
    made = multi_scale(small(), inputs(), LAYERS)
    with pytest.raises(BadInput, match="no input with places"):
        made(torch.randn(2, 8, 8))
    made.model.forward = lambda x: x.flatten(1)
    with pytest.raises(LayerError, match="did not come by"):
        made(inputs())


def test_a_second_input_by_name() -> None:
    net = Wired(lambda n, x, scale: n.fc(n.trunk(x * scale).mean((2, 3))), fc=nn.Linear(8, 3)).eval()
    x, scale = torch.randn(3, 3, 16, 16), torch.rand(3, 1, 1, 1)
    made = stirred(multi_scale(net, x, ("trunk.2",), kwargs={"scale": scale}))
    explained = pl.explain(made, x, 1, kwargs={"scale": scale})
    assert bool((explained.contributions().residual.abs() < 1e-5).all())
    assert torch.equal(Call(made, (), {"scale": scale})(x), made(x, scale=scale))


@dataclass(frozen=True)
class Spots:
    """Noise; class 1 has one bright pixel."""

    n: int = 32
    classes: tuple[str, ...] = ("none", "spot")
    fingerprint: str = "spots"

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        x = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(index))
        x[:, index % 12, (5 * index) % 12] += 6.0 * (index % 2)
        return Sample(x, index % 2, name=f"s{index}", group=f"s{index}")

    def facts(self, index: int) -> Facts:
        return Facts(f"s{index}", index % 2, f"s{index}")


@pytest.mark.parametrize("pooling", ["lse", "gated_attention"])
def test_the_pooling_is_a_setting_of_training(pooling: str, tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    torch.manual_seed(0)
    net = zoo.build("pellucid:s8", in_channels=2, channels=[8, 8], strides=[2, 1])
    config = pl.TrainingConfig(epochs=6, batch_size=8, lr=2e-2, precision="32", pooling=pooling, pooling_sharpness=3, penalty="l1", strength=1e-3)  # fmt: skip
    run = pl.train(net, Spots(), config, folder=tmp_path, progress=False)
    assert isinstance(run.model, MultiScale)
    assert run.model.heads[0].pooling == pooling
    assert run.model.heads[0].sharpness == 3
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    again = pl.train(net, Spots(), config, folder=tmp_path, progress=False)  # finished: only read
    x = Spots()[1].input[None]
    assert torch.equal(again.model(x), run.model(x))
    assert torch.equal(pl.load(tmp_path)(x), run.model(x))
    explained = pl.explain(run.model, x, "spot")
    assert float(explained.contributions().residual.abs()) < 1e-5
    with pytest.raises(OptionError, match="evidence heads of its own"):
        pl.train(run.model, Spots(), config, progress=False)


def test_instead_of_the_last_layer_the_network_ends_at_the_named_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = zoo.build("torchvision:resnet18", num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    made = stirred(multi_scale(net, x, "layer2", instead=True))
    ran: list[str] = []
    for name, module in made.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    trunk = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2)
    cells, head = trunk(x), made.heads[0].evidence
    torch.testing.assert_close(made(x), head(cells.mean((2, 3))))
    assert "layer1" in ran
    assert not [name for name in ran if name.startswith(("layer3", "layer4", "fc"))]
    torch.testing.assert_close(made.evidence(x).maps, F.conv2d(cells, head.weight[:, :, None, None]))
    e = pl.explain(made, x, 1)
    assert e.geometry.receptive_field == (99.0, 99.0)
    trained = {name.split(".")[0] for name, p in made.model.named_parameters() if p.requires_grad}
    assert trained == {"conv1", "bn1", "layer1", "layer2"}
    made.save(tmp_path)
    again = pl.load(tmp_path)
    assert torch.equal(again(x), made(x))
    assert again.early  # type: ignore[union-attr]


def test_instead_needs_a_layer() -> None:
    with pytest.raises(OptionError, match="nothing instead"):
        multi_scale(small(), inputs(), instead=True)
