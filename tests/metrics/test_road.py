from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import BadInput, OptionError
from pellucid.metrics.road import road
from pellucid.targets import ClassTarget, RegressionTarget, SingleLogitTarget
from reference.nets import GapNet, Linear, inputs

CORNER = torch.zeros(1, 8, 8)
CORNER[:, :3, :3] = 1


def removed(pixels: Tensor, shares: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The samples that are imputed, most relevant first and least relevant first: (shares, *size) each."""
    net, x = Linear((1, *pixels.shape[1:])), torch.ones(1, 1, *pixels.shape[1:])
    road(Call(net), x, ClassTarget(0), pixels, shares=shares, noise=1.0, batch_size=1000)
    first, last = (net.seen[-1][:, 0] != 1).chunk(2)
    return first, last


@pytest.mark.bug("B8")
@pytest.mark.parametrize("share", [9 / 64, 0.2, 0.5, 0.8, 0.99])
def test_exactly_the_relevant_places_go_whatever_the_share(share: float) -> None:
    first, last = removed(CORNER, (share,))
    assert torch.equal(first[0], CORNER[0].bool())
    assert torch.equal(last[0], ~CORNER[0].bool() & (share > 55 / 64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = pytest.importorskip("pytorch_grad_cam.metrics.perturbation_confidence")
    if 9 / 64 < share < 0.99:  # theirs: everything
        assert not metrics.RemoveMostRelevantFirst(100 * (1 - share), lambda image, mask: mask)(None, CORNER[0]).any()


@pytest.mark.bug("B8")
def test_a_group_of_equal_samples_waits_for_a_share_that_holds_it() -> None:
    first, last = removed(CORNER, (8 / 64, 9 / 64))
    assert first.flatten(1).sum(1).tolist() == [0, 9]
    assert not last.any()


def test_without_ties_each_share_is_met(rank: int) -> None:
    pixels = inputs(rank, batch=1, side=10)[:, 0]
    shares = (0.1, 0.25, 0.9)
    n = pixels.numel()
    order = pixels.flatten().argsort(descending=True)
    first, last = removed(pixels, shares)
    for share, top, bottom in zip(shares, first, last, strict=True):
        k = round(share * n)
        assert set(top.flatten().nonzero()[:, 0].tolist()) == set(order[:k].tolist())
        assert set(bottom.flatten().nonzero()[:, 0].tolist()) == set(order[n - k :].tolist())


def test_equals_pytorch_grad_cam_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 distinct values, so that their percentiles cut where shares do."""
    x, pixels = inputs(2, side=10), inputs(2, side=10, seed=2)[:, 0]
    net, classes = GapNet(2).eval(), [0, 2, 1]
    own = road(Call(net), x, ClassTarget(torch.tensor(classes)), pixels, noise=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("pytorch_grad_cam.metrics.road")
        monkeypatch.setattr(theirs.torch, "randn_like", torch.zeros_like)
        targets = [lambda output, c=c: output.softmax(-1)[c] for c in classes]
        combined = theirs.ROADCombined()(x, pixels.numpy(), targets, net)
        first = theirs.ROADMostRelevantFirstAverage()(x, pixels.numpy(), targets, net)
    before = net(x).softmax(1)[range(3), classes].detach()
    assert own["probability"].tolist() == pytest.approx(combined.tolist(), abs=1e-6)
    assert (own["morf_probability"] - before).tolist() == pytest.approx(first.tolist(), abs=1e-6)


def test_the_parts_make_the_whole_and_the_opposite_map_its_negative(rank: int) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank, side=8).double()
    pixels = inputs(rank, side=8, seed=3).double()[:, 0]
    found, opposite = (road(Call(net), x, ClassTarget(1), p) for p in (pixels, -pixels))
    for name in ("probability", "log_odds"):
        assert torch.allclose(found[name], (found[f"lerf_{name}"] - found[f"morf_{name}"]) / 2)
        assert torch.allclose(found[name], -opposite[name])


def test_the_right_order_beats_the_wrong_one() -> None:
    """Bright places count; they are islands, so that their neighbours tell little of them."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[..., ::3, ::3] = 1
    net = nn.Sequential(nn.Flatten(), nn.Linear(81, 1)).double()
    net[1].weight.data.fill_(1)
    net[1].bias.data.fill_(-5)
    right, noise = x[:, 0] + 1e-6 * inputs(2, batch=1, side=9).double()[:, 0], inputs(2, batch=1, side=9)[:, 0].double()
    values = [
        float(road(Call(net), x, SingleLogitTarget(True), p, "binary", noise=0.0)["probability"])
        for p in (right, noise, -right)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.2
    assert values[0] == pytest.approx(-values[2])


def test_flat_and_undefined_maps() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    pixels = torch.stack([torch.zeros(16, 16), torch.full((16, 16), 3.0), torch.full((16, 16), torch.nan)])
    found = road(Call(net), x, ClassTarget(0), pixels, shares=(0.5,))
    assert found["probability"][:2].tolist() == [0, 0]
    assert bool(found["probability"][2].isnan())
    assert bool(road(Call(net), x, RegressionTarget(0), x[:, 0], shares=(0.5,))["log_odds"].isnan().all())


def test_the_network_sees_what_chance_drew_and_no_more_than_asked() -> None:
    class Watched(nn.Module):
        largest = 0

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            self.largest = max(self.largest, len(x))
            return self.net(x)

    net, x = Watched(GapNet(2).eval()), inputs(2)
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    one, same = (road(Call(net), x, ClassTarget(0), x[:, 0], batch_size=3, generator=generator) for _ in range(2))
    assert torch.equal(one["log_odds"], same["log_odds"])
    assert torch.equal(generator.get_state(), state)
    assert net.largest == 3
    other = road(Call(net), x, ClassTarget(0), x[:, 0], generator=torch.Generator().manual_seed(6))
    assert not torch.equal(one["log_odds"], other["log_odds"])


def test_impossible_options() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    for shares in ((), (0.0,), (0.5, 1.0)):
        with pytest.raises(OptionError, match="shares="):
            road(Call(net), x, ClassTarget(0), x[:, 0], shares=shares)
    with pytest.raises(OptionError, match="noise=-1"):
        road(Call(net), x, ClassTarget(0), x[:, 0], noise=-1)
    with pytest.raises(BadInput, match="The map has shape"):
        road(Call(net), x, ClassTarget(0), x[:, 0, :8])
