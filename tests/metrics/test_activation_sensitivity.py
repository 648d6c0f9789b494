from __future__ import annotations

import pytest
import torch

from pellucid.metrics.activation_sensitivity import activation_sensitivity
from pellucid.metrics.relevance_mass import relevance_mass
from reference.localisation import on_samples


def test_by_hand() -> None:
    pixels = torch.tensor([[4.0, 1, 2, -8]])
    mask = torch.tensor([[False, True, True, True]])
    assert on_samples(activation_sensitivity, pixels, mask)[""].tolist() == [(1 / 4 + 2 / 4 + 0) / 3]


def test_negative_evidence_never_counts_as_strong() -> None:
    """The authors' scaling turns -3, -2, -1, 1, 2, 3 into 3, 2, 1, -1, 0, 1: the most negative place is the strongest."""
    pixels = torch.tensor([[-3.0, -2, -1, 1, 2, 3]])
    mask = torch.tensor([[True, True, True, False, False, False]])
    assert on_samples(activation_sensitivity, pixels, mask)[""].tolist() == [0]
    assert on_samples(activation_sensitivity, pixels, ~mask)[""].tolist() == pytest.approx([2 / 3])


def test_flatness_is_rewarded_and_divided_by_the_mean_is_not() -> None:
    mask = torch.tensor([[True, True, False, False]])
    right, flat = torch.tensor([[1.0, 0.5, 0, 0]]), torch.ones(1, 4)
    assert on_samples(activation_sensitivity, flat, mask)[""] == 1
    assert on_samples(activation_sensitivity, right, mask)[""] == 0.75
    for pixels in (right, flat):
        mean = float((pixels.clamp_min(0) / pixels.max()).mean())
        found = float(on_samples(activation_sensitivity, pixels, mask)[""]) / mean
        assert found == pytest.approx(float(on_samples(relevance_mass, pixels, mask)["over_area"]))


def test_nothing_positive_scores_zero() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert on_samples(activation_sensitivity, torch.tensor([[0.0, 0, 0], [-1, -2, 0]]), mask)[""].tolist() == [0, 0]
