"""What may not change about a user's model and process, compared before and after."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Fails when the block leaves behind another mode, hook, gradient, weight, random state or gradient mode."""
    before = _state(model)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        yield
    finally:
        assert _state(model) == before
        assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def _state(model: nn.Module) -> dict[str, object]:
    return {
        "modules": [id(m) for m in model.modules()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[union-attr, index]
        "python": random.getstate(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
    }
