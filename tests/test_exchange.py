"""What regions do, where it is known: in a network whose cells see only themselves it is the evidence exchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import BadInput, OptionError
from reference.nets import GapNet, inputs
from reference.untouched import unchanged


class Local(nn.Module):
    """Every sample is judged by itself."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        torch.manual_seed(0)
        self.features, self.fc = nn.Sequential(conv(2, 5, 1), nn.ReLU()), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(2).mean(2))


def halves(x: Tensor) -> Tensor:
    first = torch.zeros(x.shape[2:], dtype=torch.bool)
    first[: x.shape[2] // 2] = True
    return torch.stack([first, ~first])


def test_local_networks_lose_the_evidence_and_gain_that_of_the_others(rank: int) -> None:
    x = inputs(rank)
    softcam = pl.convert(Local(rank).eval(), x)
    regions = halves(x)
    with unchanged(softcam):
        found = pl.region_effect(softcam, x, regions, pl.ContrastTarget(0, 1), draws=8)
    assert found.draws == 2  # there are no more others
    cells = pl.explain(softcam, x, pl.ContrastTarget(0, 1)).map
    for r, region in enumerate(regions):
        sums = (cells * region).flatten(1).sum(1)
        torch.testing.assert_close(found.evidence[:, r], sums, rtol=1e-4, atol=1e-6)
        for i in range(3):
            exchanged = [float(sums[i] - sums[j]) for j in range(3) if j != i]
            assert float(found.effect[i, r]) == pytest.approx(sum(exchanged) / 2, rel=1e-3, abs=1e-5)
            assert float(found.deviation[i, r]) == pytest.approx(
                abs(exchanged[0] - exchanged[1]) / 2**0.5, rel=1e-3, abs=1e-5
            )


def test_shown_but_not_used() -> None:
    """Evidence drawn in one half that in truth comes from the other: the effect tells."""

    class Swapped(Local):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.swap(self.features(x)).flatten(2).mean(2))

        def __init__(self) -> None:
            super().__init__(1)
            self.swap = Roll()

    class Roll(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.roll(z.shape[2] // 2, 2)

    x = inputs(1)
    x[:, :, :8] = 0
    x[0, :, 8:] += 3
    softcam = pl.convert(Swapped().eval(), x)
    found = pl.region_effect(softcam, x, halves(x), 0, others=torch.zeros(1, 2, 16), gauge="raw")
    assert found.draws == 1
    assert bool(found.deviation.isnan().all())
    assert abs(float(found.effect[0, 0])) < 1e-5 < abs(float(found.evidence[0, 0]))


def test_batches_of_any_size_and_what_does_not_fit() -> None:
    x = inputs(2)
    softcam = pl.convert(GapNet(2).eval(), x)
    whole, parts = (pl.region_effect(softcam, x, halves(x), 1, batch_size=b).effect for b in (64, 5))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)
    assert torch.equal(whole, pl.region_effect(softcam, x, halves(x), 1, batch_size=64).effect)
    with pytest.raises(BadInput, match="nothing to draw from"):
        pl.region_effect(softcam, x[:1], halves(x), 1)
    with pytest.raises(BadInput, match="regions are"):
        pl.region_effect(softcam, x, halves(x)[0], 1)
    with pytest.raises(OptionError, match="does not add up"):
        pl.region_effect(softcam, x, halves(x), 1, method="saliency")
    with pytest.raises(OptionError, match="one score"):
        pl.region_effect(softcam, x, halves(x), pl.SeveralTargets((0, 1)))
