from __future__ import annotations

import copy
import gc
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pellucid.call import Call
from pellucid.errors import LayerError, OptionError
from pellucid.methods.lrp import lrp
from pellucid.targets import ClassTarget, ContrastTarget, RegionTarget, SingleLogitTarget
from reference import input_methods as literal
from reference.cam import error
from reference.nets import CONV, GapNet, inputs

CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))
SIDE = {1: 16, 2: 8, 3: 5}


def relevance(net: nn.Module, x: Tensor, target: Any = TARGET, **options: Any) -> Tensor:
    return lrp(Call(net), x, target, reduce="none", **options).map


@pytest.mark.checks("lrp", against="a literal version, each layer as a dense matrix", tolerance=1e-10)
def test_equals_the_literal_version(rank: int, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank, side=SIDE[rank]).double()
    expected = literal.lrp_gap_net(net, x, CLASSES)
    assert error(relevance(net, x), expected) < tolerance
    assert error(lrp(Call(net), x, TARGET).map, expected.sum(1)) < tolerance


@pytest.mark.checks("lrp", against="a literal version, each layer as a dense matrix", tolerance=1e-10)
def test_residual_connections_and_batch_norm_equal_the_literal_version(rank: int, tolerance: float) -> None:
    net, x = literal.Residual(rank).double().eval(), inputs(rank, side=SIDE[rank]).double()
    assert error(relevance(net, x), literal.lrp_residual(net, x, CLASSES)) < tolerance


def without_biases(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            module.bias.data.zero_()
        if hasattr(module, "running_mean"):
            module.running_mean.zero_()  # type: ignore[operator, union-attr]
    return net


@pytest.mark.parametrize("kind", [GapNet, lambda rank: literal.Residual(rank, rectified=True)])
def test_without_biases_nothing_is_lost(kind: Any, rank: int) -> None:
    net, x = without_biases(kind(rank)).double().eval(), inputs(rank).double()
    found = lrp(Call(net), x, TARGET, epsilon=1e-15)
    torch.testing.assert_close(found.map.flatten(1).sum(1), found.target(found.output))  # type: ignore[misc]


class Mixed(nn.Module):
    """Pooling, joining, a transposed convolution with groups and BatchNorm, interpolation, a mean of parts, dropout."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[rank]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.c1, self.up = CONV[rank](2, 4, 3, padding=1), transposed(4, 6, 2, stride=2, groups=2)
            self.norm, self.c2 = literal.NORM[rank](6), CONV[rank](8, 4, 1)
            self.norm.weight.data.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
            self.fc = nn.Linear(4, 3)
        self.rank = rank

    def forward(self, x: Tensor) -> Tensor:
        n = self.rank
        pool, mean = getattr(F, f"max_pool{n}d"), getattr(F, f"avg_pool{n}d")
        y = F.relu(self.c1(x) * 0.5, inplace=True)
        y = F.relu6(self.norm(self.up(pool(y, 2))))
        y = torch.cat([y, F.pad(x, (0, 0) * n)], 1)
        y = torch.relu(self.c2(F.interpolate(mean(y, 2), scale_factor=2.0))) - 0.5 * y[:, :4].clone()
        y = F.dropout(getattr(F, f"adaptive_avg_pool{n}d")(torch.relu_(y), 2), training=self.training)
        return self.fc(y.flatten(2).mean(-1))


def test_every_rule_keeps_the_whole(rank: int) -> None:
    net, x = without_biases(Mixed(rank)).double().eval(), inputs(rank, side=8).double()
    found = lrp(Call(net), x, TARGET, epsilon=1e-15)
    torch.testing.assert_close(found.map.flatten(1).sum(1), found.target(found.output), rtol=1e-6, atol=1e-9)  # type: ignore[misc]


def plain(net: nn.Module) -> nn.Module:
    """What Zennit needs: nothing in place, and BatchNorm folded (its own folding keeps eps as a factor)."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
        before: Any = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(module, name, nn.Identity())
            before = (name, child)
    return net


@pytest.mark.checks("lrp", against="Zennit EpsilonPlus on ResNet-18 and SqueezeNet", tolerance=1e-9)
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_equals_zennit_on_real_architectures(name: str, tolerance: float) -> None:
    torchvision = pytest.importorskip("torchvision")
    za, zc = pytest.importorskip("zennit.attribution"), pytest.importorskip("zennit.composites")
    from zennit.torchvision import ResNetCanonizer

    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None, num_classes=8).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_(0, 0.5)
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = relevance(net, x, ClassTarget(torch.tensor([3, 7])))
    start = torch.zeros(2, 8, dtype=torch.float64)
    start[[0, 1], [3, 7]] = net(x).detach()[[0, 1], [3, 7]]
    with za.Gradient(plain(net), zc.EpsilonPlus(canonizers=[ResNetCanonizer()])) as attributor:
        assert error(ours, attributor(x.clone(), start)[1]) < tolerance


