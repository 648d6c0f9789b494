from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.photographs import Ranking, Row, against, by_chance, named, page, ranked, sheet, spread
from PIL import Image
from torch import Tensor, nn

import pellucid as pl
from benchmarks import photographs
from pellucid.errors import OptionError
from pellucid.methods import METHODS
from pellucid.record import join


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


@pytest.fixture
def ranking(tmp_path: Path) -> Ranking:
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(6):
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"p{k}.png")
    model = Net().eval()
    softcam = pl.convert(model, torch.randn(1, 3, 32, 32))
    return Ranking(model, softcam, pl.open_data(folder, size=32), tmp_path / "kept", steps=4)


def test_rows_are_every_method_once_the_costly_ones_behind_the_others() -> None:
    found = [row.method for row in photographs.rows()]
    plain = found[: -len(photographs.SCALED) - 1]
    assert sorted(plain) == sorted(METHODS)
    assert plain[-2:] == ["rise", "score_cam"]


def test_photographs_are_spread_evenly(ranking: Ranking) -> None:
    chosen = spread(ranking.photographs, 3)
    assert [chosen.facts(i).name for i in range(3)] == ["p0.png", "p2.png", "p4.png"]
    assert spread(ranking.photographs, 60) is ranking.photographs


def test_an_interrupted_row_goes_on_where_it_was(ranking: Ranking, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("cam")
    whole = ranking.run(row)
    (ranking.folder / "cam" / "00-000004.done").unlink()
    runs = []
    explain = METHODS["cam"].load()
    monkeypatch.setattr(
        "pellucid.methods.cam.cam",
        lambda call, x, target, *, layer=None: runs.append(len(x)) or explain(call, x, target),
    )
    assert ranking.run(row).records == whole.records
    assert runs == [2]  # the last part alone
    assert ranking.seconds(row) > 0


def test_coarse_maps_are_sums_over_squares(ranking: Ranking) -> None:
    x = ranking.photographs[0].input[None]
    with photographs.coarse_methods():
        found = pl.explain(ranking.model, x, method="coarse:saliency", side=8)
    fine = pl.explain(ranking.model, x, method="saliency").map
    torch.testing.assert_close(found.map, fine.unfold(1, 8, 8).unfold(2, 8, 8).sum((3, 4)))
    assert "coarse:saliency" not in METHODS


def test_the_page_ranks_compares_and_keeps_what_was_written_by_hand(ranking: Ranking, tmp_path: Path) -> None:
    used = [Row("evidence"), Row("cam"), Row("grad_cam"), Row("random_map"), Row("centre_map", {}, 3), Row("edge_map")]
    table = join([named(ranking.run(row), row) for row in used])
    labels = [row.label for row in used]
    lines = ranked(table, labels)
    means = [float(line[3].split()[0]) for line in lines[1:]]
    assert means == sorted(means, reverse=True)
    assert {line[0]: line[1] for line in lines[1:]} == {
        label: "3" if label == "centre_map" else "6" for label in labels
    }
    pairs = {line[0]: line[1:] for line in against(table, labels, ["cam", "random_map"], "deletion")[1:]}
    assert pairs["cam"][0] == pairs["grad_cam"][0] == "+0.00 [+0.00, +0.00]"  # the same maps here: the same places
    (whole,) = [c for c in table.compare("cam", "random_map") if (c.metric, c.part) == ("deletion", "log_odds")]
    assert f"{whole.difference.mean:+.2f} [{whole.difference.low:+.2f}, " in pairs["cam"][1]
    path = tmp_path / "page.md"
    path.write_text("As it was.\n\n## Reading\n\nBy hand.\n")
    text = page(table, ranking, used, [], "command", photographs.reading_of(path))
    assert text.endswith("## Reading\n\nBy hand.\n")
    assert "As it was" not in text
    assert photographs.reading_of(tmp_path / "none.md") == ""


def test_the_sheet_has_a_column_per_method(ranking: Ranking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "rows", lambda: [Row("evidence"), Row("saliency"), Row("rise", {"masks": 4})])
    picture = sheet(ranking, [0, 5], [f"class {k}" for k in range(5)], width=64)
    assert picture.width == 4 * 64 + 5 * 14
    assert photographs.find(ranking.photographs, "p3") == 3
    with pytest.raises(OptionError, match="no photograph of 'zebra'"):
        photographs.find(ranking.photographs, "zebra")


def test_chance_is_measured_once(ranking: Ranking, monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_chance(ranking, photographs=2, draws=19)
    assert len(found) == 1 + 2 * 3
    assert all(line[-1].endswith("of 2") for line in found[1:])
    monkeypatch.setattr(photographs, "_compared", None)
    assert by_chance(ranking, photographs=2, draws=19) == found
