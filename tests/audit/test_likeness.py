"""Near-duplicates and leakage, planted one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audit.kit import noise, sample
from pellucid.audit.likeness import alike, look_at
from pellucid.errors import BadInput
from pellucid.sample import Sample
from reference.samples import Held


def seen(inputs: list[torch.Tensor], start: int = 0, **more: object) -> list:  # type: ignore[type-arg]
    return look_at(Held([sample(start + k, x, **more) for k, x in enumerate(inputs)]))


def test_the_same_nearly_the_same_and_neither() -> None:
    learnt = [noise(k) for k in range(12)]
    nearly = learnt[3] + 0.05 * noise(99)
    judges = [noise(50), learnt[7].clone(), nearly, noise(51)]
    found = alike(seen(judges, 100), seen(learnt))
    assert [(p.first, p.second, p.same) for p in found] == [("s101", "s7", True), ("s102", "s3", False)]
    assert found[0].correlation == 1
    mean = torch.stack(learnt).mean(0)
    by_hand = np.corrcoef((nearly - mean).flatten(), (learnt[3] - mean).flatten())[0, 1]
    assert found[1].correlation == pytest.approx(by_hand, abs=2e-3)  # kept in half precision


def test_pictures_that_are_all_alike_are_no_duplicates() -> None:
    """What all have in common does not count."""
    common = 50 * noise(1000)
    assert alike(seen([common + noise(k) for k in range(10)])) == []


def test_a_set_among_itself_is_compared_once() -> None:
    x = noise(0)
    found = alike(seen([x, noise(1), x.clone(), noise(2)]))
    assert [(p.first, p.second) for p in found] == [("s0", "s2")]


def test_labels_and_patients_of_a_pair() -> None:
    x = noise(0)
    held = look_at(
        Held(
            [
                sample(0, x, 0, group="p"),
                sample(1, x, 1, group="p"),
                sample(2, x, 1, group=""),
                sample(3, x, 1, group=""),
            ]
        )
    )
    found = {(p.first, p.second): (p.two_labels, p.one_patient) for p in alike(held)}
    assert found["s0", "s1"] == (True, True)
    assert found["s1", "s2"] == (False, False)
    assert found["s2", "s3"] == (False, False)  # two that nobody knows are not one


def test_inputs_of_several_sizes_are_compared_by_their_digests() -> None:
    x = torch.zeros(1, 9, 9)
    found = alike(seen([noise(0), x, x.clone()]))
    assert [(p.first, p.second, p.same) for p in found] == [("s1", "s2", True)]


def test_what_cannot_be_read_is_noted_and_counted() -> None:
    class Broken(Held):
        def __getitem__(self, index: int) -> Sample:
            if index == 1:
                raise BadInput("It is cut off.")
            return super().__getitem__(index)

    skipped: dict[str, str] = {}
    ticks: list[int] = []
    found = look_at(Broken([sample(k) for k in range(3)]), skipped=skipped, tick=ticks.append)
    assert [s.name for s in found] == ["s0", "s2"]
    assert skipped == {"s1": "It is cut off."}
    assert ticks == [1, 1, 1]
