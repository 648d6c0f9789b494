from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import LayerError
from pellucid.methods.cam import cam
from pellucid.methods.evidence import evidence
from pellucid.methods.grad_cam import grad_cam
from pellucid.targets import ClassTarget, ContrastTarget, SingleLogitTarget
from reference.cam import error
from reference.nets import CONV, GapNet, SelfExplaining, Squeezed, inputs


def network(name: str) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models, name)(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_(0, 0.5)
    return model.eval()


def photographs() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.checks("cam", against="the paper's sum by hand", tolerance=1e-12)
def test_equals_the_paper_by_hand(rank: int, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    found = cam(Call(net), x, ClassTarget(torch.tensor([0, 2, 1])))
    features = net.features(x).detach()
    n = features[0, 0].numel()
    for i, c in enumerate([0, 2, 1]):
        by_hand = sum(net.fc.weight[c, k].detach() * features[i, k] for k in range(5)) / n
        assert error(found.map[i], by_hand) < tolerance
    torch.testing.assert_close(found.map.flatten(1).sum(1) + found.constant, net(x).detach()[range(3), [0, 2, 1]])
    assert found.complete
    assert found.layer == "features"


@pytest.mark.checks("cam", against="torch-cam CAM", tolerance=1e-5)
def test_equals_torch_cam(tolerance: float) -> None:
    tc = pytest.importorskip("torchcam.methods")
    model, x = network("resnet18"), photographs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tc.CAM(model, "layer4", fc_layer="fc") as extractor:
            theirs = extractor([3, 7], model(x), normalized=False)[0]
    found = cam(Call(model), x, ClassTarget(torch.tensor([3, 7])))
    assert found.layer == "layer4"
    assert error(found.map * found.map[0].numel(), theirs) < tolerance


@pytest.mark.parametrize("name", ["densenet121", "squeezenet1_0", "mobilenet_v2"])
def test_functional_relu_and_convolutional_heads_add_up(name: str) -> None:
    model, x = network(name), photographs()
    found = cam(Call(model), x, ClassTarget(torch.tensor([3, 7])))
    torch.testing.assert_close(
        found.map.flatten(1).sum(1) + found.constant, model(x)[[0, 1], [3, 7]].detach(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["vgg11", "mobilenet_v3_small", "convnext_tiny"])
def test_other_heads_are_refused_and_grad_cam_is_named(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    with pytest.raises(LayerError, match="grad_cam"):
        cam(Call(model), photographs(), ClassTarget(0))


def test_max_pooling_is_refused() -> None:
    class Peak(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.features(x).flatten(2).amax(2))

    with pytest.raises(LayerError, match="not a linear layer of the mean"):
        cam(Call(Peak(2).eval()), inputs(2), ClassTarget(0))


def test_a_head_before_pooling_keeps_its_bias_out_of_the_cells(rank: int) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(CONV[rank](2, 4, 3), nn.ReLU())
            self.classify = CONV[rank](4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.classify(self.trunk(x)).flatten(2).mean(2)

    torch.manual_seed(0)
    model, x = Pooled().eval(), inputs(rank)
    own = cam(Call(model), x, ClassTarget(1))
    named = cam(Call(model), x, ClassTarget(1), layer="trunk", head="classify")
    assert own.layer == "classify"
    torch.testing.assert_close(own.map, named.map)
    for found in (own, named):
        torch.testing.assert_close(found.constant, model.classify.bias[1].detach().expand(3))
        torch.testing.assert_close(found.map.flatten(1).sum(1) + found.constant, model(x)[:, 1].detach())


def test_single_logits_and_contrasts_add_up(rank: int) -> None:
    net, x = GapNet(rank, classes=1).eval(), inputs(rank)
    for model in (net, Squeezed(net).eval()):
        found = cam(Call(model), x, SingleLogitTarget(False))
        torch.testing.assert_close(found.map.flatten(1).sum(1) + found.constant, -net(x)[:, 0].detach())
    three = GapNet(rank).eval()
    both = cam(Call(three), x, ContrastTarget(0, 2))
    torch.testing.assert_close(both.map.flatten(1).sum(1) + both.constant, (three(x)[:, 0] - three(x)[:, 2]).detach())


def test_equals_grad_cam_and_raw_evidence(rank: int) -> None:
    net, x = GapNet(rank, classes=2).double().eval(), inputs(rank).double()
    plain = cam(Call(net), x, ClassTarget(1))
    assert error(grad_cam(Call(net), x, ClassTarget(1)).map, plain.map) < 1e-12
    told = cam(Call(SelfExplaining(net)), x, ClassTarget(1))
    raw = evidence(Call(SelfExplaining(net)), x, ClassTarget(1), gauge="raw")
    assert error(told.map, plain.map) < 1e-12
    assert torch.equal(told.map, raw.map)
    assert told.constant is not None
    assert raw.constant is not None
    assert torch.equal(told.constant, raw.constant)


def test_bfloat16_is_checked_to_its_own_rounding() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    low = cam(Call(GapNet(2).bfloat16().eval()), x.bfloat16(), ClassTarget(1))
    assert low.map.dtype == torch.float32
    assert error(low.map, cam(Call(net), x, ClassTarget(1)).map) < 0.05
