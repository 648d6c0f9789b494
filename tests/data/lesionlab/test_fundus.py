"""The generator against a slow, literal renderer, and the promises that make its counterfactuals exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pellucid.data.lesionlab import DISTRACTOR_TYPES, LESION_TYPES, PRESETS, Knobs, fundus
from pellucid.data.lesionlab.patches import Patch
from pellucid.data.lesionlab.retina import DISC_CENTRE, _branch, _trunks, anatomy, field, grain
from pellucid.data.lesionlab.scene import Setting, Shown
from pellucid.data.lesionlab.streams import derive, stream
from pellucid.data.lesionlab.texture import texture

MANY = Knobs(lesions=(4, 6), distractors=4)


def scene(image: int = 7, n: int = 128, knobs: Knobs = MANY, ill: bool = True, marker: str = "letter") -> fundus.Fundus:
    return fundus.scene(Setting("fundus", n, knobs, marker), derive(1), derive(2, image), ill)


def without(*numbers: int, marker: bool = False) -> Shown:
    return Shown(frozenset(f"lesion:{k}" for k in numbers), marker)


def literal(scene: fundus.Fundus, drop: set[int], marker: bool) -> np.ndarray:
    """Compositing, light, letter, blur and noise as written down, whole frames in double precision."""
    picture = scene.base.astype(np.float64)

    def compose(picture: np.ndarray, patch: Patch) -> np.ndarray:
        alpha = np.zeros((scene.n, scene.n))
        alpha[patch.rows, patch.columns] = patch.gain * patch.shape.astype(np.float64)
        alpha[alpha < 1e-3] = 0
        return picture * (1 - alpha) + alpha * patch.filling.astype(np.float64)

    for patch in scene.distractors:
        picture = compose(picture, patch)
    for k, patch in enumerate(scene.lesions):
        if k not in drop:
            picture = compose(picture, patch)
    picture = picture * scene.light
    if marker:
        picture = compose(picture, scene.contents.mark.usual)
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
            np.testing.assert_allclose(
                drawn.render(without(*drop, marker=marker)), literal(drawn, drop, marker), atol=2e-6
            )


@pytest.mark.parametrize("n", [64, 128, 512])
@pytest.mark.parametrize("preset", ["easy", "hard"])
def test_dropping_a_lesion_changes_no_bit_outside_its_support_widened_by_the_blur(n: int, preset: str) -> None:
    for image in range(12 if n < 512 else 2):
        drawn = scene(image, n, PRESETS[preset])
        whole, zones = drawn.render(), drawn.zones()
        for k, patch in enumerate(drawn.lesions):
            changed = (drawn.render(without(k)) != whole).any(0)
            support = np.zeros((n, n), bool)
            support[patch.rows, patch.columns] = patch.opacity > 0
            widened = ndimage.binary_dilation(support, np.ones((5, 5)))
            assert not (changed & ~widened).any()
            np.testing.assert_array_equal(zones[f"effect:{k}"], widened)


def test_masks_mark_where_the_picture_changes_most() -> None:
    inside, outside = [], []
    for image in range(20):
        drawn = scene(image, 128, PRESETS["easy"])
        whole, zones = drawn.render(), drawn.zones()
        for k in range(len(drawn.lesions)):
            change = np.abs(drawn.render(without(k)) - whole).max(0)
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
            place = drawn.zones()["marker"]
            changed = (drawn.render(Shown(marker=True)) != drawn.render()).any(0)
            assert changed.any()
            assert not (changed & ~place).any()
            assert not (place & (field(n) > 0)).any()


def test_equal_seeds_give_equal_bits_with_and_without_caches() -> None:
    before = scene(3).render()
    for cached in (fundus._scene, anatomy, field, grain):
        cached.cache_clear()
    np.testing.assert_array_equal(scene(3).render(), before)


def test_other_components_keep_their_chance_when_one_changes() -> None:
    plain, few = Knobs(lesions=(5, 5), distractors=0), Knobs(lesions=(2, 2), distractors=9)
    for a, b in zip(scene(5, knobs=plain).lesions, scene(5, knobs=few).lesions, strict=False):
        assert a.latent() == b.latent()
        np.testing.assert_array_equal(a.shape, b.shape)
    ill, healthy = scene(4, ill=True), scene(4, ill=False)
    assert [d.latent() for d in ill.distractors] == [d.latent() for d in healthy.distractors]
    np.testing.assert_array_equal(ill.noise, healthy.noise)
    np.testing.assert_array_equal(ill.light, healthy.light)
    np.testing.assert_array_equal(ill.render(without(*range(9))), healthy.render())


def test_the_fellow_eye_is_the_mirror_image() -> None:
    eyes = {s.contents.mark.variant: s for s in (scene(i) for i in range(12))}
    np.testing.assert_array_equal(eyes["L"].base, eyes["R"].base[:, :, ::-1])


def test_lesions_are_where_their_latent_centre_says() -> None:
    drawn = scene(9, 256, Knobs(lesions=(6, 6), types=("haemorrhage", "cotton_wool")))
    for k, patch in enumerate(drawn.lesions):
        y, x = ndimage.center_of_mass(drawn.zones()[f"lesion:{k}"])
        assert np.hypot(x * 2 + 1 - patch.centre[0], y * 2 + 1 - patch.centre[1]) < 0.5 * patch.radius + 2


def test_the_usual_types_occur_and_the_others_on_request() -> None:
    usual = [scene(i, 64, PRESETS["easy"]) for i in range(40)]
    assert {p.kind for s in usual for p in s.lesions} == set(LESION_TYPES["fundus"]) - {"flame_haemorrhage"}
    assert {p.kind for s in usual for p in s.distractors} == set(DISTRACTOR_TYPES["fundus"]) - {"vessel_crossing"}
    asked = Knobs(types=("flame_haemorrhage",), distractor_types=("vessel_crossing",))
    assert {p.kind for i in range(9) for p in scene(i, 64, asked).lesions} == {"flame_haemorrhage"}
    assert {p.kind for i in range(9) for p in scene(i, 64, asked).distractors} == {"vessel_crossing"}


def test_flames_lie_along_the_nerve_fibres_that_meet_in_the_optic_disc() -> None:
    angles = []
    for image in range(12):
        drawn = scene(image, 256, Knobs(types=("flame_haemorrhage",), lesions=(2, 4)))
        disc = DISC_CENTRE[0] if drawn.contents.right else 512 - DISC_CENTRE[0], DISC_CENTRE[1]
        for k, lesion in enumerate(drawn.lesions):
            y, x = np.nonzero(drawn.zones()[f"lesion:{k}"])
            values, vectors = np.linalg.eigh(np.cov(x, y))
            towards = np.subtract(disc, lesion.centre)
            angles.append(abs(vectors[:, 1] @ towards) / np.hypot(*towards))
            assert values[1] > 3 * values[0]
    assert np.mean(angles) > 0.98


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
    picture = np.round(scene(0).render(Shown(marker=True))[0] * 255)
    np.testing.assert_allclose(picture.reshape(4, 32, 4, 32).mean((1, 3)), GOLDEN, atol=0.5)
