from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import LayerError, OptionError, TargetError
from pellucid.methods.grad_cam import grad_cam
from pellucid.spatial import upsample
from pellucid.targets import ClassTarget, ContrastTarget, RegionTarget, SingleLogitTarget
from reference.cam import error
from reference.cam import grad_cam as literal
from reference.nets import FourPixels, GapNet, SelfExplaining, Squeezed, inputs
from reference.peers import pytorch_grad_cam, torch_cam
from reference.untouched import unchanged


def network(name: str) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models, name)(weights=None)
    for module in model.modules():  # what random initialisation leaves at 0 would hide mistakes
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_(0, 0.5)
    return model.eval()


def photographs(batch: int = 2, side: int = 64) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


CLASSES = torch.tensor([3, 7])


@pytest.mark.bug("B1")
@pytest.mark.checks("grad_cam", against="Captum LayerGradCam", tolerance=1e-6)
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("resnet18", "layer4.1.bn2"),  # in-place ReLU follows
        ("densenet121", "features"),  # functional in-place ReLU follows
        ("vgg11", "features.18"),  # in-place ReLU follows
        ("efficientnet_b0", "features"),
        ("mobilenet_v3_small", "features"),
    ],
)
def test_signed_map_equals_captum(name: str, layer: str, tolerance: float) -> None:
    attr = pytest.importorskip("captum.attr")
    model, x = network(name), photographs()
    module = model.get_submodule(layer)
    theirs = attr.LayerGradCam(model, module).attribute(x, target=CLASSES)[:, 0]
    found = grad_cam(Call(model), x, ClassTarget(CLASSES), layer=layer)
    assert error(found.map, theirs) < tolerance
    assert found.layer == layer
    torch.testing.assert_close(found.output, model(x).detach())


@pytest.mark.parametrize("inplace", [False, True])
def test_four_pixels(inplace: bool) -> None:
    net, x = FourPixels(inplace), torch.arange(16.0).view(1, 1, 4, 4)
    at_conv = grad_cam(Call(net), x, ClassTarget(0), layer="conv").map
    assert at_conv.tolist() == [[[11.25, 13.5], [20.25, 22.5]]]
    assert grad_cam(Call(net), x, ClassTarget(0), layer="r1").map.tolist() == [[[0, 4], [28, 32.5]]]


@pytest.mark.checks("grad_cam", against="a literal version", tolerance=1e-6)
@pytest.mark.parametrize("layer", ["features.0", "features.2", "features"])
def test_equals_the_literal_version(rank: int, layer: str, tolerance: float) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    classes = [0, 2, 1]
    found = grad_cam(Call(net), x, ClassTarget(torch.tensor(classes)), layer=layer)
    assert error(found.map, literal(net, net.get_submodule(layer), x, classes)) < tolerance


@pytest.mark.checks("grad_cam", against="torch-cam and pytorch-grad-cam GradCAM", tolerance=1e-5)
def test_equals_torch_cam_and_pytorch_grad_cam_at_a_safe_layer(tolerance: float) -> None:
    model, x = network("resnet18"), photographs(side=96)
    signed = grad_cam(Call(model), x, ClassTarget(CLASSES), layer="layer4").map
    rectified = grad_cam(Call(model), x, ClassTarget(CLASSES), layer="layer4", rectify=True).map
    assert error(signed, pytorch_grad_cam("GradCAM", model, model.layer4, x, CLASSES.tolist())) < tolerance
    assert error(rectified, torch_cam("GradCAM", model, "layer4", x, CLASSES.tolist())) < tolerance


