from __future__ import annotations

import pytest
import torch
from torch import nn

from pellucid.call import Call
from pellucid.errors import OptionError, TargetError
from pellucid.explanation import Attribution
from pellucid.methods.evidence import evidence
from pellucid.methods.grad_cam import grad_cam
from pellucid.models.convert import convert
from pellucid.targets import ClassTarget, ContrastTarget, RegionTarget, RegressionTarget, SingleLogitTarget, Target
from reference.cam import error
from reference.nets import GapNet, SelfExplaining, inputs
from reference.peers import torch_cam


def total(found: Attribution) -> torch.Tensor:
    parts = found.map.double().flatten(1).sum(1) + (found.constant if found.constant is not None else 0)
    return parts + (found.common if found.common is not None else 0)


def score(found: Attribution) -> torch.Tensor:
    assert found.target is not None
    return found.target(found.output)


@pytest.mark.parametrize("gauge", ["free", "raw"])
@pytest.mark.parametrize(
    ("classes", "target"),
    [
        (1, SingleLogitTarget()),
        (1, SingleLogitTarget(False)),
        (1, ClassTarget(0)),
        (1, RegressionTarget(0)),
        (2, ClassTarget()),
        (2, ContrastTarget(0, 1)),
        (4, ClassTarget(3)),
        (4, ClassTarget(torch.tensor([2, 0, 3]))),
        (4, ContrastTarget(1, torch.tensor([2, 0, 3]))),
    ],
)
def test_parts_add_up_to_the_score(rank: int, classes: int, target: Target, gauge: str) -> None:
    model = SelfExplaining(GapNet(rank, classes)).double().eval()
    found = evidence(Call(model), inputs(rank).double(), target, gauge=gauge)  # type: ignore[arg-type]
    assert found.complete
    torch.testing.assert_close(total(found), score(found), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.output, model(inputs(rank).double()).detach())


def test_one_of_several_classes_by_hand(rank: int) -> None:
    net, x = GapNet(rank, classes=4).eval(), inputs(rank)
    found = evidence(Call(SelfExplaining(net)), x, ClassTarget(2))
    features, cells = net.features(x), net.features(x)[0, 0].numel()
    weight = (net.fc.weight[2] - net.fc.weight.mean(0)) / cells
    torch.testing.assert_close(found.map, torch.einsum("k,bk...->b...", weight, features).detach())
    torch.testing.assert_close(found.constant, (net.fc.bias[2] - net.fc.bias.mean()).detach().expand(3))
    torch.testing.assert_close(found.common, net(x).mean(1).detach())


def test_gauge_free_ignores_what_is_added_to_all_classes(rank: int) -> None:
    net, x = GapNet(rank, classes=4).double().eval(), inputs(rank).double()
    before = evidence(Call(SelfExplaining(net)), x, ClassTarget(1))
    raw = evidence(Call(SelfExplaining(net)), x, ClassTarget(1), gauge="raw").map
    net.fc.weight.data += torch.randn(5)
    after = evidence(Call(SelfExplaining(net)), x, ClassTarget(1))
    assert error(after.map, before.map) < 1e-12
    assert error(evidence(Call(SelfExplaining(net)), x, ClassTarget(1), gauge="raw").map, raw) > 0.1


def test_two_classes_are_explained_as_their_contrast(rank: int) -> None:
    model, x = SelfExplaining(GapNet(rank, classes=2)).eval(), inputs(rank)
    found = evidence(Call(model), x, ClassTarget(torch.tensor([0, 1, 1])))
    logits = model(x).detach()
    expected = torch.stack([logits[0, 0] - logits[0, 1], logits[1, 1] - logits[1, 0], logits[2, 1] - logits[2, 0]])
    torch.testing.assert_close(score(found), expected)
    assert found.common is None
    other = evidence(Call(model), x, ClassTarget(torch.tensor([1, 0, 0])))
    torch.testing.assert_close(found.map, -other.map)


