from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.errors import BadInput, OptionError
from pellucid.explanation import Explanation
from pellucid.render.colour import diverging
from pellucid.render.overlay import overlay, plain, scale, scales

Make = Callable[..., Explanation]
PLAIN = {"title": "", "bar": False}


def drawn(explanation: Explanation, image: object = None, **options: object) -> np.ndarray:
    return np.asarray(overlay(explanation, image, **{**PLAIN, **options}), dtype=int)  # type: ignore[arg-type]


def colourfulness(picture: np.ndarray) -> np.ndarray:
    """Positive towards orange, negative towards blue, 0 for grey."""
    return np.asarray(picture[..., 0] - picture[..., 2])


@pytest.mark.parametrize("sign", [1, -1])
def test_one_hot_map_is_coloured_at_its_pixel_and_with_its_sign(make: Make, sign: int) -> None:
    maps = torch.zeros(1, 32, 32)
    maps[0, 5, 20] = sign * 0.7
    shift = colourfulness(drawn(make(maps), np.full((32, 32), 128, np.uint8), width=32))
    assert np.unravel_index(np.abs(shift).argmax(), shift.shape) == (5, 20)
    assert np.sign(shift[5, 20]) == sign
    shift[5, 20] = 0
    assert not shift.any()


def test_a_cell_is_drawn_where_the_geometry_says(make: Make) -> None:
    """Cell (1, 2) of a 4 x 4 grid over 64 pixels is centred at pixel (23.5, 39.5)."""
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 2] = 1.0
    shift = colourfulness(drawn(make(maps, (64, 64)), np.full((64, 64), 128, np.uint8), width=64)).clip(0).astype(float)
    y, x = np.mgrid[:64, :64]
    assert abs((shift * y).sum() / shift.sum() - 23.5) < 0.1
    assert abs((shift * x).sum() / shift.sum() - 39.5) < 0.1


def test_full_evidence_over_white_paper_is_the_colour_map(make: Make) -> None:
    maps = torch.ones(1, 8, 8)
    maps[0, :, 4:] = -1
    picture = drawn(make(maps), width=8, opacity=1.0)
    np.testing.assert_array_equal(picture[4, 1], diverging(np.array(1.0), 1.0))
    np.testing.assert_array_equal(picture[4, 6], diverging(np.array(-1.0), 1.0))


def test_zero_map_leaves_the_picture_grey_and_says_so(make: Make) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    explanation = make(torch.zeros(1, 4, 4), (64, 64))
    assert scale([explanation]) == 0.0
    picture = drawn(explanation, image, width=64)
    assert not colourfulness(picture)[:40].any()
    luminance = np.asarray(Image.fromarray(image).convert("L"), dtype=float)
    # Above the strip with the words the picture is still there: grey values follow its luminance.
    np.testing.assert_allclose(picture[:40, :, 0], 36 + 0.8 * luminance[:40], atol=0.51)
    assert (picture[-1] == 255).all()  # the strip
    assert (drawn(explanation, image, width=64, limit=2.0) == picture).all()


def test_one_scale_makes_equal_values_equal_colours(make: Make) -> None:
    strong, weak = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    strong[0, 2:4], strong[0, 10, 10], weak[0, 10, 10] = 4.0, 1.0, 1.0
    explanations = [make(strong), make(weak)]
    limit = scale(explanations)
    image = np.full((16, 16), 100, np.uint8)
    a, b = (drawn(e, image, width=16, limit=limit) for e in explanations)
    np.testing.assert_array_equal(a[10, 10], b[10, 10])
    alone = drawn(explanations[1], image, width=16)
    assert abs(int(colourfulness(alone)[10, 10])) > abs(int(colourfulness(b)[10, 10]))


def test_scale_is_the_percentile_over_all_maps_together(make: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 40, 40, generator=generator), 5 * torch.randn(1, 40, 40, generator=generator)
    everything = np.sort(np.abs(np.concatenate([a.numpy().ravel(), b.numpy().ravel()])))
    expected = everything[int(np.ceil(0.995 * (len(everything) - 1)))]
    assert scale([make(a), make(b)]) == pytest.approx(float(expected))


def test_scale_of_a_needle_is_its_height(make: Make) -> None:
    maps = torch.zeros(1, 100, 100)
    maps[0, 3, 3] = -0.2
    assert scale([make(maps)]) == pytest.approx(0.2)


def test_units_do_not_share_a_scale(make: Make) -> None:
    logits, ranks = make(torch.ones(1, 4, 4)), make(3 * torch.ones(1, 4, 4), method="saliency", complete=False)
    assert scales([logits, ranks, logits]) == {"logit": 1.0, "saliency units": 3.0}
    with pytest.raises(OptionError, match="logit, saliency units"):
        scale([logits, ranks])


def test_maps_that_are_not_numbers_are_left_uncoloured(make: Make) -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 1, 1], maps[0, 6, 6] = float("nan"), 1.0
    shift = colourfulness(drawn(make(maps), np.full((8, 8), 90, np.uint8), width=8))
    assert shift[1, 1] == 0
    assert shift[6, 6] > 0


