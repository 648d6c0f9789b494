"""A map laid out by hand is described by the numbers that can be counted in it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as pl
from hybrids.conftest import Pointwise, held
from pellucid.errors import BadInput, OptionError
from pellucid.hybrids.descriptors import Descriptors, Feature, places
from pellucid.sample import Sample
from pellucid.spatial import Geometry
from reference.samples import Held


def spotted() -> torch.Tensor:
    """6 x 6 samples: two pieces of strong cells that touch nowhere, one of them over a corner, and one against."""
    x = torch.zeros(2, 1, 6, 6)
    x[0, 0, 0, 0], x[0, 0, 1, 1] = 3.6, 1.8  # cells are a 36th of these: .1 and .05; both strong, one piece
    x[0, 0, 5, 3] = 7.2
    x[0, 0, 3, 3] = -3.6
    x[0, 0, 2, 5] = 0.36  # too weak to be strong
    return x


def cell(table: Descriptors, row: int, quantity: str, where: str = "everywhere", of: str = "spot") -> float:
    return float(table.values[row, table.features.index(Feature(of, quantity, where))])


def test_what_can_be_counted_by_hand(bright: nn.Module) -> None:
    table = pl.describe(bright, held(spotted(), [1, 0]))
    assert (table.labels.tolist(), table.answers.tolist()) == ([1, 0], [0, 0])  # 9.36 / 36 - 0.5 < 0
    found = {q: cell(table, 0, q) for q in ("sum", "for", "against", "peak", "area", "pieces")}
    assert found == pytest.approx({"sum": 0.26, "for": 0.36, "against": 0.1, "peak": 0.2, "area": 3 / 36, "pieces": 2})
    down = (0.1 * 0.5 + 0.05 * 1.5 + 0.2 * 5.5 + 0.01 * 2.5) / 6 / 0.36
    across = (0.1 * 0.5 + 0.05 * 1.5 + 0.2 * 3.5 + 0.01 * 5.5) / 6 / 0.36
    assert cell(table, 0, "centre", "down") == pytest.approx(down)
    assert cell(table, 0, "centre", "across") == pytest.approx(across)
    assert cell(table, 0, "sum", "upper left") == pytest.approx(0.15)
    assert cell(table, 0, "peak", "upper left") == pytest.approx(0.1)
    assert cell(table, 0, "sum", "centre") == pytest.approx(-0.1)
    assert cell(table, 0, "peak", "centre") == 0
    assert cell(table, 1, "centre", "down") == 0.5  # nothing speaks for it anywhere
    thirds = [f for f in table.features if f.quantity == "sum" and f.where != "everywhere"]
    assert len(thirds) == 9
    assert sum(cell(table, 0, "sum", f.where) for f in thirds) == pytest.approx(0.26)


def test_what_is_strong_is_an_option(bright: nn.Module) -> None:
    table = pl.describe(bright, held(spotted(), [1, 0]), strong=3.0)
    assert cell(table, 0, "area") == pytest.approx(2 / 36)  # 3.6 and 7.2


def test_of_more_classes_each_has_its_own_centred_evidence() -> None:
    reading = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    net = pl.convert(Pointwise(reading).eval(), torch.randn(2, 2, 6, 6))
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    table = pl.describe(net, held(x, [0, 1, 2], classes=("a", "b", "c")), batch_size=2)
    logits = x.mean((2, 3)) @ torch.tensor(reading).T
    for k, name in enumerate("abc"):
        wanted = logits[:, k] - logits.mean(1)
        assert [cell(table, i, "sum", of=name) for i in range(3)] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert table.answers.tolist() == logits.argmax(1).tolist()


def test_a_single_logit_is_that_of_the_second_class() -> None:
    net = pl.convert(Pointwise([[1.0]]).eval(), torch.randn(2, 1, 6, 6), classes=("none", "spot"))
    x = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    table = pl.describe(net, held(x, [0, 1, 0]))
    assert [cell(table, i, "sum") for i in range(3)] == pytest.approx(x.mean((1, 2, 3)).tolist(), abs=1e-6)
    assert table.answers.tolist() == (x.mean((1, 2, 3)) > 0).long().tolist()


def test_places_follow_where_cells_look(rank: int) -> None:
    named = places(Geometry.unregistered((6,) * rank, (12,) * rank))
    assert len(named) == 3**rank
    assert all(int(inside.sum()) == 2**rank for inside in named.values())
    assert torch.stack(list(named.values())).sum(0).eq(1).all()
    early = places(Geometry((6,) * rank, (24,) * rank, (0.0,) * rank, (1.0,) * rank, registered=True))
    assert len(early) == 1  # all cells look at the first quarter


def test_the_table_as_csv(bright: nn.Module, tmp_path: Path) -> None:
    table = pl.describe(bright, held(spotted(), [1, 0], ["p", "p"]))
    with table.to_csv(tmp_path / "t.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["sample"], r["group"], r["label"], r["answer"]) for r in rows] == [("s0", "p", "spot", "none"), ("s1", "p", "none", "none")]  # fmt: skip
    assert float(rows[0]["spot | peak | everywhere"]) == pytest.approx(0.2)
    assert len(rows[0]) == 4 + len(table.features)


def test_columns_are_said_in_words() -> None:
    assert Feature("spot", "peak", "upper left").words() == "strongest cell for spot, upper left"
    assert Feature("spot", "centre", "down").words() == "how far down the evidence for spot lies"
    assert Feature("spot", "area", "everywhere").words() == "share of strong cells for spot"


class Torn(Held):
    """The second sample cannot be read."""

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            raise BadInput("torn")
        return super().__getitem__(index)


def test_what_cannot_be_read_is_noted(bright: nn.Module) -> None:
    data = held(spotted(), [1, 0])
    table = pl.describe(bright, Torn(data.samples))
    assert (table.samples, dict(table.skipped)) == (("s0",), {"s1": "torn"})
    with pytest.raises(BadInput, match="No sample can be described"):
        pl.describe(bright, Torn((data.samples[0].changed(), data.samples[1])[1:] * 0 or data.samples[:0]))


def test_what_has_no_table_is_refused(bright: nn.Module) -> None:
    with pytest.raises(OptionError, match="has no evidence"):
        pl.describe(Pointwise([[1.0]]), held(spotted(), [1, 0]))
    unlabelled = Held(tuple(s.changed(label=None) for s in held(spotted(), [1, 0]).samples))
    with pytest.raises(BadInput, match="'s0' has no class"):
        pl.describe(bright, unlabelled)


def test_rows_are_those_asked_for(bright: nn.Module) -> None:
    table = pl.describe(bright, held(spotted(), [1, 0]))
    turned = table.rows([1, 0])
    assert turned.samples == ("s1", "s0")
    np.testing.assert_array_equal(turned.values, table.values[::-1])
