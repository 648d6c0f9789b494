from __future__ import annotations

from math import ceil

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods.rise import rise
from pellucid.targets import ClassTarget
from reference import input_methods as literal
from reference.cam import error
from reference.nets import GapNet, inputs

CLASSES = [0, 2, 1]
TARGET = ClassTarget(torch.tensor(CLASSES))


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(rank: int, side: int, masks: int, cells: int, keep: float, seed: int) -> tuple[Tensor, Tensor]:
    """What the method draws, in its order."""
    own = source(seed)
    grids = torch.rand(masks, *(cells,) * rank, generator=own) < keep
    shifts = [torch.randint(ceil(side / cells), (masks,), generator=own) for _ in range(rank)]
    return grids, torch.stack(shifts, 1)


@pytest.mark.checks("rise", against="a literal version on the same draws", tolerance=1e-10)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_equals_the_literal_version_on_the_same_draws(
    rank: int, centred: bool, batch_size: int, tolerance: float
) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank, side=11).double()
    grids, shifts = drawn(rank, 11, 6, 3, 0.4, 5)
    expected = literal.rise(net, x, CLASSES, grids, shifts, 0.4, centred)
    options = {"masks": 6, "cells": 3, "keep": 0.4, "centred": centred, "batch_size": batch_size}
    found = rise(Call(net), x, TARGET, generator=source(5), **options)  # type: ignore[arg-type]
    assert error(found.map, expected) < tolerance


class Corner(nn.Module):
    """Sees the first samples of every axis alone."""

    def forward(self, x: Tensor) -> Tensor:
        for axis in range(2, x.ndim):
            x = x.narrow(axis, 0, 3)
        return x.flatten(1).sum(1, keepdim=True) + 7


def test_finds_the_corner_that_the_score_comes_from(rank: int) -> None:
    x = torch.ones(1, 1, *(16,) * rank)
    found = rise(Call(Corner()), x, ClassTarget(0), masks=400).map[0]
    seen = found[(slice(0, 2),) * rank]
    away = found[(slice(8, 16),) * rank]
    assert float(seen.min()) > 5 * float(away.abs().max())


def test_centring_takes_out_what_is_added_to_the_score(rank: int) -> None:
    class Raised(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 3

    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    raised = Raised(rank).double().eval()
    both = [rise(Call(m), x, TARGET, masks=20).map for m in (net, raised)]
    assert error(both[1], both[0]) < 1e-10
    plain = [rise(Call(m), x, TARGET, masks=20, centred=False).map for m in (net, raised)]
    assert error(plain[1], plain[0]) > 1


def test_masks_keep_their_share_and_stay_between_zero_and_one() -> None:
    """With a score of 1 for every mask, the map without centring is the mean mask over what is kept: about 1."""

    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert 0 <= float(x.min()) <= float(x.max()) <= 1
            return torch.ones(len(x), 1)

    found = rise(
        Call(One()), torch.ones(1, 1, 20, 20), ClassTarget(0), masks=2000, keep=0.3, centred=False, batch_size=500
    )
    assert abs(float(found.map.mean()) - 1) < 0.02
    assert float((found.map - 1).abs().max()) < 0.2


def test_a_batch_in_parts_is_the_batch() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    whole = pl.explain(net, x, CLASSES, method="rise", seed=3, masks=30).map
    assert error(pl.explain(net, x, CLASSES, method="rise", seed=3, masks=30, batch_size=2).map, whole) < 1e-5
    assert error(pl.explain(net, x, CLASSES, method="rise", seed=4, masks=30).map, whole) > 1e-3


def test_refusals() -> None:
    for options, words in [({"masks": 0}, "masks=0"), ({"cells": 0}, "cells=0"), ({"keep": 1.0}, "keep=1.0")]:
        with pytest.raises(OptionError, match=words):
            rise(Call(GapNet(2)), inputs(2), TARGET, **options)  # type: ignore[arg-type]
