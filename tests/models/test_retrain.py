"""Kind retrain: the head on every cell, warm-started; against the original where algebra keeps it, and against loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import ConversionError, OptionError
from pellucid.models import zoo
from pellucid.models.convert import convert
from pellucid.models.retrain import Retrained
from pellucid.models.s8 import S8
from pellucid.sample import Sample
from pellucid.training.distil import distil
from reference.odd_nets import Wired, roused, trunk
from reference.untouched import unchanged

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def vgg_like() -> nn.Module:
    """A trunk with an 8 x 8 map, pooled to 4 x 4, flattened, two hidden layers."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = trunk()
            self.avgpool = nn.AdaptiveAvgPool2d(4)
            self.classifier = nn.Sequential(
                nn.Linear(8 * 16, 12),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(12, 10),
                nn.ReLU(),
                nn.Linear(10, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    net = roused(Net().eval())
    with torch.no_grad():  # so that answers differ between images
        for layer in net.classifier:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(6)
        alike = net.classifier[0].weight.view(12, 8, 16)
        alike.copy_(alike.mean(2, keepdim=True) + 0.1 * alike)  # places differ a little, as in trained networks
    return net


def test_the_papers_head_for_vgg_with_weights_summed_over_places() -> None:
    net = vgg_like()
    with unchanged(net):
        softcam = convert(net, X, kind="retrain")
    assert softcam.certificate.kind == "retrain"
    z, c = net.features(X), net.classifier
    weight = c[0].weight.view(12, 8, 16).sum(2)
    expected = torch.empty(4, 3, 8, 8)
    for i in range(8):
        for j in range(8):
            hidden = torch.relu(z[:, :, i, j] @ weight.T + c[0].bias)
            expected[:, :, i, j] = c[5](torch.relu(c[3](hidden)))
    maps = softcam.evidence_maps(X)
    assert torch.allclose(maps, expected, atol=1e-5)
    assert torch.allclose(maps.mean((2, 3)), softcam(X), atol=1e-6)


def test_where_all_cells_are_alike_nothing_changes() -> None:
    net = vgg_like()
    softcam = convert(net, X, kind="retrain")
    even = torch.randn(4, 8, 1, 1).expand(4, 8, 8, 8)
    network = softcam.model
    assert isinstance(network, Retrained)
    expected = net.classifier(torch.flatten(net.avgpool(even), 1))
    assert torch.allclose(network.head(even).mean((2, 3)), expected, atol=1e-5)


def test_a_straight_head_keeps_its_logits(rank: int) -> None:
    net = roused(S8(2, 3, rank=rank, channels=(4, 8), strides=(2, 2)).eval())
    x = torch.randn(3, 2, *(16,) * rank)
    softcam = convert(net, x, kind="retrain")
    assert torch.allclose(softcam(x), net(x), atol=1e-5)
    assert softcam.certificate.agreement == (1.0,)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "shufflenet_v2_x0_5"])
def test_networks_of_torchvision(name: str) -> None:
    """Late pooling, one cell at a time: the old head on maps that are everywhere like that cell."""
    net = roused(zoo.build(f"torchvision:{name}", num_classes=4))
    x = torch.randn(2, 3, 64, 64)
    softcam = convert(net, x, kind="retrain")
    z = softcam.model.features(x)
    maps = softcam.evidence_maps(x)
    head = (lambda m: net.fc(m.mean((2, 3)))) if hasattr(net, "fc") else (lambda m: net.classifier(_pooled(net, m)))
    for i in range(2):
        for j in range(2):
            alike = z[:, :, i, j][:, :, None, None].expand_as(z)
            assert torch.allclose(maps[:, :, i, j], head(alike), atol=1e-4)


def _pooled(net: Any, maps: Tensor) -> Tensor:
    pooled = net.avgpool(maps)
    return pooled if isinstance(net.classifier[0], nn.LayerNorm) else pooled.flatten(1)


def test_a_head_that_is_no_chain_of_layers_is_refused() -> None:
    net = Wired(lambda n, x: n.fc(torch.relu(n.trunk(x).mean((2, 3)))), fc=nn.Linear(8, 3))
    with pytest.raises(ConversionError, match="relu in its forward method"):
        convert(net, X, kind="retrain")


def test_it_is_saved_and_loaded(tmp_path: Any) -> None:
    net = zoo.build("torchvision:mobilenet_v3_small", num_classes=4)
    softcam = convert(net, torch.randn(2, 3, 64, 64), kind="retrain").eval()
    softcam.save(tmp_path / "zoo")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(pl.load(tmp_path / "zoo")(x), softcam(x))
    own = vgg_like()
    mine = convert(own, X, kind="retrain").eval()
    mine.save(tmp_path / "own")
    with unchanged(own):
        loaded = pl.load(tmp_path / "own", model=own)
    assert torch.equal(loaded(X), mine(X))
    assert loaded.certificate == mine.certificate
    with pytest.raises(OptionError, match="of your own"):
        pl.load(tmp_path / "own")


# ---- distillation


class Pictures:
    """Blobs at random places: what the cells see differs, so that the new head has something to learn again."""

    classes = None

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.images = 0.3 * torch.randn(count, 3, 16, 16, generator=generator)
        for image in self.images:
            i, j = torch.randint(0, 12, (2,), generator=generator).tolist()
            image[int(torch.randint(0, 3, (1,), generator=generator)), i : i + 4, j : j + 4] += 2

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Sample:
        return Sample(self.images[i], name=str(i))


def test_distillation_brings_the_answers_back() -> None:
    net, data = vgg_like(), Pictures(80)
    softcam = convert(net, data.images[:4], kind="retrain")
    before = {k: v.clone() for k, v in softcam.state_dict().items()}
    with unchanged(net):
        taught = distil(softcam, net, data, epochs=40, learning_rate=3e-3)
    assert all(torch.equal(v, before[k]) for k, v in softcam.state_dict().items())
    tested = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:16]
    x = data.images[tested]
    with torch.no_grad():
        wanted, was, now = net(x), softcam(x), taught(x)

    def divergence(logits: Tensor) -> float:
        return float((wanted.softmax(1) * (wanted.log_softmax(1) - logits.log_softmax(1))).sum(1).mean())

    assert divergence(now) < 0.5 * divergence(was)
    agreement = taught.certificate.agreement
    assert agreement is not None
    assert agreement[0] == pytest.approx(float((was.argmax(1) == wanted.argmax(1)).float().mean()))
    assert agreement[1] == pytest.approx(float((now.argmax(1) == wanted.argmax(1)).float().mean()))
    assert torch.allclose(taught.evidence_maps(x).mean((2, 3)), now, atol=1e-5)
    assert all(p.grad is None for p in taught.parameters())
    trunks = zip(taught.model.trunk.parameters(), softcam.model.trunk.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in trunks)


def test_distillation_repeats_itself_and_leaves_chance_alone() -> None:
    net, data = vgg_like(), Pictures(12)
    softcam = convert(net, data.images[:4], kind="retrain")
    state = torch.get_rng_state()
    a, b = (distil(softcam, net, data, epochs=2, trunk=True) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(next(a.model.trunk.parameters()), next(softcam.model.trunk.parameters()))


def test_only_a_replaced_head_is_distilled() -> None:
    net = S8(3, 3, channels=(4, 8), strides=(2, 2)).eval()
    with pytest.raises(OptionError, match="head was replaced"):
        distil(convert(net, X), net, Pictures(8))
