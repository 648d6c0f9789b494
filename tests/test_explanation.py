"""The ledger adds up, selections keep what belongs together, and a saved explanation comes back or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pellucid.errors import IntegrityError, OptionError
from pellucid.explanation import Explanation
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget


def made(complete: bool = True) -> Explanation:
    cells = torch.zeros(2, 4, 4)
    cells[0, 0, :2] = torch.tensor([2.0, 1.0])  # upper left, one region of two cells
    cells[0, 3, 3] = -1.5  # lower right, against
    cells[0, 2, 0] = 0.1  # too weak to be a region of its own
    cells[1] = 0.25
    constant, common = torch.tensor([0.5, 0.5]), torch.tensor([1.0, -1.0])
    score = cells.flatten(1).sum(1) + constant + common + torch.tensor([0.0, 0.125])
    return Explanation(
        cells, Geometry.unregistered((4, 4), (64, 64)), ClassTarget(torch.tensor([1, 0])), score, torch.tensor([[0.0, score[0]], [score[1], 0.0]]),
        "evidence", complete=complete, constant=constant, common=common, classes=("healthy", "lesion"),
    )  # fmt: skip


def test_contributions_and_ledger_add_up_and_the_residual_is_measured() -> None:
    e = made()
    parts = e.contributions()
    assert parts.residual.tolist() == pytest.approx([0.0, 0.125], abs=1e-6)
    ledger = e[0].ledger()
    assert sum(r.value for r in ledger.rows) == pytest.approx(ledger.score, abs=1e-6)
    assert [(r.what, r.value, r.where) for r in ledger.rows[:2]] == [
        ("upper left", 3.0, "x 0 to 32, y 0 to 16"),
        ("lower right", -1.5, "x 48 to 64, y 48 to 64"),
    ]
    assert ledger.rows[2].what == "all other cells"
    assert ledger.rows[2].value == pytest.approx(0.1, abs=1e-6)
    assert sum(r.value for r in e[1].ledger().rows) == pytest.approx(float(e.score[1]), abs=1e-6)


def test_text_names_the_class_the_place_and_the_share() -> None:
    text = made()[0].text()
    assert "evidence explains lesion: score +3.10" in text
    assert "One region carries 97% of the evidence for it: upper left (+3.00)." in text


def test_one_of_many_must_be_chosen() -> None:
    with pytest.raises(OptionError, match=r"Use e\[i\].ledger"):
        made().ledger()
    assert [e.target.describe(e.classes) for e in made()] == ["lesion", "healthy"]
    with pytest.raises(IndexError):
        made()[2]


def test_incomplete_maps_have_no_contributions() -> None:
    with pytest.raises(OptionError, match="does not add up"):
        made(complete=False).contributions()


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    e = made()
    back = Explanation.load(e.save(tmp_path / "e"))
    assert torch.equal(back.map, e.map)
    assert torch.equal(back.contributions().residual, e.contributions().residual)
    assert (back.geometry, back.classes, back.method, back[0].ledger()) == (
        e.geometry,
        e.classes,
        e.method,
        e[0].ledger(),
    )


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    folder = made().save(tmp_path / "e")
    path = folder / "explanation.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="damaged"):
        Explanation.load(folder)
