from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import BadInput, ConversionError, LayerError, OptionError
from pellucid.models import zoo
from pellucid.models.convert import convert
from pellucid.models.s8 import S8
from reference.odd_nets import Wired, roused, without_chance
from reference.untouched import unchanged

# name, side of the input; the second list takes some seconds each
QUICK = [("resnet18", 64), ("mobilenet_v2", 64), ("shufflenet_v2_x0_5", 64), ("mnasnet0_5", 64), ("regnet_y_400mf", 64)]
SLOW = [
    ("resnet50", 64),
    ("densenet121", 64),
    ("efficientnet_b0", 64),
    ("googlenet", 64),
    ("inception_v3", 299),
    ("swin_t", 64),
    ("r3d_18", 32),
    ("regnet_x_400mf", 64),
]
NETS = [*QUICK, *(pytest.param(*n, marks=pytest.mark.slow) for n in SLOW)]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return roused(zoo.build(f"torchvision:{name}", num_classes=7))


def example(name: str, side: int, batch: int = 2) -> Tensor:
    frames = (8,) if name == "r3d_18" else ()
    return torch.randn(batch, 3, *frames, side, side, generator=torch.Generator().manual_seed(1))


def conv_net_1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 7, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 12, 5, dilation=2), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(12, 3),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "side"), NETS)
def test_logits_are_the_networks_and_evidence_adds_up(name: str, side: int) -> None:
    model, x = network(name), example(name, side)
    softcam = convert(model, x)
    with torch.no_grad():
        expected, told = model(x), softcam.evidence(x)
    assert torch.equal(softcam(x), expected)
    sums = told.maps.flatten(2).mean(2) + told.bias
    assert (sums - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert softcam.certificate.kind == "exact"
    assert softcam.certificate.flips == 0
    assert dict(softcam.model.state_dict()).keys() == model.state_dict().keys()
    assert sum(p.numel() for p in softcam.parameters()) == sum(p.numel() for p in model.parameters())


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]


def main_logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def check_gradients(model: nn.Module, x: Tensor) -> None:
    model = without_chance(model.double().train())
    softcam = convert(model, x.double())
    assert softcam.training
    assert softcam.model.training
    labels = torch.arange(len(x)) % 2
    output = model(x.double())
    other, maps = softcam(x.double(), return_evidence=True)
    assert type(other) is type(output)  # auxiliary outputs are kept
    for mine, theirs in zip(
        other if isinstance(other, tuple) else [other], output if isinstance(output, tuple) else [output], strict=True
    ):
        assert torch.equal(mine, theirs)
    expected = gradients(F.cross_entropy(main_logits(output), labels), model)
    found = gradients(F.cross_entropy(maps.flatten(2).mean(2), labels), softcam.model)
    largest = max(float(g.abs().max()) for g in expected)
    assert largest > 0
    assert max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)) <= 1e-9 * largest


@pytest.mark.parametrize(("name", "side"), NETS)
def test_gradients_in_training_mode_are_the_networks(name: str, side: int) -> None:
    check_gradients(network(name), example(name, side, batch=4 if name != "r3d_18" else 2))


def test_gradients_of_a_one_dimensional_network() -> None:
    check_gradients(roused(conv_net_1d()), torch.randn(4, 2, 60, generator=torch.Generator().manual_seed(2)))


def test_gradients_for_every_rank(rank: int) -> None:
    torch.manual_seed(rank)
    check_gradients(roused(S8(2, 3, rank, channels=(4, 6), strides=(2, 1))), torch.randn(3, 2, *(8,) * rank))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.slow
def test_auxiliary_classifiers_stay_in_training_mode(name: str) -> None:
    model = network(name).train()
    softcam = convert(model, example(name, 299))
    output, _ = softcam(example(name, 299), return_evidence=True)
    assert type(output).__name__.lower().startswith(name.split("_")[0][:6])
    assert output._fields == model(example(name, 299))._fields


def literal_cam(features: Tensor, head: nn.Linear) -> Tensor:
    maps = torch.zeros(len(features), head.out_features, *features.shape[2:])
    for c in range(head.out_features):
        for k in range(head.in_features):
            maps[:, c] += head.weight[c, k] * features[:, k]
    return maps


