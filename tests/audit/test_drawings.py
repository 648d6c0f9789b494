"""A drawing as a zone: its pixels, its samples, and what is painted."""

from __future__ import annotations

import torch

from audit.kit import MeanNet, sample
from audit.test_tags import BRIGHT, anatomy, letter
from pellucid.audit.drawings import find_drawings
from pellucid.audit.likeness import look_at
from pellucid.audit.observe import Part
from pellucid.audit.zones import zone
from pellucid.sample import Sample
from reference.samples import Held


def parts() -> list[Part]:
    stack = anatomy(0)
    stack[::3, letter("L")] = BRIGHT
    samples = [sample(k, x[None]) for k, x in enumerate(stack)]
    return [Part("first", MeanNet(), Held(samples[:30])), Part("second", MeanNet(), Held(samples[30:]))]


def test_a_drawing_over_several_parts() -> None:
    both = parts()
    (found,) = find_drawings(both, [look_at(part.dataset) for part in both])
    assert found.shown_in == {f"s{k}" for k in range(0, 60, 3)}
    shown = torch.stack(
        [part.dataset[i].input for part in both for i in range(30) if part.dataset[i].name in found.shown_in]
    )
    torch.testing.assert_close(found.template, shown.mean(0))  # of all twenty
    mask = found.zone.of(both[0].dataset[0])
    assert mask is not None
    torch.testing.assert_close(found.template[0][letter("L")], torch.full((int(letter("L").sum()),), BRIGHT))
    declared = zone(found.box).of(Sample(found.template))
    assert declared is not None
    assert bool(declared[mask].all())


def test_none_where_samples_differ_in_size() -> None:
    both = [Part("all", MeanNet(), Held([sample(0), sample(1, torch.zeros(1, 9, 9))]))]
    assert find_drawings(both, [look_at(both[0].dataset)]) == []
