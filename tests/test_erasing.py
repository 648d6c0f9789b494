"""Erasing a region of a network that looks at single samples does what its cells say, and else what the network says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import BadInput, OptionError


class Bright(nn.Module):
    """The log-odds of "spot" against "none" is the mean brightness, sample by sample; `cap` is the most it can be."""

    def __init__(self, cap: float = 1e9) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 1, 1, bias=False)
        self.head = nn.Linear(1, 2, bias=False)
        self.cap = cap
        with torch.no_grad():
            self.features.weight.fill_(1.0)
            self.head.weight.copy_(torch.tensor([[0.0], [1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(2).mean(2)).clamp_max(self.cap)


def spots() -> Tensor:
    """Two bright spots on black; of a mean over 64 samples the first is worth 2, the second 1."""
    x = torch.zeros(2, 1, 8, 8)
    x[0, 0, 1:3, 1:3], x[0, 0, 5:7, 5:7] = 32.0, 16.0
    x[1] = -1.0
    return x


def test_what_cells_predict_is_what_erasing_measures() -> None:
    net = pl.convert(Bright().eval(), spots(), classes=("none", "spot"))
    e = pl.erase_regions(net, pl.explain(net, spots(), 1), most=2)
    assert e.erased is not None
    assert e.score[0] == pytest.approx(3.0)
    assert e.erased.score[0].tolist() == pytest.approx([1.0, 2.0])  # black fills up from black
    assert e.erased.probability[0].tolist() == pytest.approx([torch.tensor(s).sigmoid().item() for s in (1.0, 2.0)])
    assert torch.isnan(e.erased.score[1]).all()  # nothing speaks for a spot there
    assert "Without the first the probability would be about 0.73; measured by erasing it: 0.73." in e[0].text("professional")  # fmt: skip


def test_a_network_that_makes_up_for_a_region_is_found_out() -> None:
    """Its logit is capped at what one spot gives: the map of gradients shows both spots, either is enough."""
    e = pl.explain(pl.convert(Bright().eval(), spots(), classes=("none", "spot")), spots(), 1)
    capped = Bright(cap=1.0).eval()
    with torch.no_grad():
        known = replace(e, score=capped(spots()).diff(dim=1)[:, 0], logits=capped(spots()))
    told = pl.erase_regions(capped, known)[0]
    assert told.erased is not None
    assert float(told.erased.score[0, 0]) == pytest.approx(1.0)
    assert "does less than its evidence says" in told.text("professional")


def test_several_networks_answer_by_their_mean() -> None:
    networks = [pl.convert(Bright().eval(), spots()) for _ in range(2)]
    networks[1].model.head.weight.data *= 3
    e = pl.erase_regions(networks, pl.uncertainty(networks, spots(), 1))
    assert e.erased is not None
    assert float(e.erased.score[0, 0]) == pytest.approx(2.0)  # (1 + 3) / 2


def test_what_cannot_be_erased_is_refused() -> None:
    net = pl.convert(Bright().eval(), spots())
    e = pl.explain(net, spots(), 1)
    with pytest.raises(BadInput, match="does not hold its input"):
        pl.erase_regions(net, replace(e, input=None))
    with pytest.raises(OptionError, match="one target"):
        pl.erase_regions(net, pl.explain(net, spots(), pl.SeveralTargets()))