def test_maps_are_class_activation_maps_of_the_last_block() -> None:
    model, x = network("resnet18"), example("resnet18", 64)
    seen: list[Tensor] = []
    handle = model.layer4.register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad():
        model(x)
        handle.remove()
        told = convert(model, x).evidence(x)
        expected = literal_cam(seen[0], model.fc)
    assert torch.allclose(told.maps, expected, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(told.bias, model.fc.bias)


def test_densenets_functional_relu_is_part_of_the_maps() -> None:
    torch.manual_seed(0)
    model = roused(small_densenet())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.features(x)
        assert (features < 0).any()
        softcam = convert(model, x)
        expected = literal_cam(features.relu(), model.classifier)
        assert torch.allclose(softcam.evidence(x).maps, expected, atol=1e-5 * float(expected.abs().max()))


def small_densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(4, (2, 2, 2, 2), 8, num_classes=3).eval()


# ---- refusals


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("alexnet", ["classifier.1", "Linear", "flattened"]),
        pytest.param("vgg11", ["classifier.0", "Linear", "flattened"], marks=pytest.mark.slow),
        ("mobilenet_v3_small", ["classifier.1", "Hardswish"]),
        pytest.param("convnext_tiny", ["classifier.0", "LayerNorm"], marks=pytest.mark.slow),
    ],
)
def test_refusals_name_the_layer(name: str, words: list[str]) -> None:
    model = network(name)
    with pytest.raises(ConversionError) as caught, unchanged(model):
        convert(model, example(name, 64), kind="exact")
    assert all(w in caught.value.message for w in words), caught.value.message
    assert caught.value.hint


def test_class_tokens_are_refused() -> None:
    from torchvision.models import VisionTransformer

    model = roused(VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3).eval())
    with pytest.raises(ConversionError, match=r"1 of the 17 places of .*class token"):
        convert(model, torch.randn(2, 3, 32, 32))


def test_a_convnext_of_small_size_is_refused() -> None:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    model = roused(ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], num_classes=3).eval())
    with pytest.raises(ConversionError, match=r"native_layer_norm in 'classifier.0' \(LayerNorm2d\)"):
        convert(model, torch.randn(2, 3, 32, 32), kind="exact")


def softmax_at_the_end(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.trunk(x).mean((2, 3))).softmax(1)


def two_ways(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.trunk(x).mean((2, 3))) + x.mean((2, 3))[:, :1]


def partly_pooled(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.trunk(x)[:, :, :5].mean((2, 3)))


def max_pooled(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.trunk(x).amax((2, 3)))


def flattened(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.trunk(x).flatten(1))


def hidden_in_the_head(net: Any, x: Tensor) -> Tensor:
    pooled = net.trunk(x).mean((2, 3))
    return net.fc(pooled) + net.late(pooled).relu()


def reads_values(net: Any, x: Tensor) -> Tensor:
    features = net.trunk(x)
    return net.fc((features if features.sum().item() > 0 else features.relu()).mean((2, 3)))


@pytest.mark.parametrize(
    ("wiring", "words"),
    [
        (softmax_at_the_end, "_softmax in the forward method"),
        (two_ways, "No feature map"),
        (max_pooled, "amax"),
        (flattened, r"'fc' \(Linear\) reads the whole 8 x 8 grid"),
        (hidden_in_the_head, "relu in the forward method"),
        (reads_values, "cannot be traced"),
    ],
)
def test_heads_that_are_not_a_linear_mean_are_refused(wiring: Any, words: str) -> None:
    fc = nn.Linear(8 * 64 if wiring is flattened else 8, 3)
    late = nn.Linear(8, 3)
    nn.init.zeros_(late.weight)  # a branch that waits to be trained must not hide
    nn.init.zeros_(late.bias)
    net = Wired(wiring, fc=fc, late=late).eval()
    x = torch.randn(2, 3, 16, 16)
    with pytest.raises(ConversionError, match=words), unchanged(net):
        convert(net, x, kind="exact")


def test_a_pooled_part_of_the_map_is_found_as_such() -> None:
    net, x = Wired(partly_pooled, fc=nn.Linear(8, 3)).eval(), torch.randn(2, 3, 16, 16)
    softcam = convert(net, x)
    assert softcam.certificate.grid == (5, 8)
    assert torch.allclose(softcam.evidence_maps(x).mean((2, 3)), net(x), atol=1e-5)


def test_a_map_of_a_single_cell_asks_for_a_larger_example() -> None:
    with pytest.raises(ConversionError) as caught:
        convert(network("resnet18"), torch.randn(2, 3, 32, 32))
    assert "larger example" in caught.value.hint


