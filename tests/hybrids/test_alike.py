"""The nearest cells are those of a literal search over cosines, and none of the input itself or its patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from hybrids.conftest import Pointwise, held
from pellucid.errors import BadInput, OptionError
from pellucid.hybrids.alike import alike, bank, picture

READING = [[0.0, 0.0, 0.0], [1.0, -0.5, 0.3]]


@pytest.fixture
def net() -> nn.Module:
    return pl.convert(Pointwise(READING).eval(), torch.randn(2, 3, 6, 6), classes=("none", "spot"))


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def test_matches_are_those_of_a_literal_search(net: nn.Module) -> None:
    known, x = noise(7), noise(1, seed=1)
    e = pl.explain(net, x, 1)
    found = alike(net, e, bank(net, held(known, [0, 1] * 3 + [0]), most=36), count=3)
    assert found is not None
    region = e.regions()[0].cells
    cell = max(region.nonzero().tolist(), key=lambda at: float(e.map[0][tuple(at)]))
    query = x[0][:, *cell].numpy()  # the features of this network are its input
    best = []
    for i, image in enumerate(known.numpy()):
        vectors = image.reshape(3, -1).T
        cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        best.append((float(cosines.max()), f"s{i}", int(cosines.argmax())))
    wanted = sorted(best, reverse=True)[:3]
    assert [(m.sample, m.label) for m in found.matches] == [(name, ("none", "spot")[int(name[1]) % 2]) for _, name, _ in wanted]  # fmt: skip
    assert [m.cosine for m in found.matches] == pytest.approx([c for c, _, _ in wanted], abs=1e-6)
    for match, (_, _, k) in zip(found.matches, wanted, strict=True):
        row, column = divmod(k, 6)
        assert match.patch == ((row, row + 1), (column, column + 1))  # a cell sees one sample


def test_only_the_strongest_cells_are_kept(net: nn.Module) -> None:
    x = noise(2)
    kept = bank(net, held(x, [0, 1]), most=4)
    strength = pl.explain(net, x).map.abs().flatten(1)
    for i in range(2):
        at = kept.at[kept.of == i]
        assert set((at[:, 0] * 6 + at[:, 1]).tolist()) == set(strength[i].topk(4).indices.tolist())


def test_neither_the_input_nor_its_patient_is_its_own_likeness(net: nn.Module) -> None:
    x = noise(4)
    known = bank(net, held(x, [0, 1, 0, 1], ["p", "p", "q", "r"]), most=36)
    e = pl.explain(net, x[:1], 1)
    assert alike(net, e, known).matches[0].cosine == pytest.approx(1)  # type: ignore[union-attr]
    others = alike(net, e, known, name="s0", group="p")
    assert others is not None
    assert {m.sample for m in others.matches} == {"s2", "s3"}


def test_without_a_region_there_is_nothing_to_compare(net: nn.Module) -> None:
    x = noise(3)
    known = bank(net, held(x, [0, 1, 0]))
    e = pl.explain(net, x[:1], 1)
    assert alike(net, replace(e, map=-e.map.abs()), known) is None
    with pytest.raises(BadInput, match="does not hold its input"):
        alike(net, replace(e, input=None), known)
    with pytest.raises(OptionError, match="grid"):
        alike(net, pl.explain(net, torch.randn(1, 3, 8, 8), 1), known)


def test_the_picture_shows_the_patches(net: nn.Module) -> None:
    x = noise(3)
    samples = held(x, [0, 1, 1])
    images = [np.full((60, 60, 3), 40 * i, np.uint8) for i in range(3)]
    shown = replace(samples, samples=tuple(s.changed(image=i) for s, i in zip(samples.samples, images, strict=True)))
    known = bank(net, shown, most=36)
    found = alike(net, pl.explain(net, x[:1], 1), known, name="s0", group="g0")
    assert found is not None
    drawn = np.asarray(picture(found, images[0], shown, known))
    middles = drawn[100, [89 + 164 * k for k in range(3)]]
    assert middles[:, 0].tolist() == [0, *(40 * int(m.sample[1]) for m in found.matches)]
