from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods import ablation_cam as leaf
from pellucid.methods.ablation_cam import ablation_cam
from pellucid.methods.grad_cam import grad_cam
from pellucid.targets import ClassTarget, ContrastTarget, OneVsRestTarget, RegionTarget, SingleLogitTarget, Target
from reference.cam import ablation_cam as literal
from reference.cam import error
from reference.nets import CONV, GapNet, Squeezed, TwoLayers, inputs
from reference.peers import pytorch_grad_cam
from reference.untouched import unchanged

CLASSES = torch.tensor([0, 2, 1])


class Joined(nn.Module):
    """Features of the layer next to earlier ones, added or side by side: what skips the layer still counts."""

    def __init__(self, rank: int, join: Callable[[Tensor, Tensor], Tensor], channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.join = join
        self.early = nn.Sequential(CONV[rank](2, 3, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.layer = nn.Sequential(CONV[rank](3, 3, 3, padding=1), nn.ReLU())
        self.late = nn.Sequential(CONV[rank](channels, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        return self.fc(self.late(self.join(self.layer(early), early)).flatten(2).mean(2))


def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never take the closed form."""
    monkeypatch.setattr(leaf, "linear_head", lambda *args: None)


@pytest.mark.checks("ablation_cam", against="a whole pass per channel", tolerance=1e-9)
@pytest.mark.parametrize("layer", ["trunk", "block.0", "block"])
def test_equals_a_whole_pass_per_channel(rank: int, layer: str, tolerance: float) -> None:
    net, x = TwoLayers(rank).double().eval(), inputs(rank, side=8).double()
    found = ablation_cam(Call(net), x, ClassTarget(CLASSES), layer=layer, batch_size=3)
    assert error(found.map, literal(net, net.get_submodule(layer), x, CLASSES.tolist())) < tolerance


@pytest.mark.checks("ablation_cam", against="a whole pass per channel", tolerance=1e-9)
@pytest.mark.parametrize("layer", ["features", "features.2", "features.0"])
def test_the_closed_form_equals_a_whole_pass_per_channel(rank: int, layer: str, tolerance: float) -> None:
    """`features.2` is a convolution whose ReLU is part of the head; `features.0` has no closed form."""
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    found = ablation_cam(Call(net), x, ClassTarget(CLASSES), layer=layer)
    assert error(found.map, literal(net, net.get_submodule(layer), x, CLASSES.tolist())) < tolerance


def test_the_closed_form_is_one_pass_and_equals_running_the_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, passes = GapNet(2).double().eval(), inputs(2).double(), []
    net.register_forward_hook(lambda *given: passes.append(1))
    closed = ablation_cam(Call(net), x, ClassTarget(CLASSES), layer="features").map
    assert len(passes) == 1
    forced(monkeypatch)
    assert error(ablation_cam(Call(net), x, ClassTarget(CLASSES), layer="features").map, closed) < 1e-12
    assert len(passes) > 2


@pytest.mark.parametrize(
    ("classes", "target"),
    [(3, ContrastTarget(0, 2)), (3, OneVsRestTarget(torch.tensor([1, 2, 0]))), (1, SingleLogitTarget(False))],
)
def test_every_kind_of_score(classes: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """One against the rest is not linear in the logits: the closed form is of the logits, not of the score."""
    net, x = GapNet(2, classes).double().eval(), inputs(2).double()
    models = [net] if classes > 1 else [net, Squeezed(net).eval()]
    closed = [ablation_cam(Call(m), x, target).map for m in models]
    forced(monkeypatch)
    for model, found in zip(models, closed, strict=True):
        assert error(found, ablation_cam(Call(model), x, target).map) < 1e-9


def test_the_weight_is_the_papers_for_a_linear_head(rank: int) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    features, y = net.features(x).detach(), net(x).detach()
    found = ablation_cam(Call(net), x, ClassTarget(CLASSES)).map
    for i, c in enumerate(CLASSES.tolist()):
        weights = [net.fc.weight[c, k].detach() * features[i, k].mean() / y[i, c] for k in range(5)]
        by_hand = sum(w * a for w, a in zip(weights, features[i], strict=True))
        assert error(found[i], by_hand) < 1e-12


def test_the_closed_form_loses_no_digits_to_a_large_bias() -> None:
    """y - y_k is not made by subtracting two numbers that are nearly equal."""
    net, x = GapNet(2).eval(), inputs(2)
    plain = ablation_cam(Call(net), x, ClassTarget(1), relative=False).map
    net.fc.bias.data.fill_(1e6)
    assert error(ablation_cam(Call(net), x, ClassTarget(1), relative=False).map, plain) < 1e-6


@pytest.mark.checks("ablation_cam", against="pytorch-grad-cam AblationCAM", tolerance=1e-4)
def test_equals_pytorch_grad_cam(tolerance: float) -> None:
    """Behind a ReLU; elsewhere it puts in large negative numbers instead of 0."""
    for net, layer, side in ((GapNet(2).eval(), "features", 16), (TwoLayers(2).eval(), "block", 8)):
        x = inputs(2, side=side)
        theirs = pytorch_grad_cam("AblationCAM", net, net.get_submodule(layer), x, CLASSES.tolist())
        assert error(ablation_cam(Call(net), x, ClassTarget(CLASSES), layer=layer).map, theirs) < tolerance


def test_a_negative_score_turns_the_papers_map_but_not_the_absolute_one() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    plain = {r: ablation_cam(Call(net), x, ClassTarget(1), relative=r).map for r in (True, False)}
    score = net(x)[:, 1].detach()
    net.fc.bias.data[1] -= 2 * score.abs().max()
    shifted = {r: ablation_cam(Call(net), x, ClassTarget(1), relative=r).map for r in (True, False)}
    torch.testing.assert_close(shifted[False], plain[False])
    now = net(x)[:, 1].detach()
    assert float(now.max()) < 0
    torch.testing.assert_close(shifted[True], plain[True] * (score / now).view(-1, 1, 1))
    torch.testing.assert_close(plain[False], plain[True] * score.view(-1, 1, 1))


def test_a_score_of_zero_divides_nothing() -> None:
    net = GapNet(2).eval()
    net.fc.weight.data.zero_()
    net.fc.bias.data.zero_()
    assert not ablation_cam(Call(net), inputs(2), ClassTarget(1)).map.any()


@pytest.mark.parametrize(
    ("join", "channels"), [(lambda a, b: a + b, 3), (lambda a, b: torch.cat([a, b], 1), 6)], ids=["add", "cat"]
)
def test_features_that_skip_the_layer_keep_their_values(rank: int, join: Any, channels: int) -> None:
    net, x = Joined(rank, join, channels).double().eval(), inputs(rank, side=8).double()
    found = ablation_cam(Call(net), x, ClassTarget(CLASSES), layer="layer")
    assert error(found.map, literal(net, net.layer, x, CLASSES.tolist())) < 1e-9


def test_the_network_before_the_layer_runs_once_for_the_map_and_once_for_each_input() -> None:
    net, x = TwoLayers(2).eval(), inputs(2, side=8)
    counted: dict[str, int] = {"trunk": 0, "hidden": 0}
    for name in counted:
        forward = net.get_submodule(name).forward

        def count(given: Tensor, name: str = name, forward: Any = forward) -> Tensor:
            counted[name] += len(given)
            return forward(given)

        net.get_submodule(name).forward = count  # type: ignore[method-assign]
    ablation_cam(Call(net), x, ClassTarget(CLASSES), layer="block", batch_size=2)
    assert counted == {"trunk": 3 + 3, "hidden": 3 + 3 * (1 + 2 + 4)}  # passes, and per input one, a trial, 4 channels


@pytest.mark.bug("B12")
def test_an_error_half_way_leaves_the_network_whole() -> None:
    class Fragile(TwoLayers):
        left = 10**9

        def forward(self, x: Tensor) -> Tensor:
            self.left -= 1
            if self.left < 0:
                raise ArithmeticError("half way")
            return super().forward(x)

    net, x = Fragile(2).eval(), inputs(2, side=8)
    expected = net(x)
    for passes in range(6):
        net.left = passes
        with unchanged(net), pytest.raises(ArithmeticError, match="half way"):
            ablation_cam(Call(net), x, ClassTarget(0), layer="block", batch_size=2)
        net.left = 10**9
        assert not [m for m in net.modules() if "forward" in vars(m)]
        assert torch.equal(net(x), expected)


def test_inputs_and_scores_that_are_no_logits() -> None:
    """A second input per image, and the mean logit of a region of a segmentation."""

    class Two(TwoLayers):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * scale[:, None]

    net, x, scale = Two(2).eval(), inputs(2, side=8), torch.tensor([1.0, -2.0, 3.0])
    bound = ablation_cam(Call(net, args=(scale,), batch=3), x, ClassTarget(CLASSES), layer="block", relative=False).map
    plain = ablation_cam(Call(TwoLayers(2).eval()), x, ClassTarget(CLASSES), layer="block", relative=False).map
    assert error(bound, plain * scale.view(-1, 1, 1)) < 1e-5
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).double().eval()
    region = torch.zeros(6, 6, dtype=torch.bool)
    region[1:3, 2:5] = True
    x = inputs(2, side=6).double()
    found = ablation_cam(Call(dense), x, RegionTarget(1, region), layer="1", relative=False).map
    a = dense[:2](x).detach()
    weights = dense[2].weight[1, :, 0, 0].detach() * a[..., region].mean(2)
    assert error(found, torch.einsum("bk,bkij->bij", weights, a)) < 1e-9


def test_ranks_channels_as_grad_cam_does_where_each_acts_alone() -> None:
    """relative=False and a linear head: the weight is Grad-CAM's times the channel's total."""
    net, x = GapNet(2).double().eval(), inputs(2).double()
    features = net.features(x).detach()
    alone = torch.zeros_like(net.fc.weight.data)
    alone[:, 3] = net.fc.weight.data[:, 3]
    net.fc.weight.data = alone
    ours = ablation_cam(Call(net), x, ClassTarget(CLASSES), relative=False).map
    theirs = grad_cam(Call(net), x, ClassTarget(CLASSES)).map
    assert error(ours, theirs * features[:, 3].flatten(1).sum(1).view(-1, 1, 1)) < 1e-12


def test_impossible_numbers_of_channels_are_refused() -> None:
    with pytest.raises(OptionError, match="batch_size"):
        ablation_cam(Call(GapNet(2)), inputs(2), ClassTarget(0), batch_size=-1)
