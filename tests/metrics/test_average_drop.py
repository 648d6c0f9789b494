from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import BadInput
from pellucid.metrics.average_drop import average_drop
from pellucid.metrics.increase_in_confidence import increase_in_confidence
from pellucid.targets import ClassTarget, RegressionTarget
from reference import cam as literal
from reference.nets import GapNet, inputs


class FromEightToTwo(nn.Module):
    """Probability 0.8 of class 0 on an input of ones, 0.2 on zeros."""

    def forward(self, x: Tensor) -> Tensor:
        p = 0.2 + 0.6 * x.flatten(1).mean(1)
        return torch.stack([p.log(), (1 - p).log()], 1)


ONES = torch.ones(1, 1, 4, 4, dtype=torch.float64)
NOTHING = torch.zeros(1, 4, 4, dtype=torch.float64)


@pytest.mark.bug("B9")
def test_three_quarters_of_eight_tenths_are_lost() -> None:
    assert average_drop(Call(FromEightToTwo()), ONES, ClassTarget(0), NOTHING).tolist() == pytest.approx(
        [0.75], abs=1e-12
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
        theirs = metrics.DropInConfidence()(
            ONES, NOTHING.numpy(), [lambda output: output.softmax(-1)[0]], FromEightToTwo()
        )
    assert theirs.tolist() == pytest.approx([0.6])  # not divided


def test_by_hand() -> None:
    """Half of the input at its full, a quarter at half, the rest hidden by a negative map: 0.2 + 0.6 * 5/8 is left."""
    pixels = torch.tensor([6.0, 6, 3, -9], dtype=torch.float64).repeat_interleave(4).view(1, 4, 4)
    found = average_drop(Call(FromEightToTwo()), ONES, ClassTarget(0), pixels)
    assert found.tolist() == pytest.approx([(0.8 - 0.575) / 0.8])
    assert average_drop(Call(FromEightToTwo()), ONES, ClassTarget(1), pixels).tolist() == [0]  # it rises
    assert average_drop(Call(FromEightToTwo()), ONES, ClassTarget(0), NOTHING + 0.1).tolist() == pytest.approx([0])
    filled = average_drop(Call(FromEightToTwo()), ONES, ClassTarget(0), pixels, baseline=0.5)
    assert filled.tolist() == pytest.approx([0.6 * 0.5 * 3 / 8 / 0.8])


@pytest.mark.bug("B16")
def test_equals_torch_cam_for_the_map_it_explains_and_not_for_the_one_a_user_sees() -> None:
    torchvision = pytest.importorskip("torchvision")
    torchcam = pytest.importorskip("torchcam.methods")
    metrics = pytest.importorskip("torchcam.metrics")
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def softmax(y: Tensor) -> Tensor:
        return y.softmax(-1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torchcam.GradCAM(net, "layer4") as extractor:
            theirs = metrics.ClassificationMetric(extractor, softmax)
            theirs.update(x, class_idx=[3, 7])
            summary = theirs.summary()
    of_probability = literal.grad_cam(net, net.layer4, x, [3, 7], softmax).relu()
    of_logit = pl.explain(net, x, [3, 7], layer="layer4", rectify=True).map
    drops, rises = [], []
    for map in (of_probability, of_logit):
        pixels = F.interpolate(map[:, None], size=(64, 64), mode="bilinear")[:, 0]
        given = (Call(net), x, ClassTarget(torch.tensor([3, 7])), pixels)
        drops.append(float(average_drop(*given).mean()))
        rises.append(float(increase_in_confidence(*given).mean()))
    assert drops[0] == pytest.approx(summary["avg_drop"], rel=1e-3)  # they add 1e-7 to a probability of 0.001
    assert rises[0] == summary["conf_increase"] == 0.5
    assert drops == pytest.approx([0.0548990, 0.0303], abs=1e-4)


def test_undefined_cases(rank: int) -> None:
    net, x = GapNet(rank).eval(), inputs(rank)
    pixels = x[:, 0].clone()
    pixels[(1, *(0,) * rank)] = torch.nan
    assert average_drop(Call(net), x, ClassTarget(0), pixels).isnan().tolist() == [False, True, False]
    assert bool(average_drop(Call(net), x, RegressionTarget(0), x[:, 0]).isnan().all())
    found = average_drop(Call(net), x, ClassTarget(0), x[:, 0]).numpy()
    assert np.all((found >= 0) & (found <= 1))
    with pytest.raises(BadInput, match="The map has shape"):
        average_drop(Call(net), x, ClassTarget(0), pixels[:, :4])


def test_the_callers_map_is_not_changed() -> None:
    pixels = inputs(2)[:, 0]
    before = pixels.clone()
    assert not math.isnan(float(average_drop(Call(GapNet(2).eval()), inputs(2), ClassTarget(0), pixels).sum()))
    assert torch.equal(pixels, before)
