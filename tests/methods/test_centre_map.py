from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
import torch
from scipy import signal

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods.centre_map import centre_map
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.nets import GapNet, inputs


@pytest.mark.checks("centre_map", against="SciPy's Gaussian window along every axis", tolerance=1e-12)
def test_is_a_gaussian_along_every_axis(rank: int, tolerance: float) -> None:
    found = centre_map(Call(GapNet(rank).double().eval()), inputs(rank).double(), ClassTarget(0), share=0.2).map
    window = signal.windows.gaussian(16, std=0.2 * 16)
    assert error(found[1], reduce(np.multiply.outer, [window] * rank)) < tolerance


def test_an_odd_side_has_its_peak_of_one_in_the_middle_sample() -> None:
    x = torch.randn(2, 2, 9, 15)
    found = centre_map(Call(GapNet(2).eval()), x, ClassTarget(0)).map
    assert found.shape == (2, 9, 15)
    assert float(found[0, 4, 7]) == 1.0 == float(found.max())
    assert torch.equal(found, found.flip(1))
    assert torch.equal(found, found.flip(2))
    assert float(found[0, 4, 7 + 3]) == pytest.approx(math.exp(-0.5 * (3 / (0.25 * 15)) ** 2), rel=1e-5)


def test_knows_nothing_of_weights_input_and_class(rank: int) -> None:
    first = centre_map(Call(GapNet(rank, seed=0).eval()), inputs(rank), ClassTarget(0)).map
    other = centre_map(Call(GapNet(rank, seed=9).eval()), -inputs(rank, seed=7), ClassTarget(1)).map
    assert torch.equal(first, other)
    assert float(first.min()) > 0


def test_half_precision_inputs_get_a_float32_map() -> None:
    low = centre_map(Call(GapNet(2).bfloat16().eval()), inputs(2).bfloat16(), ClassTarget(0)).map
    assert low.dtype == torch.float32
    assert torch.equal(low, centre_map(Call(GapNet(2).eval()), inputs(2), ClassTarget(0)).map)


@pytest.mark.parametrize("share", [0, -1])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(OptionError, match="share"):
        centre_map(Call(GapNet(2)), inputs(2), ClassTarget(0), share=share)
