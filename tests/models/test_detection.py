"""Candidates before suppression are those that survive it, and a box keeps its object."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection

import pellucid as pl
from pellucid.errors import ConversionError, LayerError, TargetError
from pellucid.targets import BoxTarget, SeveralTargets
from reference.cam import error
from reference.untouched import unchanged

SMALL: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 4, "min_size": 64, "max_size": 96}


def _resnet18(build: Any) -> nn.Module:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    torch.manual_seed(0)
    body = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
        trainable_layers=5,
    )
    net: nn.Module = build(body, num_classes=4, min_size=64, max_size=96, score_thresh=0.0)
    for name, parameter in net.head.named_parameters():  # random heads start with all classes alike
        if name.endswith("cls_logits.weight"):
            nn.init.normal_(parameter, std=0.3)
    return net.eval()


def _ssd() -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    return net.eval()


DETECTORS: dict[str, Any] = {
    "retinanet": lambda: _resnet18(detection.RetinaNet),
    "fcos": lambda: _resnet18(detection.FCOS),
    "ssd": _ssd,
}


def image() -> Tensor:
    return torch.rand(1, 3, 80, 100, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", DETECTORS)
def test_detections_are_among_the_candidates_with_their_score(name: str) -> None:
    net, x = DETECTORS[name](), image()
    with torch.no_grad():
        kept = net(list(x))[0]
        found = pl.before_suppression(net)(x)[0]
    assert len(kept["boxes"]) > 3
    for box, label, score in list(zip(kept["boxes"], kept["labels"], kept["scores"], strict=True))[:5]:
        gap = (found["boxes"] - box).abs().amax(1)
        near = gap < 1e-3
        assert bool(near.any())
        logits = found["logits"][near]
        own = logits.softmax(1)[:, label] if name == "ssd" else logits[:, label].sigmoid()
        if name == "fcos":  # the detector's score is the root of this times a centredness in 0 to 1
            assert bool((own >= score**2 - 1e-5).any())
        else:
            assert float((own - score).abs().min()) < 1e-5


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_a_box_is_explained_by_the_logit_of_its_candidate(name: str) -> None:
    net, x = DETECTORS[name](), image()
    candidates = pl.before_suppression(net)
    with torch.no_grad():
        kept = net(list(x))[0]
    box, label = kept["boxes"][0], int(kept["labels"][0])
    with unchanged(net):
        e = pl.explain(candidates, x, BoxTarget(box, label), method="saliency", reduce="none")
    leaf = x.clone().requires_grad_()
    found = candidates(leaf)[0]
    best = int((found["boxes"] - box).abs().amax(1).argmin())
    score = found["logits"][best, label]
    assert float(e.score[0]) == pytest.approx(float(score.detach()), rel=1e-5)
    slope = torch.autograd.grad(score, leaf)[0]
    assert error(e.map, slope) < 1e-4
    shown = pl.explain(candidates, x, BoxTarget(box, label))
    assert shown.provenance["layer"] == "detector.backbone.body.layer4"
    assert shown[0].target.describe() == f"class {label} in a box"
    assert float(shown.map.abs().max()) > 0
    both = pl.explain(candidates, x, SeveralTargets((BoxTarget(box, label), BoxTarget(kept["boxes"][1], label))))
    assert error(both.of(0).map, shown.map) < 1e-5


def test_other_methods_keep_the_object() -> None:
    net, x = DETECTORS["retinanet"](), image()
    candidates = pl.before_suppression(net)
    with torch.no_grad():
        kept = net(list(x))[0]
    target = BoxTarget(kept["boxes"][0], int(kept["labels"][0]))
    e = pl.explain(candidates, x, target, method="occlusion", window=40, stride=40)
    with torch.no_grad():
        covered = x.clone()
        covered[:, :, :40, :40] = 0
        drop = e.score - target(candidates(covered))
    assert float(e.map[0, 0, 0]) == pytest.approx(float(drop), rel=1e-4, abs=1e-5)


def test_what_is_no_one_stage_detector() -> None:
    with pytest.raises(ConversionError, match="not a one-stage detector"):
        pl.before_suppression(nn.Conv2d(3, 3, 1))
    net = DETECTORS["fcos"]()
    with pytest.raises(TargetError, match="not clear what to explain"):
        pl.explain(pl.before_suppression(net), image())
    with pytest.raises(LayerError, match="feature maps"):
        pl.explain(
            pl.before_suppression(net), image(), BoxTarget(torch.tensor([0.0, 0, 50, 50]), 1), layer="detector.backbone"
        )


def test_segmentation_by_region() -> None:
    """The mean logit of a class inside a region, in torchvision's own segmentation network with a dict output."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    x = image()
    region = torch.zeros(80, 100, dtype=torch.bool)
    region[20:50, 30:70] = True
    target = pl.RegionTarget(1, region)
    e = pl.explain(net, x, target, output="out", method="saliency", reduce="none")
    leaf = x.clone().requires_grad_()
    score = net(leaf)["out"][0, 1][region].mean()
    assert float(e.score[0]) == pytest.approx(float(score.detach()), rel=1e-4, abs=1e-7)
    assert error(e.map, torch.autograd.grad(score, leaf)[0]) < 1e-4
    shown = pl.explain(net, x, target, output="out", layer="backbone.16")
    assert float(shown.map.abs().max()) > 0