def test_what_works_in_place_is_as_if_it_did_not() -> None:
    class InPlace(GapNet):
        inplace = True

        def forward(self, x: Tensor) -> Tensor:
            y = self.features[0](x)
            z = y.relu_() if self.inplace else y.relu()
            if self.inplace:
                z += 0.3
                z *= 2
            else:
                z = (z + 0.3) * 2
            out = torch.zeros_like(z)
            if self.inplace:
                out += z
                out[:, :2] = z[:, 1:3]
            else:
                out = torch.cat([z[:, 1:3], z[:, 2:]], 1)
            return self.fc(F.relu(self.features[2](out)).flatten(2).mean(2))

    net, x = InPlace(2).double().eval(), inputs(2).double()
    changing = relevance(net, x)
    net.inplace = False
    assert error(changing, relevance(net, x)) < 1e-12


def test_starts_from_every_kind_of_target() -> None:
    """A contrast starts from both logits with their signs, the other answer from minus the logit, a region from its share."""
    net, x = GapNet(2).double().eval(), inputs(2).double()
    a, b = (relevance(net, x, ClassTarget(c)) for c in (2, 0))
    assert error(relevance(net, x, ContrastTarget(2, 0)), a - b) < 1e-10
    one = GapNet(2, classes=1).double().eval()
    assert error(relevance(one, x, SingleLogitTarget(False)), -relevance(one, x, SingleLogitTarget(True))) < 1e-12
    torch.manual_seed(0)
    maps = without_biases(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))).double().eval()
    maps[2].weight.data.abs_()
    region = torch.zeros(16, 16, dtype=torch.bool)
    region[1:3, 2:5] = True
    found = lrp(Call(maps), x, RegionTarget(1, region), epsilon=1e-15)
    torch.testing.assert_close(found.map.flatten(1).sum(1), found.target(found.output))  # type: ignore[misc]
    assert not found.map[:, 5:].any()


def test_what_meets_no_positive_part_is_lost_as_the_rule_says() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten()).eval()
    net[0].weight.data = torch.tensor([2.0, -3.0]).view(2, 1, 1, 1)
    x = torch.ones(1, 1, 1, 1)
    assert relevance(net, x, ClassTarget(0)).item() == pytest.approx(2, abs=1e-5)
    assert relevance(net, x, ClassTarget(1)).item() == 0


def test_a_cancelling_sum_stays_finite() -> None:
    class Zero(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x)

    assert bool(relevance(Zero(2).eval(), inputs(2)).isfinite().all())


def test_nothing_stays_in_memory() -> None:
    net, x = literal.Residual(2).eval(), inputs(2)

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())  # asking objects themselves wakes lazy ones

    relevance(net, x)
    before = alive()
    for _ in range(5):
        relevance(net, x)
    assert alive() <= before


class Gated(GapNet):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.fc((y * y.flatten(2).mean(2)[:, :, None, None].tanh()).flatten(2).mean(2))


class Normed(GapNet):
    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        self.features = nn.Sequential(self.features[0], nn.GroupNorm(2, 4), *self.features[1:])


class OwnFunction(GapNet):
    def forward(self, x: Tensor) -> Tensor:
        y = literal.DeconvReLU.apply(self.features(x))
        return self.fc(y.flatten(2).mean(2))


class ByInput(GapNet):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.features(x).flatten(2).mean(2), self.fc.weight * x.mean(), self.fc.bias)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Gated(2), "no rule for mul"),
        (Normed(2), "no rule for group_norm, which layer 'features.1' calls"),
        (nn.Sequential(GapNet(2), nn.Softmax(1)), "no rule for softmax"),
        (OwnFunction(2), "custom function"),
        (ByInput(2), "no rule for linear"),
        (nn.Sequential(nn.InstanceNorm2d(2), GapNet(2)), "no rule for instance_norm"),
        (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), GapNet(2)), "no rule for batch_norm"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(net: nn.Module, words: str) -> None:
    with pytest.raises(LayerError, match=words):
        relevance(net.eval(), inputs(2))


def test_scripted_parts_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted: Any = torch.jit.trace(torch.relu, torch.zeros(1))

    class Hidden(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(scripted(self.features[:3](x)).flatten(2).mean(2))

    with pytest.raises(LayerError, match="scripted or custom function"):
        relevance(Hidden(2).eval(), inputs(2))


def test_weights_made_of_weights_are_weights() -> None:
    class Standardised(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.fc.weight / self.fc.weight.std()
            return F.linear(self.features(x).flatten(2).mean(2), weight)

    net, x = Standardised(2).double().eval(), inputs(2).double()
    by_hand = copy.deepcopy(GapNet(2)).double().eval()
    by_hand.fc.weight.data /= by_hand.fc.weight.data.std()
    by_hand.fc.bias.data.zero_()
    assert error(relevance(net, x), relevance(by_hand, x)) < 1e-12


def test_refusals() -> None:
    with pytest.raises(OptionError, match="epsilon=0"):
        relevance(GapNet(2), inputs(2), epsilon=0)

    class Cut(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    with pytest.raises(LayerError, match="does not depend on the input"):
        relevance(Cut(2).eval(), inputs(2))