@pytest.mark.parametrize("where", ["network", "option"])
def test_labels_that_do_not_exclude_each_other_have_no_common_part(where: str) -> None:
    net, x = GapNet(2, classes=2).eval(), inputs(2)
    model = SelfExplaining(net, task="multilabel" if where == "network" else None)
    options = {"task": "multilabel"} if where == "option" else {}
    found = evidence(Call(model), x, ClassTarget(1), **options)  # type: ignore[arg-type]
    assert found.common is None
    torch.testing.assert_close(score(found), net(x)[:, 1].detach())
    raw = evidence(Call(model), x, ClassTarget(1), gauge="raw")
    assert torch.equal(found.map, raw.map)


def test_grad_cam_at_the_feature_map_is_the_same_map(rank: int) -> None:
    """GAP + linear: signed Grad-CAM is the class's evidence per cell; all classes in one pass equal one each."""
    net, x = GapNet(rank, classes=3).double().eval(), inputs(rank).double()
    for c in range(3):
        raw = evidence(Call(SelfExplaining(net)), x, ClassTarget(c), gauge="raw")
        assert error(grad_cam(Call(net), x, ClassTarget(c)).map, raw.map) < 1e-12
        maps = SelfExplaining(net).evidence(x).maps
        assert error(raw.map * raw.map[0].numel(), maps[:, c]) < 1e-12


def test_the_geometry_is_the_networks(rank: int) -> None:
    found = evidence(Call(SelfExplaining(GapNet(rank))), inputs(rank), ClassTarget(0))
    assert found.geometry.registered
    assert found.geometry.jump == (4.0,) * rank


def test_half_precision_adds_up_in_float32() -> None:
    model = SelfExplaining(GapNet(2, classes=4)).bfloat16().eval()
    found = evidence(Call(model), inputs(2).bfloat16(), ClassTarget(0))
    assert found.map.dtype == torch.float32
    torch.testing.assert_close(total(found).float(), score(found).float(), rtol=0.02, atol=0.02)


@pytest.mark.checks("evidence", against="torch-cam CAM and Captum LayerGradCam at the pooled layer", tolerance=1e-5)
def test_equals_torch_cam_and_captum_on_a_converted_network(tolerance: float) -> None:
    """Both leave out the bias: torch-cam gives the raw evidence, Captum what each place adds to the logit."""
    torchvision, attr = pytest.importorskip("torchvision"), pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    x, classes = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 7])
    found = evidence(Call(convert(model, x[:1])), x, ClassTarget(classes), gauge="raw")
    places = found.map[0].numel()
    assert places > 1
    assert error(found.map * places, torch_cam("CAM", model, "layer4", x, classes.tolist(), fc_layer="fc")) < tolerance
    assert error(found.map, attr.LayerGradCam(model, model.layer4).attribute(x, target=classes)[:, 0]) < tolerance
    assert error(total(found), model(x)[[0, 1], classes]) < tolerance


def test_no_evidence_is_said_with_the_way_out() -> None:
    with pytest.raises(OptionError, match="convert"):
        evidence(Call(GapNet(2)), inputs(2), ClassTarget(0))


def test_what_cannot_be_explained_is_refused() -> None:
    model = SelfExplaining(GapNet(2))
    with pytest.raises(OptionError, match="no gauge 'fre'"):
        evidence(Call(model), inputs(2), ClassTarget(0), gauge="fre")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="not the logits"):
        evidence(Call(model, output=lambda y: y.softmax(1)), inputs(2), ClassTarget(0))
    with pytest.raises(TargetError):
        evidence(Call(model), inputs(2), RegionTarget(0))


def test_a_converted_network_obeys_the_identities(rank: int) -> None:
    net, x = GapNet(rank, classes=3).double().eval(), inputs(rank).double()
    softcam: nn.Module = convert(net, x[:1])
    assert error(softcam(x), net(x)) < 1e-12
    found = evidence(Call(softcam), x, ClassTarget(1))
    torch.testing.assert_close(total(found), net(x)[:, 1].detach(), rtol=1e-10, atol=1e-10)
    raw = evidence(Call(softcam), x, ClassTarget(1), gauge="raw")
    assert error(grad_cam(Call(softcam), x, ClassTarget(1)).map, raw.map) < 1e-10
