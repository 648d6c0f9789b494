from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import BadInput, OptionError
from pellucid.metrics.infidelity import infidelity
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget
from reference.nets import GapNet, Linear, SelfExplaining, inputs

CLASSES = torch.tensor([0, 2, 1])


def score(net: torch.nn.Module, x: Tensor, map: Tensor, **options: Any) -> dict[str, Tensor]:
    grid = map.shape[-(x.ndim - 2) :]
    geometry = Geometry.unregistered(grid, x.shape[2:])
    return infidelity(Call(net), x, ClassTarget(CLASSES), map, geometry, **options)


def linear(rank: int) -> tuple[Linear, Tensor]:
    return Linear((2, *(6,) * rank)), inputs(rank, side=6).double()


def shown(net: Linear) -> Tensor:
    """The changed inputs, one after the other for each of three inputs: (samples, 3, channels, *size)."""
    rows = torch.cat(net.seen[1:])
    return rows.view(-1, 3, *rows.shape[1:])


def test_zero_for_what_a_linear_network_is_made_of(rank: int) -> None:
    """Input x weight tells of boxes on a baseline of 0, the weight itself of noise, with and without channels."""
    net, x = linear(rank)
    weight = net.weight.detach()[CLASSES]
    for map, change in (
        ((weight * x).sum(1), "boxes"),
        (weight * x, "boxes"),
        (weight, "noise"),
        (weight.sum(1), "noise"),
    ):
        found = score(net, x, map, change=change)
        assert found[""].tolist() == pytest.approx([0, 0, 0], abs=1e-20)
        assert found["scale"].tolist() == pytest.approx([1, 1, 1])


def test_methods_keep_that_promise() -> None:
    net, x = linear(2)
    slopes = pl.explain(net, x, CLASSES, method="saliency", reduce="none")
    assert float(infidelity(Call(net), x, slopes.target, slopes.map, slopes.geometry, change="noise")[""].max()) < 1e-9
    parts = pl.explain(net, x, CLASSES, method="input_x_gradient")
    assert float(infidelity(Call(net), x, parts.target, parts.map, parts.geometry)[""].max()) < 1e-9


def test_rescaling_mends_the_unit_and_shows_the_sign(rank: int) -> None:
    net, x = linear(rank)
    map = (net.weight.detach()[CLASSES] * x).sum(1)
    for factor in (7.0, -0.5):
        found = score(net, x, factor * map)
        assert found["scale"].tolist() == pytest.approx([1 / factor] * 3)
        assert found["rescaled"].tolist() == pytest.approx([0, 0, 0], abs=1e-20)
        assert bool((found[""] > 1e-3).all())


@pytest.mark.parametrize("change", ["boxes", "noise"])
def test_equals_captum_for_the_same_changes(change: str) -> None:
    captum = pytest.importorskip("captum.metrics")
    net, x = linear(2)
    map = inputs(2, side=6, seed=4).double()
    map = map if change == "noise" else map.sum(1)
    ours = score(net, x, map, change=change, samples=10, batch_size=3)
    copies = shown(net).transpose(0, 1).flatten(0, 1)  # as they repeat: all of the first input, then the second
    away = x.repeat_interleave(10, 0) - copies
    if change == "noise":
        told, given = away, map
    else:  # a map of one value per place tells of the box, in one of the channels
        told = (away != 0).any(1, keepdim=True) * torch.tensor([1.0, 0]).view(1, 2, 1, 1).double()
        given = map[:, None].expand_as(x)
    for part, normalise in (("", False), ("rescaled", True)):
        theirs = captum.infidelity(
            net, lambda q: (told, copies), x, given, target=CLASSES, n_perturb_samples=10, normalize=normalise
        )
        assert ours[part].tolist() == pytest.approx(theirs.tolist(), rel=1e-6)


def test_cells_are_shared_among_their_samples() -> None:
    """A complete map on a grid tells what a box takes in the score's units, without interpolation."""
    net, x = SelfExplaining(GapNet(2)).double().eval(), inputs(2).double()
    e = pl.explain(net, x, CLASSES, method="evidence")
    whole = infidelity(Call(net), x, e.target, e.map, e.geometry, side=1.0, samples=1, generator=torch.Generator())
    assert whole[""].shape == (3,)
    fine = Geometry.unregistered((16, 16), (16, 16))
    from pellucid.spatial import spread

    other = infidelity(Call(net), x, e.target, spread(e.map, e.geometry), fine)
    assert torch.allclose(infidelity(Call(net), x, e.target, e.map, e.geometry)[""], other[""])


def test_boxes_cover_every_place_as_often() -> None:
    net, x = Linear((1, 8, 6)), torch.ones(3, 1, 8, 6).double()
    score(net, x, x[:, 0], samples=4000, side=0.5, batch_size=6000)
    share = (shown(net)[:, 0, 0] == 0).double().mean(0)
    assert float(share.max() - share.min()) < 0.08
    assert float(share.mean()) == pytest.approx(4 * 3 / (11 * 8), abs=0.01)  # 4 x 3 of the 11 x 8 corners reach a place


def test_a_map_of_zeros_is_as_wrong_as_the_score_moves() -> None:
    net, x = linear(2)
    found = score(net, x, torch.zeros(3, 6, 6).double())
    assert found[""].tolist() == found["rescaled"].tolist()
    assert bool((found[""] > 0).all())
    assert found["scale"].tolist() == [0, 0, 0]
    undefined = torch.zeros(3, 6, 6).double()
    undefined[1, 0, 0] = torch.inf
    assert score(net, x, undefined)[""].isnan().tolist() == [False, True, False]


def test_chance_is_the_callers_and_stays_where_it_is() -> None:
    net, x = linear(2)
    generator = torch.Generator().manual_seed(3)
    for change in ("boxes", "noise"):
        one, same = (score(net, x, x[:, 0], change=change, generator=generator)[""] for _ in range(2))
        other = score(net, x, x[:, 0], change=change, generator=torch.Generator().manual_seed(4))[""]
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


@pytest.mark.parametrize("options", [{"change": "boxs"}, {"side": 0.0}, {"side": 1.5}, {"samples": 0}, {"noise": 0.0}])
def test_impossible_options(options: dict[str, Any]) -> None:
    net, x = linear(2)
    with pytest.raises(OptionError):
        score(net, x, x[:, 0], **options)


def test_a_map_of_another_size() -> None:
    net, x = linear(2)
    with pytest.raises(BadInput, match="The map has shape"):
        infidelity(Call(net), x, ClassTarget(0), x[:, 0, :4, :4], Geometry.of_samples((4, 4)))
