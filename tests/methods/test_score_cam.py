from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods.score_cam import score_cam
from pellucid.targets import ClassTarget, ContrastTarget
from reference.cam import error
from reference.cam import score_cam as literal
from reference.nets import GapNet, TwoLayers, inputs

CLASSES = torch.tensor([0, 2, 1])


def counting(net: nn.Module) -> list[int]:
    """How many inputs each pass had."""
    sizes: list[int] = []
    net.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    return sizes


@pytest.mark.checks("score_cam", against="a literal version of the algorithm", tolerance=1e-9)
@pytest.mark.parametrize("layer", ["trunk", "block.0", "block"])
def test_equals_the_literal_version(rank: int, layer: str, tolerance: float) -> None:
    net, x = TwoLayers(rank).double().eval(), inputs(rank, side=8).double()
    net.fc.weight.data.mul_(5)  # so that the weights differ
    found = score_cam(Call(net), x, ClassTarget(CLASSES), layer=layer, batch_size=3)
    assert error(found.map, literal(net, net.get_submodule(layer), x, CLASSES.tolist())) < tolerance


@pytest.mark.checks("score_cam", against="a literal version of the algorithm", tolerance=1e-9)
def test_a_grid_that_does_not_divide_the_input(rank: int, tolerance: float) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank, side=13).double()
    found = score_cam(Call(net), x, ClassTarget(CLASSES), layer="features")
    assert error(found.map, literal(net, net.features, x, CLASSES.tolist())) < tolerance


def test_constant_channels_and_equal_masks_run_once() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    last = net.features[2]
    last.bias.data[:2], last.bias.data[2:] = -1e6, 1  # two channels are silent
    last.weight.data[3], last.bias.data[3] = last.weight.data[4], last.bias.data[4]
    sizes = counting(net)
    found = score_cam(Call(net), x, ClassTarget(CLASSES), layer="features")
    assert sizes == [3, 3, 3, 3]  # the batch, then per input: silence, channel 2, channels 3 and 4
    assert error(found.map, literal(net, net.features, x, CLASSES.tolist())) < 1e-5


def test_no_more_masks_than_asked_for_run_at_a_time() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    sizes = counting(net)
    few = score_cam(Call(net), x, ClassTarget(CLASSES), layer="features", batch_size=2).map
    assert sizes == [3] + [2, 2, 1] * 3
    assert error(score_cam(Call(net), x, ClassTarget(CLASSES), layer="features").map, few) < 1e-6


def test_a_baseline_falls_out_and_huge_scores_stay_finite() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    plain = score_cam(Call(net), x, ClassTarget(CLASSES)).map
    net.fc.bias.data.add_(1000)
    shifted = score_cam(Call(net), x, ClassTarget(CLASSES)).map
    assert error(shifted, plain) < 1e-3
    net.fc.weight.data.mul_(1e6)
    assert bool(score_cam(Call(net), x, ClassTarget(CLASSES)).map.isfinite().all())


def test_equal_scores_give_the_mean_feature_map() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    net.fc.weight.data.zero_()
    torch.testing.assert_close(score_cam(Call(net), x, ClassTarget(1)).map, net.features(x).detach().mean(1))


def test_a_winning_channel_takes_all() -> None:
    """Channel k is weighted by the score under its own mask, and large scores leave the best one alone."""
    net, x = GapNet(2).double().eval(), inputs(2, batch=1).double()
    features = net.features(x).detach()
    masks = torch.nn.functional.interpolate(features, (16, 16), mode="bilinear")
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    masks = (masks - low) / (high - low)
    scores = torch.stack([net(x * masks[:, k : k + 1])[0, 2] for k in range(5)]).detach()
    net.fc.weight.data.mul_(1e6)
    found = score_cam(Call(net), x, ClassTarget(2)).map
    assert error(found, features[:, int(scores.argmax())]) < 1e-9


def test_further_inputs_follow_their_image() -> None:
    class Two(GapNet):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * scale[:, None]

    net, x, scale = Two(2).double().eval(), inputs(2).double(), torch.tensor([1.0, -2.0, 30.0]).double()
    found = score_cam(Call(net, args=(scale,), batch=3), x, ContrastTarget(CLASSES, 1 - CLASSES % 2))
    for i in range(3):
        plain = GapNet(2).double().eval()
        plain.fc.weight.data.mul_(scale[i])
        target = ContrastTarget(int(CLASSES[i]), int(1 - CLASSES[i] % 2))
        assert error(score_cam(Call(plain), x[i : i + 1], target).map[0], found.map[i]) < 1e-9


def test_impossible_numbers_of_masks_are_refused() -> None:
    with pytest.raises(OptionError, match="batch_size"):
        score_cam(Call(GapNet(2)), inputs(2), ClassTarget(0), batch_size=0)
