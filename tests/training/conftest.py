"""Toy data and tiny networks of any rank, as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from training.kit import Net, Toy


@pytest.fixture
def toy() -> type[Toy]:
    return Toy


@pytest.fixture
def net() -> Callable[..., Net]:
    def build(rank: int = 2, **options: int) -> Net:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return Net(rank, **options)

    return build
