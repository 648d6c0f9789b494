"""One small network per kind of head, in double precision: cells and constant give the original's own logits.

The whole list is `make zoo` (docs/models.md). Weights are random and perturbed, so that what is wrong cannot look right.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.zoo import networks
from benchmarks.zoo.records import HEADS, TOKEN, reason_class
from benchmarks.zoo.survey import survey

import pellucid as pl
from pellucid.errors import ConversionError

# Name, side of the input, the constructor's options.
EXACT: list[tuple[str, int, dict[str, Any]]] = [
    ("torchvision:squeezenet1_1", 64, {}),  # convolution, ReLU, mean: no layer of its own gives the logits
    ("torchvision:shufflenet_v2_x0_5", 64, {}),  # functional mean
    ("timm:test_resnet", 64, {}),
    ("timm:test_efficientnet_evos", 64, {}),  # norm and activation in one
    ("timm:test_nfnet", 64, {}),
    ("timm:test_byobnet", 64, {}),
    ("timm:dla46x_c", 64, {}),  # 1x1 convolution
    ("timm:starnet_s050", 64, {}),
    ("timm:test_maxvit", 64, {"img_size": 64}),  # LayerNorm before the mean
    ("timm:mobilevit_xxs", 64, {}),
    ("timm:densenet121", 64, {}),  # an activation after the last layer of the trunk
    ("timm:efficientvit_m0", 128, {"img_size": 128}),  # BatchNorm and linear layer
    ("timm:levit_128s", 128, {"img_size": 128}),  # the mean of two BatchNorms with linear layers, tokens
    ("timm:swiftformer_xs", 64, {}),
    ("timm:pvt_v2_b0", 64, {}),  # a mean over tokens
    ("timm:resnetv2_18", 64, {}),
]
FROZEN: list[tuple[str, int, dict[str, Any]]] = [
    ("torchvision:mobilenet_v3_small", 64, {}),  # linear, Hardswish, linear
    ("timm:test_convnext", 64, {}),  # LayerNorm after the mean
    ("timm:convnext_zepto_rms", 64, {}),
    ("timm:test_mambaout", 64, {}),  # GELU between two layers, channels last
    ("timm:test_vit2", 64, {"img_size": 64}),  # LayerNorm after a mean over tokens but the first
    ("timm:test_vit3", 64, {"img_size": 64, "reg_tokens": 0}),  # pooling by attention
    ("timm:test_vit4", 64, {"img_size": 64}),
    ("timm:lcnet_035", 64, {}),
    ("timm:repghostnet_050", 64, {}),
    ("timm:efficientvit_b0", 64, {}),  # LayerNorm and Hardswish
    ("timm:fasternet_t0", 64, {}),
    ("timm:inception_next_atto", 64, {}),
    ("timm:hgnetv2_b0", 64, {}),
]
REFUSED: list[tuple[str, str, int, dict[str, Any]]] = [
    ("timm:test_vit", TOKEN, 64, {"img_size": 64}),
    ("timm:coat_tiny", TOKEN, 64, {"img_size": 64}),
    ("timm:volo_d1_224", HEADS, 64, {"img_size": 64}),  # and the largest of the tokens' own logits
    ("timm:crossvit_tiny_240", HEADS, 240, {}),  # two class tokens
    ("timm:efficientvim_m1", HEADS, 128, {}),  # four heads, summed
]


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) else ""


@pytest.fixture(autouse=True)
def _libraries() -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize(
    ("kind", "name", "side", "options"),
    [("exact", *one) for one in EXACT] + [("exact_at_this_image", *one) for one in FROZEN],
    ids=_id,
)
def test_cells_and_constant_are_the_logits_in_double_precision(
    kind: str, name: str, side: int, options: dict[str, Any]
) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        net = networks.perturb(networks.build(name, num_classes=7, **options).double(), networks.seed_of(name))
        first, fresh = (networks.example((3, side, side), seed).double() for seed in (0, 1))
        softcam = pl.convert(net, first)
        with torch.no_grad():
            logits = net(fresh)
            seen = softcam.evidence(fresh)
    finally:
        torch.set_default_dtype(torch.float32)
    assert softcam.certificate.kind == kind
    assert seen.positions >= 4
    made = seen.maps.flatten(2).mean(2) + seen.bias
    assert float((made - logits).abs().max() / logits.std()) <= 1e-9
    assert float(seen.maps.flatten(2).std(2).max()) > 1e-6 * float(logits.std())  # places differ


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "reason", "side", "options"), REFUSED, ids=_id)
def test_networks_without_a_map_to_show_are_refused_for_their_true_reason(
    name: str, reason: str, side: int, options: dict[str, Any]
) -> None:
    net = networks.perturb(networks.build(name, **options), networks.seed_of(name))
    with pytest.raises(ConversionError) as refusal:
        pl.convert(net, networks.example((3, side, side), 0))
    assert reason_class(str(refusal.value), survey(name)) == reason