@pytest.mark.parametrize("x", [torch.randn(3, 16), "photo.png", torch.zeros(0, 3, 8, 8)])
def test_examples_without_places_are_refused(x: Any) -> None:
    with pytest.raises(BadInput, match="The example is"):
        convert(S8(), x)


def test_an_example_that_the_network_rejects_is_reported() -> None:
    with pytest.raises(ConversionError, match="fails on the example"):
        convert(S8(), torch.randn(1, 5, 32, 32))


# ---- networks of odd shape


def pooled_by_function(net: Any, x: Tensor) -> Tensor:
    return net.fc(F.adaptive_avg_pool2d(F.relu(net.trunk(x) - 0.1), 1).flatten(1))


def summed(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.trunk(x).sum((2, 3)))


def with_dropout(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.drop(net.trunk(x).mean((2, 3))))


def convolved(net: Any, x: Tensor) -> Tensor:
    return net.conv(net.trunk(x)).mean((2, 3))


def rectified(net: Any, x: Tensor) -> Tensor:
    return net.conv(net.trunk(x)).relu().mean((2, 3))


def channels_last(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.norm(net.trunk(x).permute(0, 2, 3, 1)).mean((1, 2)))


def in_a_row(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.norm(net.trunk(x).flatten(2).transpose(1, 2)).mean(1))


def normalised(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.bn(net.trunk(x).mean((2, 3))))


def two_layers(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.first(net.trunk(x).mean((2, 3))))


def averaged(net: Any, x: Tensor) -> Tensor:
    pooled = net.trunk(x).mean((2, 3))
    return (net.fc(pooled) + net.other(pooled)) / 2


def one_logit(net: Any, x: Tensor) -> Tensor:
    return net.single(net.trunk(x).mean((2, 3)))[:, 0]


def used_twice(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.again(net.again(net.trunk(x))).mean((2, 3)))


def masked_in_place(net: Any, x: Tensor) -> Tensor:
    x = net.trunk(x).clone()
    x = x.relu_()
    return net.fc(x.mean((2, 3)).mul_(2.0))


OWN = {normalised, two_layers, averaged, masked_in_place}  # heads of several layers: evidence parameters of their own
LAYERS: dict[str, Any] = {
    "fc": lambda: nn.Linear(8, 3), "conv": lambda: nn.Conv2d(8, 3, 1), "norm": lambda: nn.LayerNorm(8), "bn": lambda: nn.BatchNorm1d(8), "drop": lambda: nn.Dropout(0.5),
    "first": lambda: nn.Linear(8, 8), "other": lambda: nn.Linear(8, 3), "single": lambda: nn.Linear(8, 1), "again": lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
}  # fmt: skip
ODD = [
    pooled_by_function, summed, with_dropout, convolved, rectified, channels_last, in_a_row, normalised, two_layers, averaged, one_logit, used_twice, masked_in_place,
]  # fmt: skip


