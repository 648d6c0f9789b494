"""Zones are the pixels that their words say, counted by hand."""

from __future__ import annotations

import pytest
import torch

from audit.kit import sample
from pellucid.audit.zones import Zone, box_around, fixed, zone
from pellucid.errors import OptionError
from pellucid.sample import Sample


def drawn(text: str, size: tuple[int, ...]) -> list[str]:
    """The zone in an input of that size, a row of # and . each."""
    mask = zone(text).of(Sample(torch.zeros(1, *size)))
    assert mask is not None
    return ["".join(".#"[int(v)] for v in row) for row in mask.reshape(-1, size[-1])]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("corners:0.25", ["##....##", "........", "........", "##....##"]),
        ("corners:0.3", ["##....##", "........", "........", "##....##"]),  # 1.2 and 2.4 pixels
        ("border:0.25", ["########", "##....##", "##....##", "########"]),
        ("border:0.01", ["########", "#......#", "#......#", "########"]),  # never less than a pixel
        ("box:0.25,0,0.5,0.5", ["..##....", "..##....", "........", "........"]),
        ("box:0,0.75,1,1", ["........", "........", "........", "########"]),
    ],
)
def test_zones_of_a_picture(text: str, rows: list[str]) -> None:
    assert drawn(text, (4, 8)) == rows


def test_a_signal_and_a_volume_have_zones_of_the_same_words() -> None:
    assert drawn("corners:0.2", (10,)) == drawn("border:0.2", (10,)) == ["##......##"]
    assert drawn("box:0.5,0.8", (10,)) == [".....###.."]
    volume = zone("corners:0.25").of(Sample(torch.zeros(1, 4, 4, 4)))
    assert volume is not None
    assert int(volume.sum()) == 8
    assert bool(volume[0, 3, 0])


@pytest.mark.parametrize(("text", "share"), [("corners", 0.2), ("border", 0.06)])
def test_usual_widths(text: str, share: float) -> None:
    assert drawn(text, (50, 50)) == drawn(f"{text}:{share}", (50, 50))


def test_a_samples_own_zone_and_its_thing() -> None:
    own = zone("sample:marker")
    mask = torch.eye(8, dtype=torch.bool)
    assert own.thing == "marker"
    assert own.of(sample(0)) is None
    assert torch.equal(own.of(sample(0, zones={"marker": mask})), mask)  # type: ignore[arg-type]
    assert zone("corners").thing == ""


def test_a_box_around_a_mask_holds_it_and_no_more() -> None:
    mask = torch.zeros(16, 8, dtype=torch.bool)
    mask[4:6, 1:7] = mask[10, 3] = True
    text = box_around(mask)
    assert text == "box:0.125,0.25,0.875,0.688"  # x from 1/8 to 7/8, y from 4/16 to 11/16
    again = zone(text).of(Sample(torch.zeros(1, 16, 8)))
    assert again is not None
    assert bool(again[mask].all())
    assert int(again.sum()) == 7 * 6


def test_a_fixed_zone_is_the_same_in_every_sample() -> None:
    mask = torch.ones(8, 8, dtype=torch.bool)
    found: Zone = fixed("all", mask)
    assert found.of(sample(0)) is found.of(sample(1)) is mask


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cornres", "corners"), ("box:0,0,1", "box:0,0,0.2,0.2"), ("box:0.5,0,0.2,1", "box:0,0,0.2,0.2"), ("corners:0.5", "corners:0.2"), ("border:x", "border:0.06"),
        ("sample:", "sample:marker"), ("box:0,0,2,2", "box:0,0,0.2,0.2"),
    ],
)  # fmt: skip
def test_words_that_mean_no_zone_are_refused(text: str, hint: str) -> None:
    with pytest.raises(OptionError) as error:
        zone(text)
    assert hint in error.value.hint


def test_a_box_of_another_rank_is_refused_when_it_is_drawn() -> None:
    with pytest.raises(OptionError, match="has 1 axes"):
        zone("box:0,0.5").of(sample(0))
