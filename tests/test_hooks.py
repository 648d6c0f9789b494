from __future__ import annotations

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid import hooks
from pellucid.errors import LayerError
from reference.nets import GapNet, inputs
from reference.untouched import unchanged


def chosen(model: nn.Module, x: Tensor) -> str:
    return hooks.layer_name(model, hooks.last_spatial_layer(model, model, x))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("densenet121", "features"),
        ("vgg11", "features"),  # before the pooling to 7x7
        ("alexnet", "features"),
        ("googlenet", "inception5b"),
        ("efficientnet_b0", "features"),
        ("mobilenet_v3_small", "features"),
        ("shufflenet_v2_x0_5", "conv5"),
        ("convnext_tiny", "features"),
        ("swin_t", "permute"),  # the first that has its channels in front
    ],
)
def test_the_last_feature_map_of_known_networks(name: str, layer: str) -> None:
    """On tensors without storage: only shapes count."""
    models = pytest.importorskip("torchvision").models
    options = {"init_weights": False} if name in ("googlenet", "vgg11") else {}
    with torch.device("meta"):
        model, x = getattr(models, name)(weights=None, **options).eval(), torch.zeros(1, 3, 224, 224)
    assert chosen(model, x) == layer


@pytest.mark.parametrize(
    ("library", "name"), [("torchvision.models", "vit_b_16"), ("timm", "swin_tiny_patch4_window7_224")]
)
def test_transformers_without_a_map_at_the_end_are_refused(library: str, name: str) -> None:
    models = pytest.importorskip(library)
    with torch.device("meta"):
        model = getattr(models, name)().eval() if library != "timm" else models.create_model(name).eval()
        x = torch.zeros(1, 3, 224, 224)
    with pytest.raises(LayerError, match="comes after its last feature map"):
        chosen(model, x)


def test_channels_last_layers_are_refused_by_name() -> None:
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        model, x = models.swin_t(weights=None).eval(), torch.zeros(1, 3, 224, 224)
    with pytest.raises(LayerError, match="channels come last"):
        hooks.spatial_layer(model, model, x, "features")
    assert hooks.spatial_layer(model, model, x, "permute") is model.permute


def test_the_choice_is_remembered_until_the_network_or_the_input_changes() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    runs = []

    def run(given: Tensor) -> Tensor:
        runs.append(1)
        return net(given)

    for _ in range(3):
        assert hooks.last_spatial_layer(net, run, x) is net.features
    assert len(runs) == 1
    net.features = nn.Sequential(*net.features)
    assert hooks.last_spatial_layer(net, run, x) is net.features
    assert len(runs) == 2
    hooks.last_spatial_layer(net, run, inputs(2, side=32))
    assert len(runs) == 3


def test_a_remembered_network_can_be_forgotten() -> None:
    net = GapNet(1).eval()
    hooks.last_spatial_layer(net, net, inputs(1))
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_a_layer_used_twice_is_passed_over() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.b(self.act(self.a(x)))).flatten(2).mean(2)

    assert chosen(Shared().eval(), inputs(2)) == "b"


def test_no_map_at_all() -> None:
    with pytest.raises(LayerError, match="No layer of this network"):
        chosen(nn.Sequential(nn.Flatten(), nn.Linear(512, 2)), inputs(2))


def test_a_network_compiled_before_is_seen_and_keeps_no_hook() -> None:
    """Compiled code does not ask for hooks that came later."""
    net, x = GapNet(2).eval(), inputs(2)
    model = torch.compile(net, backend="eager")
    with torch.no_grad():
        expected = model(x)
        assert hooks.last_spatial_layer(model, model, x) is net.features  # type: ignore[arg-type]
        with hooks.silent(model, net.features):  # type: ignore[arg-type]
            assert torch.equal(model(x), net.fc.bias.expand(3, 3))
        assert torch.equal(model(x), expected)
    torch._dynamo.reset()