@pytest.mark.checks("grad_cam", against="the picture of pytorch-grad-cam", tolerance=1e-4)
def test_normalised_it_is_the_picture_of_pytorch_grad_cam(tolerance: float) -> None:
    """An absolute 1e-7 in their normalisation costs digits on small maps."""
    pgc = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, x = network("resnet18"), photographs(side=96)
    rectified = grad_cam(Call(model), x, ClassTarget(CLASSES), layer="layer4", rectify=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pgc.GradCAM(model=model, target_layers=[model.layer4]) as cam:
            picture = cam(input_tensor=x, targets=[ClassifierOutputTarget(int(c)) for c in CLASSES])

    def unit(a: Tensor) -> Tensor:
        a = a - a.amin((1, 2), keepdim=True)
        return a / (a.amax((1, 2), keepdim=True) + 1e-7)

    assert error(unit(upsample(unit(rectified.map), rectified.geometry)), picture) < tolerance


def test_interpolation_equals_captum() -> None:
    attr = pytest.importorskip("captum.attr")
    model, x = network("resnet18"), photographs(side=96)
    found = grad_cam(Call(model), x, ClassTarget(CLASSES), layer="layer4")
    theirs = attr.LayerAttribution.interpolate(found.map[:, None], (96, 96), interpolate_mode="bilinear")[:, 0]
    assert error(upsample(found.map, found.geometry), theirs) < 1e-5


def test_frozen_parameters_no_grad_and_inference_mode_change_nothing(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    expected = grad_cam(Call(net), x, ClassTarget(1)).map
    net.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(grad_cam(Call(net), x, ClassTarget(1)).map, expected)
    with torch.inference_mode():
        again = grad_cam(Call(net), x * 1, ClassTarget(1))
    assert torch.equal(again.map, expected)


def test_no_graph_is_kept() -> None:
    found = grad_cam(Call(GapNet(2).eval()), inputs(2), ClassTarget(1))
    assert not found.map.requires_grad
    assert not found.output.requires_grad


def test_the_layer_is_found_and_named() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    found = grad_cam(Call(net), x, ClassTarget(1))
    assert found.layer == "features"
    torch.testing.assert_close(found.map, grad_cam(Call(net), x, ClassTarget(1), layer=net.features[3]).map)


def test_a_layer_that_runs_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(self.conv(x)).flatten(2).mean(2))

    net = Twice().eval()
    with unchanged(net), pytest.raises(LayerError, match="ran 2 times"):
        grad_cam(Call(net), inputs(2), ClassTarget(0), layer="conv")


def test_a_layer_beside_the_way_is_refused() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside = GapNet(2), nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.main(x)

    with pytest.raises(LayerError, match="does not depend on layer 'aside'"):
        grad_cam(Call(Branch().eval()), inputs(2), ClassTarget(0), layer="aside")


@pytest.mark.parametrize("layer", ["fc", "nothing", nn.Conv2d(1, 1, 1)])
def test_a_wrong_layer_is_refused(layer: str | nn.Module) -> None:
    with pytest.raises(LayerError):
        grad_cam(Call(GapNet(2).eval()), inputs(2), ClassTarget(0), layer=layer)


@pytest.mark.bug("B5")
def test_a_confident_no_is_explained_as_no() -> None:
    net, x = GapNet(2, classes=1).eval(), inputs(2)
    net.fc.bias.data.fill_(-50)
    for model in (net, Squeezed(net).eval()):
        no = grad_cam(Call(model), x, SingleLogitTarget())
        yes = grad_cam(Call(model), x, SingleLogitTarget(True))
        torch.testing.assert_close(no.map, -yes.map)
        assert float(yes.map.abs().max()) > 0


def test_a_contrast_is_the_difference_of_two_maps(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    a, b = (grad_cam(Call(net), x, ClassTarget(c)).map for c in (2, 0))
    torch.testing.assert_close(grad_cam(Call(net), x, ContrastTarget(2, 0)).map, a - b)


def test_a_region_of_a_segmentation() -> None:
    """The mean logit over a region, by hand: the gradient of a 1x1 head is its weight over the positions."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    x = inputs(2, side=6)
    region = torch.zeros(6, 6, dtype=torch.bool)
    region[1:3, 2:5] = True
    found = grad_cam(Call(net), x, RegionTarget(1, region), layer="1")
    expected = torch.einsum("k,bkij->bij", net[2].weight[1, :, 0, 0] / 36, net[:2](x))
    torch.testing.assert_close(found.map, expected.detach())


def test_bad_classes_and_outputs_are_errors_and_leave_no_trace() -> None:
    net = GapNet(2)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    net.features[1].train(False)
    with unchanged(net):
        with pytest.raises(TargetError, match="no class 99999"):
            grad_cam(Call(net), inputs(2), ClassTarget(99999))
        with pytest.raises(TargetError, match="2 targets for 3 inputs"):
            grad_cam(Call(net), inputs(2), ClassTarget(torch.tensor([0, 1])))
        with pytest.raises(OptionError):
            grad_cam(Call(net, output="logits"), inputs(2), ClassTarget(0))


def test_batch_as_large_as_the_map() -> None:
    """Classes per input never broadcast against positions, also where their numbers agree."""
    net, x = GapNet(2).eval(), inputs(2, batch=4)  # the map is 4x4
    classes = torch.tensor([0, 1, 2, 0])
    whole = grad_cam(Call(net), x, ClassTarget(classes)).map
    single = torch.cat([grad_cam(Call(net), x[i : i + 1], ClassTarget(int(classes[i]))).map for i in range(4)])
    assert error(whole, single) < 1e-6


def test_half_precision_is_summed_in_float32() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    expected = grad_cam(Call(net), x, ClassTarget(1)).map
    low = grad_cam(Call(net.bfloat16()), x.bfloat16(), ClassTarget(1)).map
    assert low.dtype == torch.float32
    assert error(low, expected) < 0.05
    zeros = grad_cam(Call(net), torch.zeros_like(x, dtype=torch.bfloat16), ClassTarget(1)).map
    assert bool(zeros.isfinite().all())


def test_cells_lie_where_a_self_explaining_network_knows_them_to_lie(rank: int) -> None:
    model, x = SelfExplaining(GapNet(rank)).eval(), inputs(rank)
    own = grad_cam(Call(model), x, ClassTarget(0))
    assert own.layer == "model.features"
    assert own.geometry == model.evidence(x).geometry
    # Elsewhere nobody knows: another layer, another spacing, another network.
    assert not grad_cam(Call(model), x, ClassTarget(0), layer="model.features.0").geometry.registered
    assert not Call(model).geometry((8,) * rank, (16,) * rank).registered
    assert not grad_cam(Call(model.model), x, ClassTarget(0)).geometry.registered
