"""Localisation metrics of maps that have one cell per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pellucid.spatial import Geometry


def on_samples(
    metric: Callable[..., Mapping[str, Tensor]], pixels: Tensor, mask: Tensor, **options: Any
) -> Mapping[str, Tensor]:
    """The metric of a map `(batch, *size)` that is its own cells."""
    return metric(pixels, mask, pixels, Geometry.of_samples(mask.shape[1:]), **options)
