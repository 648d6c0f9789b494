"""What other libraries get wrong (`reference.mistakes`), right here; where one is installed, its wrong answer beside."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import LayerError, TargetError
from pellucid.metrics.average_drop import average_drop
from pellucid.metrics.completeness_residual import completeness_residual
from pellucid.metrics.deletion import deletion
from pellucid.metrics.road import highest
from pellucid.metrics.sparseness import sparseness
from pellucid.render.overlay import Drawing, blend, scale
from pellucid.spatial import Geometry, upsample
from pellucid.targets import ClassTarget, SingleLogitTarget
from reference import cam as literal
from reference.cam import error
from reference.input_methods import Swapped, gradient
from reference.mistakes import MISTAKES
from reference.nets import FourPixels, GapNet, SelfExplaining, Squeezed, TwoLayers, inputs
from reference.peers import pytorch_grad_cam, torch_cam
from reference.untouched import unchanged

CLASSES = [0, 2, 1]


@contextmanager
def quietly(library: str) -> Iterator[Any]:
    """Another library, without its warnings; skips the test where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip(library)


def class_targets(classes: list[int]) -> list[Any]:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return [ClassifierOutputTarget(c) for c in classes]


def test_every_mistake_has_a_test() -> None:
    marked = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        marked |= set(re.findall(r'^@pytest\.mark\.bug\("(\w+)"\)', path.read_text(encoding="utf-8"), flags=re.M))
    assert marked == set(MISTAKES)


@pytest.mark.bug("B1")
@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam", "eigen_cam"])
def test_b1_the_layer_is_the_one_that_was_named(method: str) -> None:
    """The four activations at `conv` are 11.25, 13.5, 20.25 and 22.5; behind the ReLU they are others."""
    x = torch.arange(16.0).view(1, 1, 4, 4)
    maps = [pl.explain(FourPixels(inplace).eval(), x, 0, method=method, layer="conv").map for inplace in (True, False)]
    assert torch.equal(*maps)


@pytest.mark.bug("B1")
def test_b1_by_number() -> None:
    net, x = FourPixels(inplace=True).eval(), torch.arange(16.0).view(1, 1, 4, 4)
    assert pl.explain(net, x, 0, layer="conv").map.tolist() == [[[11.25, 13.5], [20.25, 22.5]]]
    assert torch_cam("GradCAM", net, "conv", x, [0]).tolist() == [[[0, 4], [28, 32.5]]]
    assert pytorch_grad_cam("GradCAM", net, net.conv, x, [0]).tolist() == [[[0, 3], [20.25, 22.5]]]


@pytest.mark.bug("B2")
@pytest.mark.parametrize("failing", [False, True])
def test_b2_modes_and_gradients_stay_the_users(failing: bool) -> None:
    def used() -> GapNet:
        net = GapNet(2).train()
        net.features[1].eval()
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        return net

    net, x = used(), inputs(2)
    with unchanged(net):
        if failing:
            with pytest.raises(TargetError):
                pl.explain(net, x, 99)
        else:
            pl.explain(net, x, CLASSES)
    theirs = used()
    with quietly("pytorch_grad_cam") as library, library.GradCAM(theirs, [theirs.features]) as cam:
        cam(x.clone().requires_grad_(), class_targets(CLASSES))
    assert not theirs.training
    assert not torch.equal(theirs.fc.weight.grad, torch.ones_like(theirs.fc.weight))


@pytest.mark.bug("B3")
def test_b3_a_class_that_does_not_exist_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    with pytest.raises(TargetError, match="no class 99999"):
        pl.explain(net, x, 99999)
    with pytest.raises(TargetError, match="no class 99999"), torch.no_grad():
        pl.explain(net, x, 99999)
    with quietly("pytorch_grad_cam") as library, library.GradCAM(net, [net.features]) as cam:
        cam(x.clone().requires_grad_(), class_targets([99999] * 3))  # goes on behind the block, as if nothing were
    assert "IndexError" in capsys.readouterr().out


