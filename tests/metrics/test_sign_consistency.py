from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.errors import BadInput, TargetError
from pellucid.metrics.sign_consistency import sign_consistency
from pellucid.sample import Sample
from pellucid.targets import ClassTarget, ContrastTarget, OneVsRestTarget, SingleLogitTarget, Target
from reference.again import shown

MAPS = torch.tensor([[1.0, 2, -1, 3], [1.0, -2, -1, 0], [-1.0, -1, -1, 5]])


def samples(*labels: Any) -> list[Sample]:
    return [Sample(torch.zeros(1, 4), label=label) for label in labels]


def found(
    target: Target, *labels: Any, maps: Tensor = MAPS, classes: int = 2, **options: int
) -> dict[str, list[float]]:
    e = shown(maps, logits=torch.zeros(len(maps), classes), target=target)
    return {part: values.tolist() for part, values in sign_consistency(e, samples(*labels), **options).items()}


def same(a: list[float], b: list[float]) -> bool:
    return a == pytest.approx(b, nan_ok=True)


def test_by_hand() -> None:
    """Towards disease: three of four cells on a diseased input; two of four against it on a healthy one; three."""
    values = found(ContrastTarget(1, 0), 1, 0, 0)
    assert same(values[""], [0.75, 0.5, 0.75])
    assert same(values["positive"], [0.75, math.nan, math.nan])
    assert same(values["negative"], [math.nan, 0.5, 0.75])


def test_the_same_whichever_way_the_map_is_asked_for() -> None:
    """`evaluate` explains the label: disease against healthy on one input, healthy against disease on the next."""
    labels = torch.tensor([1, 0, 0])
    turned = torch.where(labels[:, None] == 1, MAPS, -MAPS)
    expected = found(ContrastTarget(1, 0), 1, 0, 0)
    for target in (ContrastTarget(labels, 1 - labels), SingleLogitTarget(labels == 1)):
        classes = 1 if isinstance(target, SingleLogitTarget) else 2
        values = found(target, 1, 0, 0, maps=turned, classes=classes)
        assert all(same(values[part], expected[part]) for part in expected)
    rest = found(OneVsRestTarget(0), 1, 0, 0, maps=-MAPS, classes=3)
    assert all(same(rest[part], expected[part]) for part in expected)


def test_another_class_may_be_the_healthy_one() -> None:
    assert same(found(ContrastTarget(0, 1), 0, 1, 1, healthy=1)[""], [0.75, 0.5, 0.75])


def test_contrast_maps_do_not_change_with_what_all_classes_share() -> None:
    """The paper's shares of one class's raw map do: here from 3 of 4 to none, with equal probabilities."""
    generator = torch.Generator().manual_seed(0)
    healthy, ill = torch.randn(2, 1, 16, generator=generator)
    for shared in (0.0, -10.0):
        values = found(ContrastTarget(1, 0), 1, maps=(ill + shared) - (healthy + shared))
        assert values["positive"] == pytest.approx([float((ill > healthy).double().mean())])
    assert float((ill - 10 > 0).double().mean()) == 0 < float((ill > 0).double().mean())


def test_who_has_no_label_or_no_healthy_class_has_no_value() -> None:
    values = found(ContrastTarget(torch.tensor([1, 2, 1]), torch.tensor([0, 1, 0])), 1, 2, None, classes=3)
    assert same(values[""], [0.75, math.nan, math.nan])
    odd = found(ContrastTarget(1, 0), 1, 0, 0, maps=torch.where(MAPS == 3, torch.nan, MAPS))
    assert same(odd[""], [math.nan, 0.5, 0.75])


def test_what_is_needed_is_said() -> None:
    with pytest.raises(TargetError, match="ContrastTarget"):
        found(ClassTarget(1), 1, 0, 0, classes=3)
    with pytest.raises(BadInput, match="No sample has a class label"):
        found(ContrastTarget(1, 0), None, 0.5, None)


def test_maps_that_are_never_negative_agree_with_any_label() -> None:
    """What the docstring warns of: the label's contrast is explained each time, and the map has one sign."""
    labels = torch.tensor([1, 0, 0])
    assert found(ContrastTarget(labels, 1 - labels), 1, 0, 0, maps=MAPS.abs() + 1)[""] == [1, 1, 1]
