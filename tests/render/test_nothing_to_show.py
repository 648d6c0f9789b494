"""A map that shows nothing for the target says so, in words and in colours, whatever method made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import pellucid as pl
from pellucid.chance import Null
from pellucid.contracts import Explanation
from pellucid.methods import METHODS
from pellucid.render.card import card
from pellucid.render.overlay import overlay, scale
from pellucid.render.signal import CHANCE

Make = Callable[..., Explanation]


def orange(explanation: Explanation, **options: object) -> float:
    """The strongest orange of a picture over mid grey, without frame: how far red lies above blue."""
    image = np.full(explanation.geometry.input_size, 128, np.uint8)
    shown = overlay(explanation, image, title="", bar=False, width=96, **options)  # type: ignore[arg-type]
    pixels = np.asarray(shown.convert("RGB"), dtype=int)[:70]  # above the strip with words
    return float((pixels[..., 0] - pixels[..., 2]).max())


class Against(nn.Module):
    """Every place speaks against class 1, or, with `size` 0, for nothing."""

    def __init__(self, size: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[1] = -size

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


QUICK = {"rise": {"masks": 30}, "smooth_grad": {"samples": 3}, "integrated_gradients": {"steps": 5}}
EXPLAINING = [name for name, row in METHODS.items() if not row.control]


def explained(method: str, size: float) -> Explanation:
    model = Against(size).eval()
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    network = pl.convert(model, x) if method == "evidence" else model
    return pl.explain(network, x, 1, method=method, task="multilabel", **QUICK.get(method, {}))


@pytest.mark.parametrize("method", EXPLAINING)
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_no_method_shows_orange_where_its_map_has_nothing_positive(method: str, size: float) -> None:
    e = explained(method, size)
    positive = bool((e.map > 0).any())
    assert (e.remark() in ("No evidence: the map is zero.", "No positive evidence.")) == (not positive)
    assert e.remark() in e.text()
    assert e.remark() in card(e)
    if not positive:
        assert orange(e) <= 0
    if size == 0 and method not in ("eigen_cam", "score_cam"):  # these two do not ask what the class makes of a place
        assert not e.map.any()
    if method in ("evidence", "cam", "grad_cam", "hires_cam", "x_grad_cam"):
        assert not positive


@pytest.mark.parametrize("complete", [True, False])
def test_what_only_speaks_against_is_blue_and_is_called_so(make: Make, complete: bool) -> None:
    e = make(-torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.1, complete=complete)
    assert orange(e) <= 0
    assert "No positive evidence." in e.text()
    assert "carries" not in e.text()


@pytest.mark.parametrize("value", [2.0, -2.0])
def test_a_constant_map_keeps_its_value_and_its_sign(make: Make, value: float) -> None:
    e = make(torch.full((1, 8, 8), value))
    assert scale([e]) == 2.0
    assert (orange(e) > 0) == (value > 0)
    assert orange(e, limit=200.0) < 10  # a hundredth of a common scale is a hundredth of the colour


def test_a_trace_of_evidence_is_not_stretched_to_full_colour(make: Make) -> None:
    cells = torch.full((1, 8, 8), -1e-6)
    cells[0, 2, 2] = 1e-5
    e, whole = make(cells), make(cells * 1e6)
    assert scale([e]) == pytest.approx(0.01 / 64)  # the cells together would hold 0.01 logit
    assert 0 < orange(e) < 0.1 * orange(whole)
    assert "Hardly any evidence: 7e-05 logit in all." in e.text()
    assert whole.remark() == ""
    assert make(cells, complete=False).remark() == ""  # gradients have no unit that could be called small
    assert make(cells, provenance={"task": "regression"}).remark() == ""


def test_a_few_positive_cells_beside_strong_negative_ones_are_told_as_such(make: Make) -> None:
    cells = torch.full((1, 8, 8), -1.0)
    cells[0, 2, 2] = 0.05
    assert "No region speaks for it; its positive cells hold +0.05 in all." in make(cells).text()


# --- the null distribution in the picture -----------------------------------------------------------------------------


def with_null(e: Explanation, limit: float) -> Explanation:
    seen = e.map.double().flatten(1).abs().amax(1, keepdim=True)
    columns = torch.cat([seen, torch.full((len(e), 19), limit, dtype=torch.float64)], 1)
    return replace(e, null=Null("phases", columns, columns))


def band(picture: Image.Image) -> int:
    """The height of the grey band beside the colour bar, in pixels."""
    pixels = np.asarray(picture.convert("RGB"))[:, 372:]
    grey = (pixels == (150, 156, 162)).all(2)
    columns = grey.sum(0)
    solid = [int(n) for n in columns if n > 20]
    return max(sorted(solid)[:-2], default=0) if len(solid) > 2 else 0


def test_the_band_is_as_high_as_the_share_of_the_scale(make: Make) -> None:
    cells = torch.zeros(1, 8, 8)
    cells[0, 2:4, 2:4] = 4.0
    e = make(cells)
    plain, quarter, half = (overlay(o) for o in (e, with_null(e, 1.0), with_null(e, 2.0)))
    assert band(plain) == 0
    assert band(half) == pytest.approx(2 * band(quarter), abs=3)
    assert band(quarter) > 40


def test_a_map_within_chance_reaches_no_full_colour(make: Make) -> None:
    cells = torch.zeros(1, 8, 8)
    cells[0, 2:6, 2:6] = 0.5
    e = make(cells)
    assert orange(with_null(e, 5.0)) < 0.2 * orange(e)
    assert orange(with_null(e, 0.1)) == orange(e)
    assert "p = 1" in with_null(e, 5.0).text()
    assert "within what 19 random-phase inputs give" in with_null(e, 5.0).text()


def test_signals_have_the_band_behind_their_cells(make: Make) -> None:
    cells = torch.zeros(1, 32)
    cells[0, 10] = 4.0
    e = make(cells, size=(64,))

    def grey(shown: Explanation) -> int:
        return int((np.asarray(overlay(shown, width=320).convert("RGB")) == CHANCE).all(2).sum())

    assert grey(e) == 0
    assert grey(with_null(e, 2.0)) == pytest.approx(2 * grey(with_null(e, 1.0)), rel=0.1)
    assert grey(with_null(e, 1.0)) > 320 * 5