def test_the_tap_gives_the_layers_own_output_and_the_tail_alone_a_graph() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    with unchanged(net):
        with hooks.tap(net, net.features[0]) as taken:
            output = net(x)
        assert taken.name == "features.0"
        torch.testing.assert_close(taken.activation, net.features[0](x))  # not what the in-place ReLU made of it
        assert float(taken.activation.detach().min()) < 0
        assert taken.activation.is_leaf
        slope = hooks.gradient(output[:, 0], taken.activation, "it")
        assert slope.shape == taken.activation.shape
        with pytest.raises(RuntimeError):  # nothing before the layer was recorded
            torch.autograd.grad(net(x)[:, 0].sum(), taken.activation)
    with hooks.tap(net, net.features[0], gradient=False) as plain:
        assert not net(x).requires_grad
    assert not plain.activation.requires_grad


def test_a_tap_refuses_what_is_no_map() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.idle, self.fc = Pair(), nn.ReLU(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.pair(x)[0].flatten(2).mean(2))

    net, x = Net().eval(), inputs(2)
    with unchanged(net):
        with pytest.raises(LayerError, match="tuple with 2 feature maps"), hooks.tap(net, net.pair):
            net(x)
        with hooks.tap(net, net.idle) as taken:
            net(x)
        with pytest.raises(LayerError, match="ran 0 times"):
            _ = taken.activation
        with hooks.tap(net, net.fc) as taken:
            net(x)
        with pytest.raises(LayerError, match=r"gives \(3, 2\) for inputs \(3, 2, 16, 16\)"):
            taken.feature_map(x)
        with pytest.raises(ArithmeticError), hooks.tap(net, net.fc):
            raise ArithmeticError


def test_layers_are_found_by_name_or_identity() -> None:
    net = GapNet(2)
    assert hooks.find_layer(net, "features.2") is net.features[2]
    assert hooks.find_layer(net, net.fc) is net.fc
    with pytest.raises(LayerError, match=r"Did you mean 'features\.2'"):
        hooks.find_layer(net, "feature.2")
    with pytest.raises(LayerError, match="not a layer of this network"):
        hooks.find_layer(net, nn.Linear(1, 1))


@pytest.mark.parametrize("failing", [False, True])
def test_untouched_gives_everything_back(failing: bool) -> None:
    net = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Dropout(), nn.BatchNorm1d(2))
    net[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)

    def meddle() -> None:
        with hooks.untouched(net):
            assert not any(m.training for m in net.modules())
            net(torch.randn(2, 2, 4)).sum().backward()
            net.requires_grad_(False)
            net.train()
            torch.set_grad_enabled(False)
            random.random()
            np.random.rand()
            if failing:
                raise ArithmeticError

    with unchanged(net):
        if failing:
            with pytest.raises(ArithmeticError):
                meddle()
        else:
            meddle()
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))


def test_detached_reaches_into_containers() -> None:
    x = torch.ones(1, requires_grad=True) * 2
    found = hooks.detached({"a": [x, (x, "word")]})
    assert found == {"a": [x, [x, "word"]]}
    assert not found["a"][0].requires_grad
    assert not found["a"][1][0].requires_grad


def test_a_silent_layer_gives_zeros_and_speaks_again_afterwards(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    with unchanged(net), torch.no_grad():
        before = net(x)
        with hooks.silent(net, net.features):
            assert torch.equal(net(x), net.fc.bias.expand(3, -1))  # the mean of nothing
        assert torch.equal(net(x), before)


def test_what_is_listened_to_can_be_differentiated_to_the_input() -> None:
    net, x = GapNet(1).eval(), inputs(1).requires_grad_()
    with unchanged(net), hooks.listen(net, net.features[0]) as heard:
        net(x)
    (slope,) = torch.autograd.grad(heard.activation.sum(), x)
    (expected,) = torch.autograd.grad(net.features[0](x).sum(), x)  # before the ReLU that works in place on it
    assert torch.equal(slope, expected)
