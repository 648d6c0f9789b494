"""The features of a cell, read by the evidence layer's weights, are its evidence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pellucid as pl
from pellucid.errors import LayerError, OptionError
from pellucid.models.features import cell_features
from pellucid.models.multi_scale import multi_scale
from pellucid.models.zoo import build

GRID = (8, 8)


def noise() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("pellucid:s8", channels=(8, 8), strides=(2, 2)).eval()


def test_the_evidence_layer_makes_evidence_of_them() -> None:
    softcam, x = pl.convert(net(), noise()), noise()
    head = softcam.model.head
    made = torch.einsum("cf,bfij->bcij", head.weight, cell_features(softcam, x, GRID)) + head.bias[:, None, None]
    torch.testing.assert_close(made, softcam.evidence_maps(x))


def test_of_several_scales_the_one_with_the_grid_is_taken() -> None:
    many, x = multi_scale(net(), noise(), ("features.0",)), noise()
    assert cell_features(many, x, (16, 16)).shape == (2, 8, 16, 16)
    torch.testing.assert_close(cell_features(many, x, GRID), many.model.features(x).detach())


def test_what_has_no_such_features_is_refused() -> None:
    with pytest.raises(OptionError, match="Convert it first"):
        cell_features(net(), noise(), GRID)
    with pytest.raises(LayerError, match=r"grid \(5, 5\)"):
        cell_features(pl.convert(net(), noise()), noise(), (5, 5))
