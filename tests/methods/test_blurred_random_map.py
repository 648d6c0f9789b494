from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods import METHODS
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.nets import GapNet, inputs


def made(rank: int, x: torch.Tensor | None = None, seed: int = 0, **options: float) -> torch.Tensor:
    x = inputs(rank) if x is None else x
    generator = torch.Generator().manual_seed(seed)
    found: torch.Tensor = METHODS["blurred_random_map"](
        Call(GapNet(rank).eval()), x, ClassTarget(0), generator=generator, **options
    ).map
    return found


@pytest.mark.checks("blurred_random_map", against="SciPy's Gaussian filter on the same draws", tolerance=1e-5)
def test_is_scaled_gaussian_noise_through_scipys_filter(rank: int, tolerance: float) -> None:
    noise = torch.randn((3, 1, *(16,) * rank), generator=torch.Generator().manual_seed(4))[:, 0]
    for one, raw in zip(made(rank, seed=4, share=0.08), noise, strict=True):
        smooth = torch.from_numpy(ndimage.gaussian_filter(raw.double().numpy(), 0.08 * 16, mode="nearest", radius=4))
        expected = (smooth - smooth.mean()) / smooth.std(correction=0)
        assert error(one, expected) < tolerance


def test_knows_neither_input_nor_network() -> None:
    assert torch.equal(made(2), made(2, x=inputs(2, seed=9) * 7))
    assert not torch.equal(made(2), made(2, seed=1))
    with pytest.raises(OptionError, match="share=0"):
        made(2, share=0)
