from __future__ import annotations

import builtins
import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import LayerError, OptionError
from pellucid.methods import METHODS
from pellucid.registry import look_up
from pellucid.targets import ClassTarget, ContrastTarget
from reference import input_methods as literal
from reference.cam import error
from reference.nets import GapNet, inputs
from reference.untouched import unchanged

attr = pytest.importorskip("captum.attr")
CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))


class Plain(nn.Module):
    """GapNet as Captum wants it: modules, nothing in place."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        own = GapNet(rank)
        self.features = nn.Sequential(own.features[0], nn.ReLU(), own.features[2], nn.ReLU())
        self.fc = own.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(2).mean(2))


def theirs(kind: str, net: nn.Module, x: Tensor, *place: Any, **options: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = getattr(attr, kind)(net, *place)
        found: Tensor = made.attribute(x.clone().requires_grad_(), target=torch.tensor(CLASSES), **options)
    return found


def ours(kind: str, net: nn.Module, x: Tensor, target: Any = TARGET, **options: Any) -> Tensor:
    return METHODS[f"captum:{kind}"](Call(net, batch=len(x)), x, target, reduce="none", **options).map


@pytest.mark.checks("captum", against="Captum called by itself", tolerance=1e-9)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DeepLift", {"baselines": 0.3}),
        ("DeepLiftShap", {"baselines": torch.zeros(2, 2, 16, 16, dtype=torch.float64)}),
        ("IntegratedGradients", {"n_steps": 7}),
        ("FeatureAblation", {"feature_mask": torch.arange(16).repeat_interleave(16).view(1, 1, 16, 16)}),
        ("Occlusion", {"sliding_window_shapes": (2, 5, 5), "strides": (2, 4, 4), "perturbations_per_eval": 3}),
        ("GuidedBackprop", {}),
        ("Deconvolution", {}),
        ("InputXGradient", {}),
        ("Saliency", {"abs": False}),
    ],
)
def test_gives_what_captum_gives(kind: str, options: dict[str, Any], tolerance: float) -> None:
    """On a network with in-place ReLUs, where Captum alone is given one without."""
    net, x = GapNet(2).double().eval(), inputs(2).double()
    found = ours(kind, net, x, **options)
    assert error(found, theirs(kind, Plain(2).double().eval(), x, **options)) < tolerance


@pytest.mark.parametrize("kind", ["LayerGradCam", "LayerConductance", "LayerDeepLift"])
def test_methods_of_a_layer_stand_on_its_cells(kind: str) -> None:
    net, x, plain = GapNet(2).double().eval(), inputs(2).double(), Plain(2).double().eval()
    found = METHODS[f"captum:{kind}"](Call(net, batch=3), x, TARGET, layer="features.1")
    assert error(found.map, theirs(kind, plain, x, plain.features[1]).sum(1)) < 1e-9
    assert found.layer == "features.1"
    assert found.geometry.grid == (8, 8)
    assert METHODS[f"captum:{kind}"](Call(net), x, TARGET).layer == "features"
    with pytest.raises(LayerError, match=r"gives \(3, \d\)"):
        METHODS[f"captum:{kind}"](Call(net, batch=3), x, TARGET, layer=net.fc)


def test_ranks_and_other_targets_and_inputs() -> None:
    """Captum repeats rows as it likes; targets and arguments of the inputs follow."""

    class Scaled(GapNet):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * scale[:, None]

    for rank in (1, 3):
        x, scale = inputs(rank, side=8).double(), torch.tensor([1.0, -2.0, 3.0]).double()
        net, plain = Scaled(rank).double().eval(), Plain(rank).double().eval()
        call = Call(net, args=(scale,), batch=3)
        target = ContrastTarget(torch.tensor(CLASSES), torch.tensor([1, 1, 2]))
        found = METHODS["captum:IntegratedGradients"](call, x, target, n_steps=3, reduce="none").map
        single = attr.IntegratedGradients(plain)
        a, b = (single.attribute(x, target=torch.as_tensor(t), n_steps=3) for t in (target.a, target.b))
        assert error(found, (a - b) * scale.view(3, 1, *(1,) * rank)) < 1e-6


MASK = torch.arange(4).view(1, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3).contiguous()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("KernelShap", {"feature_mask": MASK, "n_samples": 8}),
        ("ShapleyValueSampling", {"feature_mask": MASK, "n_samples": 2}),
        ("GradientShap", {"baselines": torch.zeros(1, 2, 16, 16), "stdevs": 0.1}),  # draws from NumPy too
    ],
)
def test_chance_comes_from_the_seed_alone(kind: str, options: dict[str, Any]) -> None:
    net, x = GapNet(2).eval(), inputs(2, batch=2)

    def drawn(seed: int) -> Tensor:
        return pl.explain(net, x, 1, method=f"captum:{kind}", seed=seed, **options).map

    with unchanged(net):
        first = drawn(1)
    torch.rand(3)
    assert torch.equal(drawn(1), first)
    assert not torch.equal(drawn(2), first)


def test_shapley_values_add_up_by_hand() -> None:
    net, x = GapNet(2).double().eval(), inputs(2, batch=1).double()
    mask = (torch.arange(256).view(1, 1, 16, 16) // 128).expand(1, 2, 16, 16).contiguous()
    found = METHODS["captum:ShapleyValues"](Call(net), x, ClassTarget(1), feature_mask=mask, reduce="none").map

    def value(upper: int, lower: int) -> float:
        part = torch.where(mask == 0, x * upper, x * lower)
        return float(net(part).detach()[0, 1])

    upper = ((value(1, 0) - value(0, 0)) + (value(1, 1) - value(0, 1))) / 2
    assert float(found[0, 0, 0, 0]) == pytest.approx(upper, rel=1e-5)
    assert float(found[0, 1, 15, 15]) == pytest.approx(value(1, 1) - value(0, 0) - upper, rel=1e-5)


def test_explain_names_it_and_leaves_the_network_alone() -> None:
    net, x = GapNet(2), inputs(2)
    with unchanged(net):
        e = pl.explain(net, x, CLASSES, method="captum:DeepLift")
    assert e.method == "captum:DeepLift"
    assert e.map.shape == (3, 16, 16)
    assert error(e.map, theirs("DeepLift", Plain(2).eval(), x).sum(1)) < 1e-5
    table = pl.explain(net, x, CLASSES, method="captum:IntegratedGradients", method_="riemann_left", n_steps=3)
    assert (
        error(table.map, theirs("IntegratedGradients", net.eval(), x, n_steps=3, method="riemann_left").sum(1)) < 1e-5
    )


def test_a_network_that_fails_is_not_blamed_on_an_option() -> None:
    class Fragile(GapNet):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += 1
            if self.calls > 1:
                raise ValueError("half way")
            return super().forward(x)

    with pytest.raises(ValueError, match="half way"):
        METHODS["captum:Saliency"](Call(Fragile(2).eval()), inputs(2), TARGET)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("captum:DeepLif", {}, "Did you mean 'DeepLift'"),
        ("captum:NoiseTunnel", {}, "no method 'NoiseTunnel'"),
        ("captum:LayerActivation", {}, "no method 'LayerActivation'"),
        ("captum:DeepLift", {"baseline": 0}, "has no option 'baseline'.\nDid you mean 'baselines'"),
        ("captum:DeepLift", {"target": 3}, None),
        ("captum:Occlusion", {}, "needs the option 'sliding_window_shapes'"),
        ("captum:Occlusion", {"sliding_window_shapes": (2, 99, 99)}, "captum:Occlusion refuses this.\nSliding window"),
        ("captun:DeepLift", {}, "no method called 'captun:DeepLift'"),
        ("captum:", {}, "no method called 'captum:'"),
    ],
)
def test_refusals(method: str, options: dict[str, Any], words: str | None) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    if words is None:  # `target` is explain's own word, never Captum's
        assert "target" not in list(inspect.signature(look_up(METHODS, method, "method").load()).parameters)[3:]
        return
    with unchanged(net), pytest.raises(OptionError, match=words):
        pl.explain(net, x, CLASSES, method=method, **options)


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("captum"):
            raise ImportError(name)
        return own(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(OptionError, match=r"pip install 'pellucid\[captum\]'"):
        look_up(METHODS, "captum:DeepLift", "method").load()


def test_adapters_answer_by_name_without_being_listed() -> None:
    assert "captum:DeepLift" in METHODS
    assert METHODS["captum:DeepLift"].summary == "DeepLift of captum"
    assert not [name for name in METHODS if ":" in name]
    assert "saliency:DeepLift" not in METHODS
    with pytest.raises(KeyError):
        METHODS["nothing"]


@pytest.mark.bug("B13")
def test_functional_relus_are_out_of_captums_sight() -> None:
    """What the documentation warns of; `guided_backprop` meets them."""
    net, x = literal.Swapped(GapNet(2), nn.functional.relu).double().eval(), inputs(2).double()
    with_captum, own = (
        ours("GuidedBackprop", net, x),
        METHODS["guided_backprop"](Call(net), x, TARGET, reduce="none").map,
    )
    assert error(with_captum, literal.gradient(net, x, CLASSES)) < 1e-12
    assert error(with_captum, own) > 0.1
