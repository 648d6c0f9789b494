from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.metrics.pixel_flipping import pixel_flipping
from pellucid.metrics.removal import curve, ranks
from pellucid.targets import ClassTarget, SingleLogitTarget
from reference.nets import Kept, Linear, inputs

# One of several labels, so that the answer followed is the logit itself, as in Quantus without softmax.
TASK = "multilabel"


def quantus_curve(net: nn.Module, x: Tensor, a: Any, step: int) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantus = pytest.importorskip("quantus")
        metric = quantus.PixelFlipping(
            features_in_step=step, perturb_baseline=0.0, normalise=False, disable_warnings=True
        )
        (found,) = metric(net, x.numpy().copy(), np.array([0]), a.copy(), device="cpu", softmax=False)
    return [float(v) for v in found]


def ramp() -> tuple[nn.Module, Tensor, Tensor]:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)).double().eval()
    net[1].weight.data = torch.arange(48.0, dtype=torch.float64).reshape(3, 16) / 48
    x = torch.from_numpy(np.random.RandomState(0).rand(1, 1, 4, 4))
    return net, x, torch.arange(1, 17.0, dtype=torch.float64).view(1, 4, 4)


def test_the_curve_is_that_of_quantus_and_begins_after_the_first_flip() -> None:
    net, x, pixels = ramp()
    points = curve(
        Call(net), x, ClassTarget(0), TASK, ranks(pixels), torch.tensor([0, 4, 8, 12, 16]),
        reveal=False, baseline=0.0, batch_size=None,
    ).answer.score[0].tolist()  # fmt: skip
    assert points[0] == pytest.approx(net(x)[0, 0].item())
    assert points[1:] == pytest.approx([0.8800575, 0.3614039, 0.0740701, 0], abs=1e-7)
    assert points[1:] == pytest.approx(quantus_curve(net.float(), x.float(), pixels[:, None].numpy(), 4), abs=1e-6)


def test_the_value_is_the_mean_of_the_curve() -> None:
    net, x, pixels = ramp()
    value = float(pixel_flipping(Call(net), x, ClassTarget(0), pixels, TASK, at_once=4)["log_odds"])
    assert value == pytest.approx(sum([0.8800575, 0.3614039, 0.0740701, 0]) / 4, abs=1e-7)
    assert 4 * value - 0.8800575 / 2 == pytest.approx(0.8755028, abs=1e-6)  # their area, at distance 1


def test_colour_images_take_a_third_of_the_passes() -> None:
    """Quantus flips single values; where those of a place follow each other, every third of its points is ours."""
    net, x = Linear((2, 4, 4)).float().eval(), inputs(2, batch=1, side=4)
    pixels = torch.randperm(16, generator=torch.Generator().manual_seed(0)).view(1, 4, 4)
    values = (2 * pixels[:, None] + torch.arange(2).view(1, 2, 1, 1)).double().numpy()
    theirs = quantus_curve(net, x, values, 1)
    net.seen.clear()
    value = float(pixel_flipping(Call(net), x, ClassTarget(0), pixels.double(), TASK, at_once=1)["log_odds"])
    assert value == pytest.approx(np.mean(theirs[1::2]), abs=1e-5)
    assert sum(map(len, net.seen)) == 1 + 16


def test_patches_go_whole_by_their_mean() -> None:
    """5 x 5 in pieces of 2: nine pieces, of which those at the far edges are smaller."""
    net, x = Linear((1, 5, 5)), torch.ones(1, 1, 5, 5, dtype=torch.float64)
    pixels = torch.zeros(1, 5, 5, dtype=torch.float64)
    pixels[0, 4, 4] = 2.0  # the smallest piece, of one sample
    pixels[0, 0, 0] = 4.0  # mean 1
    pixels[0, :2, 4] = 0.5  # mean 0.5, though its sum is the same
    pixel_flipping(Call(net), x, ClassTarget(0), pixels, patch=2, at_once=1, batch_size=100)
    gone = net.seen[-1][:, 0] == 0
    assert len(gone) == 9
    assert gone.flatten(1).sum(1).tolist()[:3] == [1, 5, 7]
    assert bool(gone[0, 4, 4])
    assert bool(gone[1, :2, :2].all())
    assert bool(gone[2, :2, 4].all())
    assert bool(gone[-1].all())


def test_best_and_worst_order(rank: int) -> None:
    x = torch.rand(2, 1, *(4,) * rank, generator=torch.Generator().manual_seed(0)).double()
    x = x / x.flatten(1).sum(1).view(-1, *(1,) * (rank + 1))
    best, noise, worst = (
        pixel_flipping(Call(Kept()), x, SingleLogitTarget(True), p, "binary")["probability"]
        for p in (x[:, 0], torch.randn(x[:, 0].shape, generator=torch.Generator().manual_seed(1)), -x[:, 0])
    )
    assert bool(((best < noise) & (noise < worst)).all())


def test_impossible_patches() -> None:
    net, x, pixels = ramp()
    with pytest.raises(OptionError, match="patch=5 is larger"):
        pixel_flipping(Call(net), x, ClassTarget(0), pixels, patch=5)
    with pytest.raises(OptionError, match="patch=0"):
        pixel_flipping(Call(net), x, ClassTarget(0), pixels, patch=0)
    with pytest.raises(OptionError, match="at_once=0"):
        pixel_flipping(Call(net), x, ClassTarget(0), pixels, at_once=0)
