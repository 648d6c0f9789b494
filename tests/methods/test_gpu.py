"""Every method gives on a GPU what it gives on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import pellucid as pl
from pellucid.methods import METHODS
from reference.cam import error
from reference.methods import CLASSES, QUICK, network
from reference.nets import FourPixels, inputs
from reference.untouched import unchanged

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """TensorFloat-32 has ten bits; it is not what is compared here."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gpu_gives_what_the_cpu_gives(name: str, rank: int, dtype: torch.dtype) -> None:
    model, x, options = network(name, rank).to(dtype), inputs(rank).to(dtype), QUICK.get(name, {})
    expected = pl.explain(model, x, CLASSES.tolist(), method=name, **options)
    model.cuda()
    state = torch.cuda.get_rng_state()
    with unchanged(model):
        found = pl.explain(model, x, CLASSES.tolist(), method=name, **options)  # the input may still be on the CPU
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert found.map.is_cuda
    tolerance = 1e-4 if dtype is torch.float32 else 1e-10
    assert error(found.map.cpu(), expected.map) < tolerance
    assert error(found.logits.cpu(), expected.logits) < tolerance


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_on_the_gpu_has_maps_in_float32(name: str) -> None:
    model, x = network(name, 2).cuda(), inputs(2).cuda()
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            found = pl.explain(model, x, CLASSES.tolist(), method=name, **QUICK.get(name, {})).map
        assert found.dtype == torch.float32
        assert bool(found.isfinite().all())


@pytest.mark.bug("B1")
@pytest.mark.parametrize("name", ["grad_cam", "hires_cam", "layer_cam"])
def test_an_activation_is_copied_on_both_devices(name: str) -> None:
    """What works in place afterwards changes it on neither."""
    x = torch.arange(16.0).view(1, 1, 4, 4)
    maps = [
        pl.explain(FourPixels(True).eval().to(device), x, 0, method=name, layer="conv").map.cpu()
        for device in ("cpu", "cuda")
    ]
    assert error(maps[1], maps[0]) < 1e-6
