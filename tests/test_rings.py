"""Rings around what decides, in networks whose one kernel says what a cell draws on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.data.lesionlab import LesionLab
from pellucid.errors import OptionError
from pellucid.models import zoo
from pellucid.record import Interval
from pellucid.rings import ClassRing, find_rings, note_on_rings
from reference.samples import Held

SIDE, FIELD = 40, 9


def dots(count: int = 12, seed: int = 0) -> tuple[Tensor, list[tuple[int, int]]]:
    """A bright sample each, well inside."""
    places = torch.randint(10, SIDE - 10, (count, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    x = torch.zeros(count, 1, SIDE, SIDE)
    for i, (r, c) in enumerate(places):
        x[i, 0, r, c] = 10.0
    return x, [(r, c) for r, c in places]


def network(kernel: Tensor, pooling: str = "mean") -> nn.Module:
    """Evidence for class 1 is the image seen through the kernel; class 0 has none."""
    conv = nn.Conv2d(1, 1, FIELD, padding=FIELD // 2, bias=False)
    linear = nn.Linear(1, 2)
    with torch.no_grad():
        conv.weight.copy_(kernel[None, None])
        linear.weight.copy_(torch.tensor([[0.0], [1.0]]))
        linear.bias.copy_(torch.tensor([0.0, 0.01]))
    net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()
    x = dots(2)[0]
    return pl.convert(net, x) if pooling == "mean" else pl.with_pooling(net, x, pooling, k=0.002)  # type: ignore[arg-type]


def at_distance(low: int, high: int) -> Tensor:
    """Ones where the distance to the centre, the larger of both axes, is in the range."""
    away = (torch.arange(FIELD) - FIELD // 2).abs()
    far = torch.maximum(away[:, None], away[None])
    return ((far >= low) & (far <= high)).float()


@pytest.mark.parametrize("pooling", ["mean", "top_k"])
def test_evidence_from_the_edge_of_the_field_is_a_ring_and_from_its_middle_is_none(pooling: str) -> None:
    x, places = dots()
    ring = network(at_distance(4, 4) - 0.5 * at_distance(0, 1), pooling)
    found = find_rings(ring, x, baseline="zero")
    assert found.field == (9.0, 9.0)
    (row,) = found.rows
    assert row.answer == "class 1 against the rest"
    assert found.found
    assert row.found
    # Without its outer half the cell has nothing left; without the inner one it keeps all. The outer part of 9 x 9 is
    # 81 - 25 samples.
    assert row.inner.mean == pytest.approx(0, abs=1e-6)
    assert row.outer.mean == pytest.approx(81 / 56, rel=1e-6)
    # The map is a ring indeed: strongest 4 cells from the dot, at which it is negative.
    e = pl.explain(ring, x, pl.ContrastTarget(1, 0))
    for cells, (r, c) in zip(e.map, places, strict=True):
        at = torch.unravel_index(cells.argmax(), cells.shape)
        assert max(abs(int(at[0]) - r), abs(int(at[1]) - c)) == 4
        assert cells[r, c] <= 0

    middle = find_rings(network(at_distance(0, 1), pooling), x, baseline="zero")
    assert not middle.found
    assert middle.rows[0].inner.mean == pytest.approx(81 / 25, rel=1e-6)
    assert "no ring" in str(middle)


def test_evenly_spread_evidence_counts_alike_in_both_halves() -> None:
    x = torch.rand(30, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) + 4
    found = find_rings(network(at_distance(0, 4)), x, baseline="zero")
    assert found.rows[0].inner.mean == pytest.approx(1, abs=0.05)
    assert found.rows[0].outer.mean == pytest.approx(1, abs=0.05)


def test_evidence_that_no_half_takes_away_is_no_ring() -> None:
    def at(value: float) -> Interval:
        return Interval(value, value - 0.01, value + 0.01, 20, 20)

    assert not ClassRing("a", at(-0.5), at(-0.1), at(-0.4)).found
    assert not ClassRing("a", at(-0.2), at(0.1), at(-0.3)).found  # the edge hardly matters
    assert ClassRing("a", at(0.1), at(0.9), at(-0.8)).found


def test_few_inputs_settle_nothing() -> None:
    found = find_rings(network(at_distance(4, 4)), dots(5)[0])
    assert not found.rows
    assert not found.found
    assert "too few inputs" in str(found)


def test_patients_not_images_are_what_an_interval_is_over() -> None:
    x, _ = dots(16)
    alone = find_rings(network(at_distance(4, 4)), x).rows[0]
    together = find_rings(network(at_distance(4, 4)), x, groups=["a", "b"] * 8).rows[0]
    assert (alone.inner.groups, together.inner.groups) == (16, 2)


def test_a_network_whose_cells_look_nobody_knows_where_is_refused() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y = y * torch.fft.ifft2(torch.fft.fft2(x)).real
            out: Tensor = self.linear(y.mean((2, 3)))
            return out

    x = torch.randn(8, 1, 16, 16)
    with pytest.raises(OptionError, match="not known where the cells"):
        find_rings(pl.convert(Turned().eval(), x), x)


def test_nothing_of_the_network_or_the_inputs_changes() -> None:
    net, (x, _) = network(at_distance(4, 4)), dots()
    net.train()
    before, weights = x.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    find_rings(net, x)
    assert net.training
    assert torch.equal(x, before)
    assert all(torch.equal(weights[k], v) for k, v in net.state_dict().items())


def test_training_with_few_deciding_cells_says_what_it_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning_fabric")
    data = LesionLab(n_images=32, size=64)
    net = zoo.build("pellucid:s8", num_classes=2)
    made = {"epochs": 1, "batch_size": 16, "device": "cpu"}
    run = pl.train(net, data, pl.TrainingConfig(**made, pooling="top_k"), folder=tmp_path)
    (note,) = (n for n in run.notes if "ring" in n)
    assert note in capfd.readouterr().err
    x = torch.stack([data[i].input for i in range(32)])
    assert str(find_rings(run.model, x, groups=[data[i].group for i in range(32)])) in note
    assert pl.Run.load(tmp_path).notes == run.notes
    plain = pl.train(net, data, pl.TrainingConfig(**made), progress=False)
    assert not any("ring" in n for n in plain.notes)


def test_a_ring_is_told_in_plain_words() -> None:
    data = Held([pl.Sample(x, 1, name=str(i), group=str(i)) for i, x in enumerate(dots(200)[0])])
    note = note_on_rings(network(at_distance(4, 4), "lse"), data)
    assert note is not None
    assert note.startswith("The map is a ring around what decides: class 1 against the rest: a ring (inner half ")
    assert "n 64)" in note
    assert note_on_rings(network(at_distance(4, 4)), data) is None
