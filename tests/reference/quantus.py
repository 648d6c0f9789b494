"""Scores of Quantus on one scene: a 4x4 ramp of attributions whose lower right quarter is the truth."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

SCENE = (torch.arange(1, 17.0, dtype=torch.float64).reshape(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool))
SCENE[1][..., 2:, 2:] = True


def quantus_score(
    name: str, scene: tuple[Tensor, Tensor] = SCENE, *, normalise: bool = False, **options: Any
) -> list[float]:
    """The scores of metric `name` for a map and a mask; skips the test where Quantus is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantus = pytest.importorskip("quantus")
        metric = getattr(quantus, name)(
            normalise=normalise, disable_warnings=True, display_progressbar=False, **options
        )
        scores = metric(
            model=nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval(),
            x_batch=np.zeros((1, 1, 4, 4)),
            y_batch=np.array([0]),
            a_batch=scene[0].numpy().copy(),
            s_batch=scene[1].numpy().astype(float),
            device="cpu",
            softmax=False,
        )
    return [float(s) for s in scores]
