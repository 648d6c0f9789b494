"""The generator against a slow, literal renderer, and the promises that make its counterfactuals exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pellucid.data.lesionlab import PRESETS, Knobs, fundus
from pellucid.data.lesionlab.anatomy import _branch, _trunks, anatomy, field
from pellucid.data.lesionlab.patches import distractors, lesions
from pellucid.data.lesionlab.streams import derive, stream
from pellucid.data.lesionlab.texture import texture

MANY = Knobs(lesions=(4, 6), distractors=4)


def scene(image: int = 7, n: int = 128, knobs: Knobs = MANY, ill: bool = True) -> fundus.Scene:
    return fundus.scene(derive(1), derive(2, image), n, knobs, ill)


def literal(scene: fundus.Scene, drop: set[int], marker: bool) -> np.ndarray:
    """Compositing, light, letter, blur and noise as written down, whole frames in double precision."""
    picture = scene.base.astype(np.float64)

    def compose(picture: np.ndarray, patch: fundus.Patch) -> np.ndarray:
        alpha = np.zeros((scene.n, scene.n))
        alpha[patch.rows, patch.columns] = patch.gain * patch.shape.astype(np.float64)
        alpha[alpha < 1e-3] = 0
        return picture * (1 - alpha) + alpha * np.array(patch.colour)[:, None, None]

    for patch in scene.distractors:
        picture = compose(picture, patch)
    for k, patch in enumerate(scene.lesions):
        if k not in drop:
            picture = compose(picture, patch)
    picture = picture * scene.light
    if marker:
        picture = compose(picture, scene.letter)
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / 0.7) ** 2)
    for axis in (1, 2):
        picture = ndimage.convolve1d(picture, kernel / kernel.sum(), axis=axis, mode="constant")
    return np.clip(picture + np.sqrt(4e-4 * picture + 2e-5) * scene.noise, 0, 1)


@pytest.mark.parametrize("n", [64, 128, 256])
@pytest.mark.parametrize("marker", [False, True])
def test_render_equals_the_literal_renderer(n: int, marker: bool) -> None:
    for image in range(3):
        drawn = scene(image, n)
        for drop in (set(), {0}, {1, 3}):
            np.testing.assert_allclose(fundus.render(drawn, drop, marker), literal(drawn, drop, marker), atol=2e-6)


@pytest.mark.parametrize("n", [64, 128, 512])
@pytest.mark.parametrize("preset", ["easy", "hard"])
def test_dropping_a_lesion_changes_no_bit_outside_its_support_widened_by_the_blur(n: int, preset: str) -> None:
    for image in range(12 if n < 512 else 2):
        drawn = scene(image, n, PRESETS[preset])
        whole, zones = fundus.render(drawn), drawn.zones(())
        for k, patch in enumerate(drawn.lesions):
            changed = (fundus.render(drawn, {k}) != whole).any(0)
            support = np.zeros((n, n), bool)
            support[patch.rows, patch.columns] = patch.opacity > 0
            widened = ndimage.binary_dilation(support, np.ones((5, 5)))
            assert not (changed & ~widened).any()
            np.testing.assert_array_equal(zones[f"effect:{k}"], widened)


def test_masks_mark_where_the_picture_changes_most() -> None:
    inside, outside = [], []
    for image in range(20):
        drawn = scene(image, 128, PRESETS["easy"])
        whole, zones = fundus.render(drawn), drawn.zones(())
        for k in range(len(drawn.lesions)):
            change = np.abs(fundus.render(drawn, {k}) - whole).max(0)
            mask = zones[f"lesion:{k}"]
            assert mask.any()
            assert (change[mask] > 0).mean() > 0.99
            inside.append(change[mask].mean())
            outside.append(change[zones[f"effect:{k}"] & ~mask].mean())
    assert np.mean(inside) > 3 * np.mean(outside)
    assert np.mean(inside) > 0.1


def test_the_letter_changes_its_place_only_and_lies_outside_the_field() -> None:
    for image in range(8):
        for n in (128, 160, 512):
            drawn = scene(image, n)
            place = drawn.zones(())["marker"]
            changed = (fundus.render(drawn, marker=True) != fundus.render(drawn)).any(0)
            assert changed.any()
            assert not (changed & ~place).any()
            assert not (place & (field(n) > 0)).any()


def test_equal_seeds_give_equal_bits_with_and_without_caches() -> None:
    before = fundus.render(scene(3))
    for cached in (fundus.scene, anatomy, field):
        cached.cache_clear()
    np.testing.assert_array_equal(fundus.render(scene(3)), before)


def test_other_components_keep_their_chance_when_one_changes() -> None:
    plain, few = Knobs(lesions=(5, 5), distractors=0), Knobs(lesions=(2, 2), distractors=9)
    image = derive(5)
    for a, b in zip(lesions(image, 128, plain), lesions(image, 128, few), strict=False):
        assert a.latent() == b.latent()
        np.testing.assert_array_equal(a.shape, b.shape)
    with_lesions, without = scene(4, ill=True), scene(4, ill=False)
    assert [d.latent() for d in with_lesions.distractors] == [d.latent() for d in without.distractors]
    np.testing.assert_array_equal(with_lesions.noise, without.noise)
    np.testing.assert_array_equal(with_lesions.light, without.light)
    np.testing.assert_array_equal(fundus.render(with_lesions, set(range(9))), fundus.render(without))


def test_the_fellow_eye_is_the_mirror_image() -> None:
    eyes = {s.letter.kind[-1]: s for s in (scene(i) for i in range(12))}
    np.testing.assert_array_equal(eyes["L"].base, eyes["R"].base[:, :, ::-1])


def test_lesions_are_where_their_latent_centre_says() -> None:
    drawn = scene(9, 256, Knobs(lesions=(6, 6), types=("haemorrhage", "cotton_wool")))
    for k, patch in enumerate(drawn.lesions):
        y, x = ndimage.center_of_mass(drawn.zones(())[f"lesion:{k}"])
        assert np.hypot(x * 2 + 1 - patch.centre[0], y * 2 + 1 - patch.centre[1]) < 0.5 * patch.radius + 2


def test_all_distractors_and_lesion_types_occur() -> None:
    easy = PRESETS["easy"]
    found = [{p.kind for i in range(40) for p in draw(derive(i), 64, easy)} for draw in (lesions, distractors)]
    assert found == [set(easy.types), {"pale_dot", "reflection", "dust"}]


def test_texture_has_unit_variance_and_the_asked_spectrum() -> None:
    fields = np.stack([texture(stream(i, "t"), (64, 64), 2.2) for i in range(200)])
    assert np.mean(fields**2) == pytest.approx(1, abs=0.05)
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    used = frequency > 0
    slope = np.polyfit(np.log(frequency[used]), np.log(power[used]), 1)[0]
    assert slope == pytest.approx(-2.2, abs=0.05)


def test_vessels_branch_by_murrays_law() -> None:
    generator = stream(3, "vessels")
    parents = _trunks(generator)
    zeros = np.zeros(len(parents))
    children = _branch(generator, parents, np.ones(len(parents), bool), zeros, zeros, zeros)
    first, second = np.split(children.radius, 2)
    np.testing.assert_allclose(first**3 + second**3, parents.radius**3)


# Means of 32 x 32 blocks of the red channel, 8-bit: a change of the generator has to change its version.
GOLDEN = np.array(
    [
        [42.4, 85.4, 88.9, 20.7],
        [95.4, 136.7, 133.9, 86.5],
        [101.1, 146.0, 146.7, 91.1],
        [24.6, 97.3, 90.3, 21.7],
    ]
)


def test_the_generator_still_draws_what_its_version_drew() -> None:
    assert fundus.VERSION == "fundus-1"
    picture = np.round(fundus.render(scene(0), marker=True)[0] * 255)
    np.testing.assert_allclose(picture.reshape(4, 32, 4, 32).mean((1, 3)), GOLDEN, atol=0.5)
