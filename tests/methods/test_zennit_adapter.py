from __future__ import annotations

import builtins
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods import METHODS
from pellucid.methods.guided_backprop import guided_backprop
from pellucid.methods.lrp import lrp
from pellucid.registry import look_up
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.nets import CONV, inputs
from reference.untouched import unchanged

za, zc = pytest.importorskip("zennit.attribution"), pytest.importorskip("zennit.composites")
CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))


class Modules(nn.Module):
    """All modules, as Zennit needs; ReLUs in place, as it does not."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[rank]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.all = nn.Sequential(
                CONV[rank](2, 4, 3, stride=2), nn.ReLU(True), CONV[rank](4, 5, 3), nn.ReLU(True), pool(1), nn.Flatten(), nn.Linear(5, 3)
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.all(x)


def start(net: nn.Module, x: Tensor, relevance: bool) -> Tensor:
    y = net(x).detach()
    picked = nn.functional.one_hot(torch.tensor(CLASSES), 3).to(y)
    return picked * y if relevance else picked


def theirs(net: nn.Module, x: Tensor, composite: Any, relevance: bool) -> Tensor:
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    with za.Gradient(net, composite) as attributor:
        found: Tensor = attributor(x.clone(), start(net, x, relevance))[1]
    return found


@pytest.mark.checks("zennit", against="Zennit called by itself", tolerance=1e-12)
@pytest.mark.parametrize(
    ("name", "options", "relevance"),
    [
        ("EpsilonPlus", {}, True),
        ("EpsilonPlus", {"epsilon": 0.1}, True),
        ("EpsilonGammaBox", {"low": -3.0, "high": 3.0}, True),
        ("EpsilonAlpha2Beta1", {}, True),
        ("GuidedBackprop", {}, False),
        ("ExcitationBackprop", {}, False),
    ],
)
def test_gives_what_zennit_gives(
    name: str, options: dict[str, Any], relevance: bool, rank: int, tolerance: float
) -> None:
    net, x = Modules(rank).double().eval(), inputs(rank).double()
    expected = theirs(net, x, getattr(zc, name)(**options), relevance)
    with unchanged(net):
        found = METHODS[f"zennit:{name}"](Call(net), x, TARGET, reduce="none", **options)
    assert error(found.map, expected) < tolerance
    torch.testing.assert_close(found.output, net(x).detach())


def test_equals_the_methods_written_here(rank: int) -> None:
    net, x = Modules(rank).double().eval(), inputs(rank).double()
    assert error(METHODS["zennit:EpsilonPlus"](Call(net), x, TARGET).map, lrp(Call(net), x, TARGET).map) < 1e-9
    assert error(METHODS["zennit:GuidedBackprop"](Call(net), x, TARGET).map, guided_backprop(Call(net), x, TARGET).map) < 1e-12  # fmt: skip


def test_resnets_are_canonized_and_left_as_they_were() -> None:
    """Zennit folds BatchNorm without its eps, which leaves a small factor; `lrp` folds it whole."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_(0, 0.5)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with unchanged(net):
        found = pl.explain(net, x, CLASSES, method="zennit:EpsilonPlus")
    own = pl.explain(net, x, CLASSES, method="lrp")
    assert error(found.map, own.map) < 1e-3
    apart = pl.explain(net, x, CLASSES, method="zennit:EpsilonPlus", canonize=False)
    assert error(apart.map, own.map) > 0.05


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("zennit:EpsilonPlu", {}, "Did you mean 'EpsilonPlus'"),
        ("zennit:LayerMapComposite", {}, "no composite 'LayerMapComposite'"),
        ("zennit:EpsilonPlus", {"epsilom": 1}, "Did you mean 'epsilon'"),
        ("zennit:EpsilonPlus", {"start": "logit"}, "no start 'logit'"),
        ("zennit:EpsilonGammaBox", {}, "needs the option 'low'"),
    ],
)
def test_refusals(method: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        pl.explain(Modules(2), inputs(2), CLASSES, method=method, **options)


def test_without_zennit_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("zennit"):
            raise ImportError(name)
        return own(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(OptionError, match="pip install zennit"):
        look_up(METHODS, "zennit:EpsilonPlus", "method").load()