@pytest.mark.bug("B4")
def test_b4_a_target_for_each_input_or_one_for_all() -> None:
    net, x = GapNet(2).eval(), inputs(2, batch=4)
    for wrong in ([1, 1], [1], [1] * 5):
        with pytest.raises(TargetError, match=f"{len(wrong)} targets? for 4 inputs"):
            pl.explain(net, x, wrong)
    whole = pl.explain(net, x, 1).map
    single = torch.cat([pl.explain(net, x[i : i + 1], 1).map for i in range(4)])
    assert error(whole, single) < 1e-6
    assert bool((whole.flatten(1).abs().amax(1) > 0).all())
    theirs = pytorch_grad_cam("GradCAM", net, net.features, x.clone().requires_grad_(), [1])
    assert [bool(m.abs().max() > 0) for m in theirs] == [True, False, False, False]


@pytest.mark.bug("B5")
def test_b5_a_confident_negative_is_explained_as_negative() -> None:
    net, x = GapNet(2, classes=1).eval(), inputs(2)
    net.fc.bias.data.fill_(-50)
    for model in (net, Squeezed(net).eval()):  # (batch, 1) and (batch,)
        answer = pl.explain(model, x)
        assert float(answer.score.min()) > 0  # the score of "no"
        assert error(answer.map, -literal.grad_cam(net, net.features, x, [0] * 3)) < 1e-5
    with quietly("pytorch_grad_cam") as library:
        with library.GradCAM(net, [net.features]) as cam:
            positive = cam(x.clone().requires_grad_(), class_targets([0] * 3))
            assert np.array_equal(cam(x.clone().requires_grad_(), None), positive)
        squeezed = Squeezed(net)
        with pytest.raises((TypeError, IndexError)):
            library.GradCAM(squeezed, [net.features])(x.clone().requires_grad_(), None)


class Twice(nn.Module):
    """One convolution that runs two times, with other values in the second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(self.conv(x)).flatten(2).mean(2))


@pytest.mark.bug("B6")
def test_b6_a_layer_that_runs_twice_is_refused() -> None:
    net, x = Twice().eval(), inputs(2)
    with pytest.raises(LayerError, match="ran 2 times"):
        pl.explain(net, x, CLASSES, layer="conv")
    with quietly("pytorch_grad_cam") as library, library.GradCAM(net, [net.conv]) as cam:
        picture = cam(x.clone().requires_grad_(), class_targets(CLASSES))
        assert len(cam.activations_and_grads.activations) == 2
    assert picture.max() > 0  # a map of the one run or the other


@pytest.mark.bug("B6")
@pytest.mark.parametrize("frozen", [False, True])
def test_b6_two_layers_stay_apart_in_any_order(frozen: bool) -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    net.trunk.requires_grad_(not frozen)

    def scaled(layer: str) -> Tensor:
        map = pl.explain(net, x, CLASSES, method="hires_cam", layer=layer).map
        return map / map.abs().amax((1, 2), keepdim=True)

    expected = (scaled("trunk") + scaled("block")) / 2
    for layers in (["trunk", "block"], ["block", "trunk"]):
        both = pl.explain(net, x, CLASSES, method="hires_cam", layer=layers).map
        assert error(both, F.interpolate(expected[:, None], size=(8, 8), mode="bilinear")[:, 0]) < 1e-6


@pytest.mark.bug("B7")
@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_plus_plus", "layer_cam", "score_cam", "saliency"])
def test_b7_a_batch_with_its_own_classes_is_its_inputs_one_by_one(method: str) -> None:
    """As many inputs as the map has rows and columns, so that nothing can broadcast unnoticed."""
    net, x, classes = GapNet(2).eval(), inputs(2, batch=4), [0, 2, 1, 1]
    whole = pl.explain(net, x, classes, method=method).map
    single = torch.cat([pl.explain(net, x[i : i + 1], c, method=method).map for i, c in enumerate(classes)])
    assert error(whole, single) < 1e-5


@pytest.mark.bug("B7")
def test_b7_the_square_of_classes_would_be_seen() -> None:
    """`logits[:, classes].sum()`, written out: every input is explained for all the classes of the batch together."""
    net, x, classes = GapNet(2).eval(), inputs(2, batch=4), [0, 2, 1, 1]
    features = net.features(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(net.fc(features.flatten(2).mean(2))[:, classes].sum(), features)
    square = (slope.mean((2, 3), keepdim=True) * features.detach()).sum(1)
    assert error(pl.explain(net, x, classes).map, square) > 0.5


@pytest.mark.bug("B7")
def test_b7_the_highest_place_is_the_most_coloured_one() -> None:
    map = inputs(2, batch=1, side=8)[0, 0].numpy()
    colours = blend(Drawing(np.zeros((8, 8)), map), float(np.abs(map).max()), 1.0).astype(int)
    warmth = colours[..., 0] - colours[..., 2]
    assert int(warmth.argmax()) == int(map.argmax())
    assert int(warmth.argmin()) == int(map.argmin())


class Watching(nn.Module):
    """The mean of its input as logits; keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return torch.stack([x.flatten(1).mean(1), torch.zeros(len(x))], 1)


