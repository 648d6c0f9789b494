"""An equivariant network has no spread, a hand-made ensemble the spread that was made, and only settled cells are coloured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.chance import Null
from pellucid.errors import BadInput, OptionError
from pellucid.models.zoo import build


class Pointwise(nn.Module):
    """Looks at one sample at a time, so that mirroring or shifting the input mirrors or shifts its map."""

    def __init__(self, weights: list[list[float]], stride: int = 1, rank: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.features = conv(2, 3, 1, stride=stride)
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.features.weight.normal_()
            self.head.weight.copy_(torch.tensor(weights))
            self.head.bias.copy_(torch.tensor([0.1, -0.2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(2).mean(2))


WEIGHTS = [[1.0, -0.5, 0.2], [-0.3, 0.8, 0.4]]


def softcam(weights: list[list[float]] = WEIGHTS, stride: int = 1, rank: int = 2) -> nn.Module:
    return pl.convert(Pointwise(weights, stride, rank).eval(), noise(rank))


def noise(rank: int = 2, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 2, *(8,) * rank, generator=torch.Generator().manual_seed(seed))


# --- views --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_an_equivariant_network_has_no_spread(rank: int, stride: int) -> None:
    """With stride 2 cells are centred on the first of two samples: plain mirroring would show them the other one."""
    x = noise(rank)
    e = pl.uncertainty(softcam(stride=stride, rank=rank), x, 1, flips=range(rank), shifts=1)
    assert e.spread is not None
    assert len(e.spread.names) == 1 + rank + 2 * rank
    own = pl.explain(softcam(stride=stride, rank=rank), x, 1)
    torch.testing.assert_close(e.map, own.map)  # the explained map stays the network's own
    torch.testing.assert_close(e.spread.mean(), own.map)
    assert float(e.spread.deviation().nan_to_num().max()) < 1e-6
    assert float(e.spread.agreement(e.map).min()) == 1
    settled = e.settled()
    assert settled is not None
    assert bool(settled.all())
    assert torch.isnan(e.spread.maps).any()  # shifted views do not see all cells


def test_a_network_that_knows_left_from_right_has_a_spread() -> None:
    torch.manual_seed(0)
    lateral = pl.convert(build("pellucid:s8", channels=(8, 8), strides=(2, 2)).eval(), torch.randn(2, 3, 32, 32))
    e = pl.uncertainty(lateral, torch.randn(2, 3, 32, 32), 1, shifts=0)
    assert e.spread is not None
    assert float(e.spread.deviation().max()) > 1e-5


def test_signals_are_not_turned_in_time_unless_asked() -> None:
    net, x = softcam(rank=1), noise(1)
    assert pl.uncertainty(net, x, 1).spread.names == (
        "as it is",
        "shifted by -1 along axis 0",
        "shifted by +1 along axis 0",
    )  # type: ignore[union-attr]
    assert "mirrored along axis 0" in pl.uncertainty(net, x, 1, flips=[0]).spread.names  # type: ignore[union-attr]


# --- networks -----------------------------------------------------------------------------------------------------------


def test_a_hand_made_ensemble_has_the_spread_that_was_made() -> None:
    """Three heads on one trunk; the contrast of the classes is +z0, +2 z0 and -z0 of its first channel."""
    heads = [[[0.0, 0, 0], [w, 0, 0]] for w in (1.0, 2.0, -1.0)]
    networks, x = [softcam(w) for w in heads], noise()
    z = networks[0].model.features(x)[:, 0].detach() / 64  # cells are shares of a mean over 8 x 8
    e = pl.uncertainty(networks, x, 1)
    assert e.spread is not None
    assert e.spread.kind == "networks"
    torch.testing.assert_close(e.map, z * 2 / 3)
    torch.testing.assert_close(e.spread.mean(), z * 2 / 3)
    torch.testing.assert_close(e.spread.deviation(), z.abs() * torch.tensor([1.0, 2.0, -1.0]).std())
    torch.testing.assert_close(e.spread.agreement(e.map), torch.full_like(z, 2 / 3))
    assert not e.settled().any()  # type: ignore[union-attr]
    assert "Nowhere do they agree" in e[0].text("professional")
    parts = e.contributions()
    assert float(parts.residual.abs().max()) < 1e-5  # the mean map adds up to the mean score
    torch.testing.assert_close(e.score, torch.stack([pl.explain(n, x, 1).score for n in networks]).mean(0))


def test_the_ensemble_decides_by_its_mean_output() -> None:
    """Two weak votes for class 0 and a strong one for class 1."""
    networks = [softcam([[0.0] * 3, [0.0] * 3]) for _ in range(3)]
    for network, bias in zip(networks, (-0.5, -0.5, 3.0), strict=True):
        network.model.head.bias.data = torch.tensor([0.0, bias])
    e = pl.uncertainty(networks, noise())
    assert e.target.describe(("a", "b"), 0) == "b against a"
    assert e.score.tolist() == pytest.approx([2 / 3] * 2)
    assert e.spread is not None
    assert e.spread.scores[0].tolist() == pytest.approx([-0.5, -0.5, 3.0])


def test_views_of_networks_are_all_members() -> None:
    e = pl.uncertainty([softcam(), softcam()], noise(), 1, flips=[-1])
    assert e.spread is not None
    assert e.spread.kind == "views of networks"
    assert e.spread.names == tuple(f"network {i}, {v}" for i in (0, 1) for v in ("as it is", "mirrored along axis 1"))


# --- what becomes of it -------------------------------------------------------------------------------------------------


def orange(e: pl.Explanation) -> float:
    image = np.full((8, 8), 128, np.uint8)
    pixels = np.asarray(e.overlay(image, title="", bar=False, width=96).convert("RGB"), dtype=int)[:70]
    return float((pixels[..., 0] - pixels[..., 2]).max())


def test_only_settled_cells_are_coloured() -> None:
    heads = [[[0.0, 0, 0], [1.0, 0, w]] for w in (0.0, 0.0, -9.0)]
    e = pl.uncertainty([softcam(w) for w in heads], noise(), 1)[0]
    settled = e.settled()
    assert settled is not None
    assert 0 < int(settled.sum()) < settled.numel()
    assert orange(e) > 0
    flipped = replace(e, spread=replace(e.spread, maps=-e.map[:, None].expand_as(e.spread.maps)))  # type: ignore[type-var,union-attr]
    assert orange(flipped) <= 0
    high = replace(e, null=Null("phases", torch.full((1, 20), 1e9), torch.full((1, 20), 1e9)))
    assert not high.settled().any()  # type: ignore[union-attr]
    assert orange(high) <= 0  # below chance nothing is coloured, whoever agrees


def test_it_is_picked_saved_and_loaded(tmp_path: Path) -> None:
    e = pl.erase_regions(softcam(), pl.uncertainty(softcam(), noise(), 1))
    back = pl.Explanation.load(e.save(tmp_path / "e"))
    assert back.spread is not None
    assert e.spread is not None
    assert (back.spread.names, back.spread.kind) == (e.spread.names, e.spread.kind)
    torch.testing.assert_close(back.spread.maps, e.spread.maps, equal_nan=True)
    assert back.erased is not None
    assert e.erased is not None
    torch.testing.assert_close(back.erased.score.double(), e.erased.score, equal_nan=True)
    assert torch.equal(e[1].spread.scores, e.spread.scores[1:])  # type: ignore[union-attr]
    assert back[1].text("professional") == e[1].text("professional")


def test_the_networks_are_left_as_they_were() -> None:
    networks = [softcam().train(), softcam()]
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in networks]
    pl.uncertainty(networks, noise(), flips=[0])
    assert [n.training for n in networks] == [True, False]
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def test_what_has_no_spread_is_refused() -> None:
    with pytest.raises(OptionError, match="One map has no spread"):
        pl.uncertainty(softcam(), noise(), flips=(), shifts=0)
    with pytest.raises(OptionError, match="Several targets"):
        pl.uncertainty(softcam(), noise(), pl.SeveralTargets())
    with pytest.raises(OptionError, match="no spatial axis 2"):
        pl.uncertainty(softcam(), noise(), flips=[2])
    with pytest.raises(BadInput, match="different grids"):
        pl.uncertainty([softcam(), softcam(stride=2)], noise(), 1)
