"""Explaining again and again takes no more memory than explaining once."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pellucid as pl
from pellucid.methods import METHODS
from reference.methods import CLASSES, QUICK, network
from reference.nets import inputs

MEBIBYTE = 2**20
STATM = Path("/proc/self/statm")


@pytest.fixture(scope="module", autouse=True)
def only_what_is_new() -> Iterator[None]:
    """Keep what other tests left behind out of every count and collection, which takes seconds otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=[*METHODS, "captum:DeepLift", "zennit:EpsilonPlus"])
def name(request: pytest.FixtureRequest) -> str:
    library, _, member = str(request.param).partition(":")
    if member:
        pytest.importorskip(f"{library}.attr" if library == "captum" else f"{library}.composites")
    return str(request.param)


def explain(name: str, times: int) -> None:
    """In turns with one network and with a new one, since what is remembered of a network has to go with it."""
    x, targets, kept = inputs(2), CLASSES.tolist(), network(name, 2)
    for i in range(times):
        pl.explain(network(name, 2) if i % 2 else kept, x, targets, method=name, **QUICK.get(name, {}))


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(o), Tensor) for o in gc.get_objects())  # asking objects themselves wakes lazy ones


def resident() -> int:
    """Bytes of memory that the process holds."""
    gc.collect()
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


def test_no_tensor_outlives_its_call(name: str) -> None:
    explain(name, 20)
    before = live_tensors()
    explain(name, 50)
    assert live_tensors() == before


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="/proc/self/statm tells how much memory is held")
def test_a_thousand_calls_take_no_memory(name: str) -> None:
    explain(name, 200)
    tensors, before = live_tensors(), resident()
    explain(name, 1000)
    assert live_tensors() == tensors
    assert resident() - before <= 5 * MEBIBYTE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_memory_of_the_gpu_outlives_its_call(name: str) -> None:
    model, x, targets = network(name, 2).cuda(), inputs(2).cuda(), CLASSES.tolist()
    for _ in range(5):
        pl.explain(model, x, targets, method=name, **QUICK.get(name, {}))
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        pl.explain(model, x, targets, method=name, **QUICK.get(name, {}))
    assert torch.cuda.memory_allocated() == before
