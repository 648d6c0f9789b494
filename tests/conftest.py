"""What several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(params=[1, 2, 3], ids=["1d", "2d", "3d"])
def rank(request: pytest.FixtureRequest) -> int:
    """Number of spatial axes: signals, images, volumes."""
    return int(request.param)


@pytest.fixture
def tolerance(request: pytest.FixtureRequest) -> float:
    """The largest difference that the test's `checks` mark allows, as a share of the largest value."""
    mark = request.node.get_closest_marker("checks")
    assert mark is not None, "the fixture `tolerance` needs the mark `checks`"
    return float(mark.kwargs["tolerance"])


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data and weights; a test that needs it is skipped where it is absent."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("PELLUCID_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("PELLUCID_TEST_DATA does not name a folder of real data")
    return folder
