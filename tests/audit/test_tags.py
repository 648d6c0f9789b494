"""Constant overlays in pictures of noise: found where they were put, in the pictures that have them, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pellucid.audit.tags import find_tags, looked_at

SIDE, N = 48, 60
BRIGHT = 8.0  # of a letter; the anatomy deviates by 0.9


def anatomy(seed: int, n: int = N) -> Tensor:
    """Smooth patterns that differ from picture to picture."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 7, 7, generator=g)
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=False)[:, 0]


def letter(form: str) -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[4:14, 4:7] = True
    if form == "L":
        mask[11:14, 4:12] = True
    else:
        mask[4:7, 4:12] = mask[8:10, 4:12] = mask[4:10, 10:12] = True
    return mask


def lettered(forms: str) -> tuple[Tensor, list[bool]]:
    """Two in five pictures show one of the forms."""
    stack, shown = anatomy(0), [k % 5 < 2 for k in range(N)]
    for k in range(N):
        if shown[k]:
            stack[k][letter(forms[k % len(forms)])] = BRIGHT
    return stack, shown


def test_a_letter_is_found_where_it_is_and_in_the_pictures_that_show_it() -> None:
    stack, shown = lettered("L")
    (tag,) = find_tags(stack)
    assert tag.share == pytest.approx(0.4)
    assert tag.shown_in(stack) == shown
    assert bool(tag.mask[letter("L")].all())
    around = torch.nn.functional.max_pool2d(letter("L")[None, None].float(), 5, 1, 2)[0, 0].bool()
    assert not bool(tag.mask[~around].any())


def test_it_is_recognised_in_pictures_that_were_not_looked_through() -> None:
    (tag,) = find_tags(lettered("L")[0])
    fresh = anatomy(9, 6)
    fresh[:3, letter("L")] = BRIGHT
    assert tag.shown_in(fresh) == [True] * 3 + [False] * 3


def test_two_forms_at_one_place_are_two_tags() -> None:
    stack, shown = lettered("LR")
    tags = find_tags(stack)
    assert len(tags) == 2
    found = [tag.shown_in(stack) for tag in tags]
    assert [a + b for a, b in zip(*found, strict=True)] == shown  # each picture by one of them


def test_silent_without_a_tag_and_where_all_pictures_have_it() -> None:
    stack = anatomy(1)
    assert find_tags(stack) == []
    stack[:, letter("L")] = BRIGHT  # of the camera, and tells nothing
    assert find_tags(stack) == []


@pytest.mark.parametrize("change", ["moved", "few", "blank"])
def test_silent_where_nothing_comes_back(change: str) -> None:
    stack = anatomy(2, 8 if change == "few" else N)
    g = torch.Generator().manual_seed(0)
    if change == "blank":
        stack = torch.zeros_like(stack)
    for k in range(0, len(stack), 2):
        by = torch.randint(0, 30, (2,), generator=g).tolist() if change == "moved" else [0, 0]
        if change != "blank":
            stack[k][letter("L").roll(by, (0, 1))] = BRIGHT
    assert find_tags(stack) == []


def test_a_signal_has_tags_too() -> None:
    g = torch.Generator().manual_seed(3)
    stack = torch.nn.functional.interpolate(torch.randn(40, 1, 9, generator=g), 90, mode="linear")[:, 0]
    spikes = torch.zeros(90)
    spikes[10:30:4] = 4.0
    stack[::2] += spikes
    (tag,) = find_tags(stack)
    assert tag.shown_in(stack) == [k % 2 == 0 for k in range(40)]


def test_the_mask_at_another_resolution() -> None:
    (tag,) = find_tags(lettered("L")[0])
    twice = tag.at((2 * SIDE, 2 * SIDE))
    assert torch.equal(twice[::2, ::2], tag.mask)
    assert torch.equal(twice[1::2, 1::2], tag.mask)


def test_what_is_looked_at_are_means_of_channels_over_areas() -> None:
    x = torch.randn(2, 3, 256, 64, generator=torch.Generator().manual_seed(4))
    by_hand = x.mean(1).reshape(2, 128, 2, 64).mean(2)
    torch.testing.assert_close(looked_at(x), by_hand)