def test_known_normalisation_is_undone(make: Make) -> None:
    shown = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    seen = (shown - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    # A trace of evidence, far below what is drawn, keeps the words "no evidence" out of so small a picture.
    explanation = make(
        torch.full((1, 16, 16), 1e-9), input=seen[None], provenance={"preprocessing": {"mean": mean, "std": std}}
    )
    grey = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * shown).sum(0) * 255
    np.testing.assert_allclose(drawn(explanation, width=16, limit=1.0)[..., 0], 36 + 0.8 * grey.numpy(), atol=1.0)


def test_unknown_normalisation_is_spread_between_percentiles(make: Make) -> None:
    ramp = torch.linspace(-3, 5, 32)[None, None, None].expand(1, 1, 32, 32)
    picture = drawn(make(torch.full((1, 32, 32), 1e-9), input=ramp), width=32, limit=1.0)[..., 0]
    assert picture[0, 0] == 36
    assert picture[0, -1] == 240
    assert (np.diff(picture[0]) >= 0).all()


def test_a_picture_of_any_size_but_not_of_other_proportions(make: Make) -> None:
    explanation = make(torch.ones(1, 4, 4), (64, 64))
    assert drawn(explanation, Image.new("RGB", (200, 200)), width=50).shape == (50, 50, 3)
    with pytest.raises(BadInput, match="200 x 100"):
        overlay(explanation, Image.new("RGB", (200, 100)))
    with pytest.raises(BadInput, match="float64"):
        overlay(explanation, np.zeros((64, 64)))


def test_the_plain_input_keeps_its_colours_and_carries_no_words(make: Make) -> None:
    shown = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    known = {"preprocessing": {"mean": [0.0] * 3, "std": [1.0] * 3}}
    explanation = make(torch.zeros(1, 4, 4), (16, 16), input=shown[None], provenance=known)
    expected = np.rint(shown.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(plain(explanation, width=16)), expected)
    np.testing.assert_array_equal(np.asarray(plain(explanation, expected[:, ::-1], width=16)), expected[:, ::-1])


def test_a_plain_volume_is_the_slice_that_the_overlay_shows(make: Make) -> None:
    maps = torch.zeros(1, 6, 8, 8)
    maps[0, 4, 2, 5] = 1.0
    volume = np.stack([np.full((8, 8), 30 * k, np.uint8) for k in range(6)])
    assert (np.asarray(plain(make(maps), volume, width=8)) == round(36 + 0.8 * 120)).all()


def test_only_one_input_is_drawn(make: Make) -> None:
    with pytest.raises(OptionError, match="there are 2"):
        overlay(make(torch.ones(2, 4, 4)))


def test_a_signal_has_its_map_behind_the_curve(make: Make) -> None:
    maps = torch.zeros(1, 100)
    maps[0, :40], maps[0, 60:] = 1.0, -1.0
    signal = torch.sin(torch.linspace(0, 7, 100))[None, None]
    picture = drawn(make(maps, input=signal), width=100, opacity=1.0)
    shift = colourfulness(picture)
    assert np.median(shift[:, 10]) > 0 > np.median(shift[:, 80])
    assert (np.median(picture[:, 50], axis=0) == 255).all()
    # The curve is dark ink, highest where the signal is (its only maximum at 7 t = pi / 2, sample 22).
    ink = np.argwhere(picture.max(2) < 120)
    assert abs(np.median(ink[ink[:, 0] == ink[:, 0].min(), 1]) - 22) <= 1


def test_a_volume_shows_the_slice_with_most_evidence(make: Make) -> None:
    maps = torch.zeros(1, 6, 8, 8)
    maps[0, 4, 2, 5], maps[0, 1] = -1.0, 0.001
    volume = np.stack([np.full((8, 8), 30 * k, np.uint8) for k in range(6)])
    picture = drawn(make(maps), volume, width=8)
    picture = picture[-8:]  # below the line that names the slice
    assert np.unravel_index(np.abs(colourfulness(picture)).argmax(), (8, 8)) == (2, 5)
    assert colourfulness(picture)[2, 5] < 0
    assert (picture[0, 0] == round(36 + 0.8 * 30 * 4)).all()


def test_the_bar_runs_from_for_to_against(make: Make) -> None:
    explanation = make(torch.ones(1, 8, 8))
    full = np.asarray(overlay(explanation, width=200, title=""), dtype=int)
    bar = full[:, 200 + 6 + 4]  # inside the bar, right of the picture
    assert colourfulness(bar)[full.shape[0] // 6] > 0 > colourfulness(bar)[full.shape[0] * 5 // 6]


def test_the_map_is_not_changed_by_drawing(make: Make) -> None:
    maps = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = maps.clone()
    overlay(make(maps))
    assert torch.equal(maps, before)


def test_equal_input_gives_equal_bytes(make: Make, rank: int) -> None:
    maps = torch.randn(1, *(6,) * rank, generator=torch.Generator().manual_seed(0))
    explanation = make(
        maps, (24,) * rank, input=torch.randn(1, 2, *(24,) * rank, generator=torch.Generator().manual_seed(1))
    )
    assert overlay(explanation).tobytes() == explanation.overlay().tobytes()
