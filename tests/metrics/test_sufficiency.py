from __future__ import annotations

import math

import pytest
import torch

from pellucid.call import Call
from pellucid.errors import BadInput, OptionError
from pellucid.metrics.sufficiency import sufficiency
from pellucid.targets import ClassTarget, RegressionTarget, SingleLogitTarget
from reference.nets import GapNet, Kept, inputs

YES = SingleLogitTarget(True)


def test_by_hand() -> None:
    """.5 and .75 of the total are seen: .9 - .5 and .9 - .7."""
    x = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64).view(1, 1, -1)
    found = sufficiency(Call(Kept()), x, YES, x[:, 0], "binary", shares=(0.25, 0.5), baseline=0.0)
    assert found["probability"].tolist() == pytest.approx([0.3])


def test_equals_the_definition_written_out(rank: int) -> None:
    net, x, classes = GapNet(rank).double().eval(), inputs(rank).double(), [0, 2, 1]
    pixels = inputs(rank, seed=2).double()[:, 0]
    found = sufficiency(Call(net), x, ClassTarget(torch.tensor(classes)), pixels, baseline=0.0)
    for i, c in enumerate(classes):
        order = pixels[i].flatten().argsort(descending=True)
        before = net(x[i : i + 1]).softmax(1)[0, c].detach()
        falls = []
        for share in (0.01, 0.05, 0.1, 0.2, 0.5):
            top = torch.zeros(pixels[i].numel(), dtype=torch.double)
            top[order[: max(1, round(share * len(top)))]] = 1
            kept = top
            p = net(x[i : i + 1] * kept.view(pixels[i].shape)).softmax(1)[0, c].detach()
            falls.append((float(before - p), float(before.logit() - p.logit())))
        assert float(found["probability"][i]) == pytest.approx(sum(f for f, _ in falls) / 5, abs=1e-10)
        assert float(found["log_odds"][i]) == pytest.approx(sum(f for _, f in falls) / 5, abs=1e-8)


def test_the_right_order_beats_the_wrong_one(rank: int) -> None:
    x = torch.rand(2, 1, *(4,) * rank, generator=torch.Generator().manual_seed(0)).double()
    x = x / x.flatten(1).sum(1).view(-1, *(1,) * (rank + 1))
    right, wrong = (
        sufficiency(Call(Kept()), x, YES, p, "binary", baseline=0.0)["probability"] for p in (x[:, 0], -x[:, 0])
    )
    assert bool((right < wrong).all())


def test_undefined_cases() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    pixels = x[:, 0].clone()
    pixels[0, 3, 3] = torch.nan
    found = sufficiency(Call(net), x, ClassTarget(0), pixels)["probability"].tolist()
    assert [math.isnan(v) for v in found] == [True, False, False]
    assert bool(sufficiency(Call(net), x, RegressionTarget(0), x[:, 0])["log_odds"].isnan().all())
    with pytest.raises(OptionError, match="shares="):
        sufficiency(Call(net), x, ClassTarget(0), pixels, shares=(1.5,))
    with pytest.raises(BadInput, match="The map has shape"):
        sufficiency(Call(net), x, ClassTarget(0), pixels[:, :4])
