from __future__ import annotations

from typing import Literal

import pytest
import torch

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods.grad_cam_plus_plus import grad_cam_plus_plus
from pellucid.methods.smooth_grad_cam_plus_plus import smooth_grad_cam_plus_plus
from pellucid.targets import ClassTarget
from reference.cam import error, smooth_weights
from reference.cam import smooth_grad_cam_plus_plus as literal
from reference.nets import GapNet, TwoLayers, inputs
from reference.peers import torch_cam

CLASSES = torch.tensor([0, 2, 1])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(x: torch.Tensor, samples: int, share: float, seed: int) -> list[torch.Tensor]:
    """The noisy copies of each input: one draw per copy, as large as the input's range asks."""
    draws = torch.randn((samples, *x.shape[1:]), generator=seeded(seed))
    ranges = [float(v.max() - v.min()) for v in x]
    return [torch.stack([v + share * r * draw for v, r in zip(x, ranges, strict=True)]) for draw in draws]


@pytest.mark.checks("smooth_grad_cam_plus_plus", against="a literal version on the same draws", tolerance=1e-9)
@pytest.mark.parametrize(("numerator", "power"), [("second", 2), ("first", 1)])
@pytest.mark.parametrize("layer", ["trunk", "block"])
def test_equals_the_literal_version(
    rank: int, layer: str, numerator: Literal["second", "first"], power: int, tolerance: float
) -> None:
    net, x = TwoLayers(rank).double().eval(), inputs(rank, side=8).double()
    found = smooth_grad_cam_plus_plus(
        Call(net), x, ClassTarget(CLASSES), layer=layer, samples=5, noise=0.2, numerator=numerator, batch_size=4,
        generator=seeded(3),
    )  # fmt: skip
    copies = noise(x, 5, 0.2, 3)
    assert error(found.map, literal(net, net.get_submodule(layer), x, CLASSES.tolist(), copies, power)) < tolerance


def test_is_grad_cam_plus_plus_without_noise(rank: int) -> None:
    net, x = TwoLayers(rank).double().eval(), inputs(rank, side=8).double()
    plain = grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES)).map
    for samples in (1, 3):
        smooth = smooth_grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES), samples=samples, noise=0).map
        assert error(smooth, plain) < 1e-9


@pytest.mark.checks(
    "smooth_grad_cam_plus_plus", against="torch-cam SmoothGradCAMpp (weights of one copy)", tolerance=1e-4
)
def test_weights_equal_torch_cam_for_one_copy(tolerance: float) -> None:
    """Where the gradient is the same everywhere, since it is summed in another order there, and up to the feature maps:
    it goes on with those of the last noisy copy.
    """
    net, x = GapNet(2).eval(), inputs(2)
    net.fc.weight.data.mul_(1e3)  # its small number in the denominator shall not weigh
    copy = noise(x, 1, 0.1, seed=4)[0]
    classes = CLASSES.tolist()
    weights = smooth_weights(net, net.features, x, classes, [copy])
    theirs = torch_cam("SmoothGradCAMpp", Given(net, copy), "net.features", x, classes, num_samples=1)
    mixed = torch.einsum("bk,bkij->bij", weights, net.features(copy).detach())
    assert error(mixed, theirs) < tolerance
    ours = smooth_grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES), samples=1, noise=0.1, generator=seeded(4)).map
    assert error(ours, torch.einsum("bk,bkij->bij", weights, net.features(x).detach())) < tolerance


class Given(torch.nn.Module):
    """A network that sees a given input wherever it is asked for gradients: in place of noise that cannot be handed in."""

    def __init__(self, net: GapNet, noisy: torch.Tensor) -> None:
        super().__init__()
        self.net, self.noisy = net, noisy

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x - x.detach() + self.noisy if x.requires_grad else x)


def test_chance_comes_from_the_generator_and_stays_there() -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    generator, before = seeded(7), torch.get_rng_state()
    maps = [
        smooth_grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES), samples=3, generator=g).map
        for g in (generator, generator, seeded(7), seeded(8))
    ]
    assert torch.equal(maps[0], maps[1])  # read, not moved on: parts of a batch meet the same noise
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[3])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_number_of_copies_at_a_time_changes_nothing(batch_size: int) -> None:
    net, x = TwoLayers(2).double().eval(), inputs(2, side=8).double()
    found = smooth_grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES), samples=4, batch_size=batch_size).map
    whole = smooth_grad_cam_plus_plus(Call(net), x, ClassTarget(CLASSES), samples=4).map
    assert error(found, whole) < 1e-12


def test_no_more_copies_than_asked_for_run_at_a_time() -> None:
    net, sizes = TwoLayers(2).eval(), []
    net.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    smooth_grad_cam_plus_plus(
        Call(net), inputs(2, side=8), ClassTarget(CLASSES), layer="block", samples=5, batch_size=4
    )
    assert sizes == [3, 4, 4, 4, 3]


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"batch_size": 0}, {"noise": -0.1}, {"numerator": "secnd"}])
def test_impossible_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        smooth_grad_cam_plus_plus(Call(TwoLayers(2)), inputs(2, side=8), ClassTarget(0), **wrong)  # type: ignore[arg-type]