@pytest.mark.parametrize("wiring", ODD)
def test_odd_networks_convert_and_add_up_at_other_sizes_too(wiring: Any) -> None:
    torch.manual_seed(3)
    net = roused(Wired(wiring, **{k: make() for k, make in LAYERS.items()}).eval())
    softcam = convert(net, torch.randn(2, 3, 16, 24))
    for size in ((16, 24), (32, 20)):
        x = torch.randn(3, 3, *size)
        with torch.no_grad():
            expected, maps = net(x), softcam.evidence_maps(x)
        assert torch.allclose(maps.flatten(2).mean(2), expected.reshape(3, -1), atol=2e-5)
        assert maps.shape[2:] == (size[0] // 2, size[1] // 2)
        exact = torch.allclose if wiring in OWN else torch.equal
        assert exact(softcam(x).reshape(3, -1), expected.reshape(3, -1), **({"atol": 2e-5} if wiring in OWN else {}))
    assert (softcam.fused is not None) == (wiring in OWN)


@pytest.mark.parametrize("wiring", [channels_last, in_a_row])
def test_places_of_other_layouts_keep_their_order(wiring: Any) -> None:
    torch.manual_seed(4)
    net = Wired(wiring, **{k: make() for k, make in LAYERS.items()}).eval()
    x = torch.randn(1, 3, 16, 24)
    with torch.no_grad():
        features = net.norm(net.trunk(x).permute(0, 2, 3, 1))
        expected = torch.einsum("bhwd,cd->bchw", features, net.fc.weight)
        assert torch.allclose(convert(net, x).evidence(x).maps, expected, atol=1e-5)


def test_training_fused_evidence_trains_the_logits() -> None:
    net = roused(Wired(normalised, fc=nn.Linear(8, 3), bn=nn.BatchNorm1d(8)).eval())
    x = torch.randn(4, 3, 16, 16)
    softcam = convert(net, x)
    assert {n for n, p in softcam.model.named_parameters() if not p.requires_grad} == {
        "fc.weight",
        "fc.bias",
        "bn.weight",
        "bn.bias",
    }
    before = softcam(x)
    optimiser = torch.optim.SGD([p for p in softcam.parameters() if p.requires_grad], 0.1)
    F.cross_entropy(softcam(x), torch.zeros(4, dtype=torch.long)).backward()
    optimiser.step()
    after, maps = softcam(x, return_evidence=True)
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.allclose(after, maps.mean((2, 3)), atol=1e-5)


def test_training_the_evidence_trains_the_shared_head() -> None:
    net, x = S8(3, 2, channels=(4, 4), strides=(2, 1)), torch.randn(2, 3, 16, 16)
    softcam = convert(net, x)
    softcam.evidence_maps(x).square().mean().backward()
    assert softcam.model.head.weight.grad is not None
    assert softcam.model.head.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in net.parameters())


def test_dictionary_outputs_and_further_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = S8(3, 2, channels=(4, 4), strides=(2, 1))

        def forward(self, x: Tensor, gain: Tensor, *, shift: float) -> dict[str, Tensor]:
            return {"features": x, "logits": self.net(x * gain.view(-1, 1, 1, 1) + shift)}

    model, x, gain = Two().eval(), torch.randn(3, 3, 16, 16), torch.tensor([0.5, 1.0, 2.0])
    softcam = convert(model, x, args=(gain,), kwargs={"shift": 0.1}, output="logits")
    told = softcam.evidence(x, gain, shift=0.1)
    assert torch.allclose(told.maps.mean((2, 3)) + told.bias, model(x, gain, shift=0.1)["logits"], atol=1e-5)
    assert told.output.keys() == {"features", "logits"}
    with pytest.raises(OptionError, match="dict of 2 parts"):
        convert(model, x, args=(gain,), kwargs={"shift": 0.1})


def reads_and_asserts(net: Any, x: Tensor) -> Tensor:
    features = net.trunk(x)
    assert features.sum().item() < 1e9
    return net.fc(features.mean((2, 3)))


def test_named_layers_serve_where_tracing_fails() -> None:
    net, x = Wired(reads_and_asserts, fc=nn.Linear(8, 3)).eval(), torch.randn(2, 3, 16, 16)
    softcam = convert(net, x, features="trunk", head="fc")
    assert torch.allclose(softcam.evidence_maps(x).mean((2, 3)), net(x), atol=1e-5)
    assert softcam.certificate.head == "fc"


def reads_and_bends(net: Any, x: Tensor) -> Tensor:
    features = net.trunk(x) - 0.1
    assert features.sum().item() < 1e9
    return net.fc(net.act(features.mean((2, 3))))


def reads_and_goes_round(net: Any, x: Tensor) -> Tensor:
    features = net.trunk(x)
    assert features.sum().item() < 1e9
    return net.fc(features.mean((2, 3))) + x.mean()


@pytest.mark.parametrize(
    ("wiring", "words"),
    [
        (reads_and_bends, "not linear after 'trunk'"),
        (reads_values, "not linear after 'trunk'"),
        (reads_and_goes_round, "path around 'trunk'"),
    ],
)
def test_named_layers_are_tested_like_any_other(wiring: Any, words: str) -> None:
    net = Wired(wiring, fc=nn.Linear(8, 3), act=nn.Hardswish()).eval()
    with pytest.raises(ConversionError, match=words):
        convert(net, torch.randn(2, 3, 16, 16), features="trunk", kind="exact")


def test_wrong_names_are_refused() -> None:
    net, x = Wired(two_layers, fc=nn.Linear(8, 3), first=nn.Linear(8, 8)).eval(), torch.randn(2, 3, 16, 16)
    with pytest.raises(LayerError, match="no layer 'trunks'"):
        convert(net, x, features="trunks")
    with pytest.raises(ConversionError, match="'fc' is not the head"):
        convert(net, x, head="fc")
    with pytest.raises(ConversionError, match=r"path around|not linear|gives no feature map"):
        convert(net, x, features="trunk.0", kind="exact")