@pytest.mark.bug("B8")
def test_b8_the_most_relevant_places_go_first() -> None:
    """A bright corner of nine equal samples, and 55 that are all 0."""
    pixels = torch.zeros(1, 8, 8)
    pixels[:, :3, :3] = 1
    corner, net = pixels[0].bool(), Watching()
    deletion(Call(net), torch.ones(1, 1, 8, 8), ClassTarget(0), pixels, steps=64)
    removed = {int(r.sum()): r for r in torch.cat(net.seen)[:, 0] == 0}
    assert torch.equal(removed[9], corner)
    assert all(bool((removed[k] <= corner).all()) for k in range(10))
    assert all(torch.equal(gone[0], corner) for gone in highest(pixels, [9 / 64, 0.2, 0.5, 0.8]))
    with quietly("pytorch_grad_cam.metrics.perturbation_confidence") as metrics:
        for percentile, imputed in (("auto", ~corner), (80, torch.ones(8, 8, dtype=torch.bool))):
            mask = metrics.RemoveMostRelevantFirst(percentile, lambda image, mask: mask)(None, pixels[0])
            assert torch.equal(mask == 0, imputed)  # what they fill in: all but the corner, and everything


class Sure(nn.Module):
    """Probability 0.8 of what it is shown whole, and 0.2 of nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.2 + 0.6 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.bug("B9")
def test_b9_the_drop_is_a_share_of_the_confidence() -> None:
    x, map = torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.zeros(1, 2, 2, dtype=torch.float64)
    x[..., 0, 0], map[:, 1, 1] = 1, 1  # the map hides what the answer comes from
    net = Sure()
    found = average_drop(Call(net, output=torch.logit), x, SingleLogitTarget(True), map, "binary")
    assert found.tolist() == pytest.approx([0.75])
    with quietly("pytorch_grad_cam.metrics.cam_mult_image") as metrics:
        theirs = metrics.DropInConfidence()(x, map.numpy(), [lambda output: output[0]], net)
        assert theirs.tolist() == pytest.approx([0.6])


@pytest.mark.bug("B10")
def test_b10_resizing_makes_no_new_extremes() -> None:
    cells = torch.zeros(1, 4, 4, 4)
    cells[0, 1, 1, 1] = 1
    found = upsample(cells, Geometry.unregistered((4, 4, 4), (16, 16, 16)))[0]
    assert 0 == float(found.min()) < float(found.max()) <= 1
    assert float(found[-1, -1, -1]) == 0
    with quietly("pytorch_grad_cam.utils.image") as image:
        assert image.scale_cam_image(cells.numpy(), (16, 16, 16)).min() < -0.05


@pytest.mark.bug("B11")
def test_b11_maps_keep_their_size() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    plain = pl.explain(net, x, CLASSES)
    tiny = copy.deepcopy(net)
    tiny.fc.weight.data.mul_(1e-5)
    small = pl.explain(tiny, x, CLASSES)
    assert error(small.map, plain.map * 1e-5) < 1e-5
    ground = np.zeros(tuple(small.map[0].shape))
    assert blend(Drawing(ground, small.map[0].numpy()), scale([plain, small]), 1.0).max() <= 1  # not full colour
    flat = torch.full((1, 4, 4), 3.0)
    assert torch.equal(upsample(flat, Geometry.unregistered((4, 4), (16, 16))), torch.full((1, 16, 16), 3.0))
    with quietly("pytorch_grad_cam.utils.image") as image:
        assert not image.scale_cam_image(flat.numpy()).any()
        assert image.scale_cam_image(1e-5 * torch.eye(4).numpy()[None]).max() > 0.98


@pytest.mark.bug("B11")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_b11_nothing_stays_nothing_in_half_precision(dtype: torch.dtype) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    net.features[2].bias.data.fill_(-1e4)  # nothing passes the last ReLU
    found = pl.explain(net.to(dtype), x.to(dtype), CLASSES).map
    assert found.dtype == torch.float32
    assert not found.any()
    with quietly("torchcam.methods.core") as core:
        zeros = torch.zeros(1, 4, 4, dtype=torch.float16)
        assert bool(core._CAM._normalize(zeros).isnan().all())


class Fragile(TwoLayers):
    """Fails after a number of passes."""

    left = 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise ArithmeticError("half way")
        return super().forward(x)


@pytest.mark.bug("B12")
def test_b12_an_error_half_way_leaves_the_network_whole() -> None:
    net, x = Fragile(2).eval(), inputs(2, side=8)
    expected, modules = net(x), list(net.modules())
    for passes in range(4):
        net.left = passes
        with unchanged(net), pytest.raises(ArithmeticError):
            pl.explain(net, x, CLASSES, method="ablation_cam", layer="block")
        net.left = 10**9
        assert list(net.modules()) == modules
        assert torch.equal(net(x), expected)
    with quietly("pytorch_grad_cam") as library:
        cam = library.AblationCAM(net, [net.block])
        net.left = 2
        with pytest.raises(ArithmeticError):
            cam(x.clone().requires_grad_(), class_targets(CLASSES))
        assert type(net.block).__name__ == "AblationLayer"


@pytest.mark.bug("B13")
def test_b13_relus_stay_the_users_own_and_functional_ones_are_met() -> None:
    net, x = GapNet(2).double().eval(), inputs(2).double()
    relus = [net.features[1], net.features[3]]
    guided = pl.explain(net, x, CLASSES, method="guided_backprop", reduce="none").map
    assert [net.features[1], net.features[3]] == relus
    functional = Swapped(net, F.relu)
    found = pl.explain(functional, x, CLASSES, method="guided_backprop", reduce="none").map
    assert error(found, guided) < 1e-12
    assert error(found, slope := gradient(functional, x, CLASSES)) > 0.1
    with quietly("captum.attr") as captum:
        theirs = captum.GuidedBackprop(functional).attribute(x.clone().requires_grad_(), torch.tensor(CLASSES))
        assert error(theirs, slope) < 1e-12
    with quietly("pytorch_grad_cam") as library:
        library.GuidedBackpropReLUModel(net, device="cpu")(x[:1].clone(), target_category=0)
        assert net.features[1] is net.features[3]


@pytest.mark.bug("B14")
def test_b14_grad_cam_plus_plus_is_the_papers() -> None:
    net, x = TwoLayers(2, side=4).double().eval(), inputs(2, side=4).double()
    scale = net(x).detach()[range(3), CLASSES].exp().view(3, 1, 1)
    paper = literal.grad_cam_plus_plus(net, net.block, x, CLASSES) / scale
    ours = pl.explain(net, x, CLASSES, method="grad_cam_plus_plus", layer="block").map
    assert error(ours, paper) < 1e-10
    net, x, paper = net.float(), x.float(), paper.float()
    assert shape_error(pytorch_grad_cam("GradCAMPlusPlus", net, net.block, x, CLASSES), paper) > 1e-4
    assert shape_error(torch_cam("GradCAMpp", net, "block", x, CLASSES), paper) > 1e-2


def shape_error(maps: Tensor, expected: Tensor) -> float:
    """How far two maps are apart, each in units of its own largest value."""
    first, second = (m / m.abs().amax((1, 2), keepdim=True) for m in (maps, expected))
    return error(first, second)


@pytest.mark.bug("B15")
def test_b15_arrays_stay_the_callers() -> None:
    map = inputs(2)[:, 0] - 0.5
    before = map.clone()
    sparseness(map)
    assert torch.equal(map, before)
    assert float(sparseness(torch.full((1, 4, 4), 0.3))) == pytest.approx(0)  # a flat map has a value: 0
    with quietly("quantus") as quantus:
        theirs = np.random.RandomState(0).randn(1, 1, 4, 4)
        given = theirs.copy()
        metric = quantus.Sparseness(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
        metric(linear(), np.ones((1, 1, 4, 4)), np.array([0]), theirs, device="cpu")
        assert not np.array_equal(theirs, given)


@pytest.mark.bug("B15")
def test_b15_sums_are_compared_with_a_tolerance() -> None:
    e = pl.explain(SelfExplaining(GapNet(2)).eval(), inputs(2), CLASSES)
    assert float(completeness_residual(e).max()) < 1e-5
    with quietly("quantus") as quantus:
        net, x = linear(), np.random.RandomState(0).rand(1, 1, 4, 4)
        exact = net[1].weight[0].detach().double().numpy().reshape(x.shape) * x
        metric = quantus.Completeness(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
        assert metric(net, x, np.array([0]), exact, device="cpu", softmax=False) == [False]


def linear() -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)).eval()
    net[1].weight.data = torch.arange(48.0).reshape(3, 16) / 48
    return net


@pytest.mark.bug("B15")
def test_b15_a_numeric_baseline_is_that_number() -> None:
    """Their "black" is the smallest value of the input."""
    net, x = Watching(), torch.full((1, 1, 2, 2), -5.0)
    for baseline in (0.0, -1.0):
        deletion(Call(net), x, ClassTarget(0), x[:, 0], steps=1, baseline=baseline)
        assert torch.equal(net.seen[-1][-1], torch.full((1, 2, 2), baseline))


@pytest.mark.bug("B16")
def test_b16_what_is_explained_and_what_is_scored_are_apart() -> None:
    """torch-cam explains the probability where that is scored (first numbers); the map a user sees is of the logit."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    target = ClassTarget(torch.tensor([3, 7]))
    of_probability = literal.grad_cam(net, net.layer4, x, [3, 7], lambda y: y.softmax(-1)).relu()
    of_logit = pl.explain(net, x, [3, 7], layer="layer4", rectify=True).map
    areas = []
    for map in (of_probability, of_logit):
        unit = (map - map.amin((1, 2), keepdim=True)) / (map.amax((1, 2), keepdim=True) + 1e-8)
        pixels = F.interpolate(unit[:, None], size=(64, 64), mode="bilinear")[:, 0]
        areas.append(float(deletion(Call(net), x, target, pixels, steps=10)["probability"].mean()))
    assert areas == pytest.approx([0.0010988, 0.0011231], abs=1e-6)
