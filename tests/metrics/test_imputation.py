"""What stands in for missing samples: a linear system, solved in several ways."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid.metrics import imputation
from pellucid.metrics.imputation import impute


def scene(rank: int, side: int = 6, share: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, *(side,) * rank, generator=generator, dtype=torch.float64)
    missing = torch.rand(2, *(side,) * rank, generator=generator) < share
    missing[(slice(None), *(0,) * rank)] = False
    return x, missing


def test_every_missing_sample_is_the_weighted_mean_of_its_neighbours(rank: int) -> None:
    """Written out: 1 for a neighbour across a side, 1/2 across an edge, 1/3 across a corner; none outside."""
    x, missing = scene(rank)
    found = impute(x, missing)
    assert torch.equal(found.masked_fill(missing[:, None], 0), x.masked_fill(missing[:, None], 0))
    side = x.shape[-1]
    for i in range(len(x)):
        for place in itertools.product(range(side), repeat=rank):
            if missing[(i, *place)]:
                total, weight = torch.zeros(3, dtype=torch.float64), 0.0
                for step in itertools.product((-1, 0, 1), repeat=rank):
                    other = tuple(p + s for p, s in zip(place, step, strict=True))
                    if any(step) and all(0 <= o < side for o in other):
                        own = 1 / sum(map(abs, step))
                        total, weight = total + own * found[(i, slice(None), *other)], weight + own
                expected = (total / weight).tolist()
                assert found[(i, slice(None), *place)].tolist() == pytest.approx(
                    expected, abs=1e-10 if rank < 3 else 1e-5
                )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_equals_the_authors_code_in_other_libraries(share: float) -> None:
    """pytorch-grad-cam holds it as published, in single precision; Quantus has a copy."""
    x, missing = scene(2, side=12, share=share)
    found = impute(x, missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        road = pytest.importorskip("pytorch_grad_cam.metrics.road")
        theirs = [road.NoisyLinearImputer(noise=0)(v.float(), (~m).float()) for v, m in zip(x, missing, strict=True)]
        perturb = pytest.importorskip("quantus.functions.perturb_func")
        others = [
            perturb.noisy_linear_imputation(v.numpy(), np.flatnonzero(m.numpy()), noise=0)
            for v, m in zip(x, missing, strict=True)
        ]
    assert torch.allclose(found.float(), torch.stack(theirs), atol=1e-5)
    assert np.allclose(found.numpy(), np.stack(others), atol=1e-9)


def test_a_gap_in_a_signal_is_a_straight_line_and_an_open_end_is_level() -> None:
    x = torch.tensor([[[0.0, 9, 9, 9, 4, 9, 9]]], dtype=torch.float64)
    missing = torch.tensor([[False, True, True, True, False, True, True]])
    assert impute(x, missing).flatten().tolist() == pytest.approx([0, 1, 2, 3, 4, 4, 4])


def test_volumes_are_solved_step_by_step_and_come_to_the_same(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, missing = scene(rank)
    found = []
    for fills_up in (False, True):
        monkeypatch.setattr(imputation, "_fills_up", lambda size, fills_up=fills_up: fills_up)
        found.append(impute(x, missing))
    assert torch.allclose(*found, atol=1e-4)


def test_the_caller_keeps_inputs_and_precision() -> None:
    x, missing = scene(2)
    x = x.float()
    before = x.clone()
    found = impute(x, missing)
    assert torch.equal(x, before)
    assert found.dtype == torch.float32
    assert torch.equal(impute(x, torch.zeros_like(missing)), x)