def test_naming_densenets_features_is_caught() -> None:
    """The classic wrong conversion: `model.features` without the ReLU that follows it inside `forward`."""
    model = roused(small_densenet())
    with pytest.raises(ConversionError, match="relu"):
        convert(model, torch.randn(2, 3, 64, 64), features="features", kind="exact")


# ---- the original


@pytest.mark.parametrize("training", [True, False])
def test_the_original_is_untouched(training: bool) -> None:
    model = network("resnet18").train(training)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    model.conv1.weight.requires_grad_(False)
    x = example("resnet18", 64)
    kept = x.clone()
    with unchanged(model):
        softcam = convert(model, x)
        assert torch.equal(x, kept)
        assert [m.training for m in softcam.model.modules()] == [m.training for m in model.modules()]
        assert not softcam.model.conv1.weight.requires_grad
        assert all(
            torch.equal(a, b)
            for a, b in zip(softcam.model.state_dict().values(), model.state_dict().values(), strict=True)
        )
        softcam(x)
        softcam.eval().evidence(x)


def test_the_original_is_untouched_when_the_network_fails_half_way() -> None:
    class Fails(S8):
        def forward(self, x: Tensor) -> Tensor:
            self.features(x)
            raise RuntimeError("the lamp went out")

    model = Fails(3, 2, channels=(4, 4), strides=(2, 1))
    x = torch.randn(1, 3, 16, 16)
    with unchanged(model), pytest.raises(ConversionError, match="the lamp went out"):
        convert(model, x)


def test_under_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.randn(2, 3, 16, 16)
        softcam = convert(S8(3, 2, channels=(4, 4), strides=(2, 1)), x)
        assert torch.allclose(softcam.eval().evidence_maps(x).mean((2, 3)), softcam(x), atol=1e-5)


def test_real_images_are_counted_and_compared() -> None:
    model = S8(3, 4, channels=(4, 4), strides=(2, 1))
    softcam = convert(model, torch.randn(2, 3, 16, 16), images=torch.randn(7, 3, 16, 16), classes=list("abcd"))
    assert softcam.certificate.images == 7
    assert softcam.classes == ("a", "b", "c", "d")
    assert softcam.task == "multiclass"
    with pytest.raises(OptionError, match="3 class names for 4 logits"):
        convert(model, torch.randn(2, 3, 16, 16), classes=list("abc"))


def test_conversion_is_deterministic() -> None:
    model, x = network("shufflenet_v2_x0_5"), example("shufflenet_v2_x0_5", 64)
    assert convert(model, x).certificate == convert(copy.deepcopy(model), x).certificate


def test_pretrained_photographs_change_no_answer(test_data: Any) -> None:
    from PIL import Image
    from torchvision.transforms import functional as T

    files = sorted((test_data / "photographs_imagenet").rglob("*.*"))[:6]
    pictures = [
        T.center_crop(T.resize(T.to_tensor(Image.open(f).convert("RGB")), 144), 128)
        for f in files
        if f.suffix.lower() in (".jpg", ".jpeg", ".png")
    ]
    images = (torch.stack(pictures) - 0.45) / 0.225
    model = zoo.build("torchvision:mobilenet_v2", weights=test_data / "weights" / "mobilenet_v2-b0353104.pth")
    certificate = convert(model, images[:2], images=images).certificate
    assert certificate.images == len(images) >= 3
    assert certificate.flips == 0
    assert certificate.parity_relative < 1e-5
    assert certificate.receptive_field == (491.0, 491.0)


def test_of_a_compiled_network_the_network_itself_is_converted() -> None:
    net, x = S8(channels=(8, 8), strides=(2, 2)).eval(), torch.randn(2, 3, 32, 32)
    softcam = convert(torch.compile(net), x)
    with torch.no_grad():
        assert torch.equal(softcam(x), net(x))
    assert softcam.certificate.cut == convert(net, x).certificate.cut


def test_conversion_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch\nfrom pellucid.models.s8 import S8\nfrom pellucid.models.convert import convert\n"
        "convert(S8(), torch.randn(2, 3, 32, 32))\nprint('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
