"""What the knobs say is what the pictures have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from pellucid.data.lesionlab import DISTRACTOR_TYPES, KINDS, LESION_TYPES, PRESETS, LesionLab, fundus, oct, xray
from pellucid.data.lesionlab.scene import Scene

every_kind = pytest.mark.parametrize("kind", KINDS)
ROUND = {"fundus": "haemorrhage", "oct": "cyst", "xray": "nodule"}


def scenes(kind: str, n: int, size: int = 64, preset: str = "easy", **knobs: Any) -> list[Scene]:
    data = LesionLab(kind, n_images=n, size=size, preset=preset, knobs={"prevalence": 1.0, **knobs})
    return [data.recipe(i).scene() for i in range(n)]


def test_every_name_has_something_that_draws_it() -> None:
    assert set(fundus.LESIONS) == set(LESION_TYPES["fundus"])
    assert set(fundus.DISTRACTORS) == set(DISTRACTOR_TYPES["fundus"])
    assert {*oct.DOMES, "cyst"} == set(LESION_TYPES["oct"])
    assert {*xray.LESIONS, "effusion", "pneumothorax"} == set(LESION_TYPES["xray"])
    assert set(xray.DISTRACTORS) == set(DISTRACTOR_TYPES["xray"])


@every_kind
def test_presets_grow_harder(kind: str) -> None:
    numbers = {name: scenes(kind, 40, preset=name) for name in PRESETS}
    assert list(numbers) == ["easy", "medium", "hard"]
    lesions, radii, distractors = (
        [np.mean([value for s in numbers[name] for value in of(s)]) for name in numbers]
        for of in (
            lambda s: [len(s.lesions)],
            lambda s: [p.radius for p in s.lesions],
            lambda s: [len(s.distractors)],
        )
    )
    assert lesions[0] > lesions[1] > lesions[2]
    assert radii[0] > radii[1] > radii[2]
    assert distractors[0] < distractors[1] < distractors[2]


@every_kind
@pytest.mark.parametrize("count", [1, 7, 20])
def test_count(kind: str, count: int) -> None:
    assert all(len(s.lesions) == count for s in scenes(kind, 5, lesions=(count, count)))


@every_kind
@pytest.mark.parametrize("rate", [0.0, 2.0, 12.0])
def test_distractor_rate(kind: str, rate: float) -> None:
    counts = [len(s.distractors) for s in scenes(kind, 60, distractors=rate, lesions=(1, 1))]
    assert np.mean(counts) == pytest.approx(rate, abs=4 * np.sqrt(rate / 60) + 1e-9)


@every_kind
@pytest.mark.parametrize(("strides", "size"), [(3.0, 256), (1.0, 256), (0.5, 256)])
def test_diameter_over_stride_is_the_width_of_the_masks(kind: str, strides: float, size: int) -> None:
    widths = []
    for s in scenes(
        kind, 12, size, types=(ROUND[kind],), lesions=(1, 1), diameter_over_stride=strides, stride=16, distractors=0.0, prior="anatomical"
    ):  # fmt: skip
        rows, columns = np.nonzero(s.zones()["lesion:0"])
        widths.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    # Round lesions have the diameter; a haemorrhage is longer than wide, with equal area.
    assert np.median(widths) == pytest.approx(16 * strides, rel=0.45, abs=2)


@every_kind
def test_a_stride_of_any_size_gives_lesions_of_any_type(kind: str) -> None:
    for strides in (0.15, 0.5, 1, 3):
        for s in scenes(kind, 4, 128, diameter_over_stride=strides, lesions=(3, 3)):
            assert all(s.zones()[f"lesion:{k}"].any() for k in range(3))


@every_kind
@pytest.mark.parametrize("wanted", [4.0, 1.0, 0.5])
def test_contrast_to_noise_is_met_or_the_opacity_is_whole(kind: str, wanted: float) -> None:
    for s in scenes(kind, 10, 128, contrast_to_noise=wanted, lesions=(3, 3)):
        for lesion in s.lesions:
            reached, gain = lesion.latent()["contrast_to_noise"], lesion.latent()["gain"]
            assert reached == pytest.approx(wanted) or (gain == 1.0 and reached < wanted)


@pytest.mark.parametrize(
    ("kind", "wanted"), [("fundus", 4.0), ("fundus", 1.0), ("oct", 1.0), ("oct", 0.5), ("xray", 4.0), ("xray", 1.0)]
)
def test_contrast_to_noise_measured_on_the_pictures(kind: str, wanted: float) -> None:
    """The change of the picture inside the mask over the deviation, around it, of the picture without the lesion."""
    found = []
    knobs = {
        "prevalence": 1.0, "types": (ROUND[kind],), "lesions": (1, 1), "contrast_to_noise": wanted, "distractors": 0.0, "prior": "anatomical",
    }  # fmt: skip
    data = LesionLab(kind, n_images=16, size=256, knobs=knobs)
    for i in range(16):
        recipe, (lesion,) = data.recipe(i), data.recipe(i).scene().lesions
        clean = replace(recipe, without=frozenset({"lesion:0"})).picture().mean(0)
        change = (recipe.picture().mean(0) - clean)[lesion.mask(256)]
        found.append(np.sqrt(np.square(change).mean()) / clean[lesion.rows, lesion.columns].std())
    assert np.median(found) == pytest.approx(wanted, rel=0.35)


@every_kind
def test_the_noise_of_another_camera_changes_no_lesion(kind: str) -> None:
    asked = {"contrast_to_noise": 1.0, "lesions": (3, 3)}
    for plain, noisy in zip(scenes(kind, 6, **asked), scenes(kind, 6, noise=3.0, **asked), strict=True):
        assert plain.latent() == noisy.latent()


@every_kind
def test_spatial_priors(kind: str) -> None:
    spread = {}
    for prior in ("uniform", "anatomical", "fixed"):
        places = np.array(
            [s.lesions[0].centre for s in scenes(kind, 40, types=(ROUND[kind],), lesions=(1, 1), prior=prior)]
        )
        spread[prior] = places.std(0)
    assert (spread["fixed"] < 16).all()
    assert spread["fixed"].sum() < 0.5 * spread["anatomical"].sum() < 0.5 * spread["uniform"].sum()


@every_kind
@pytest.mark.parametrize("cue", ["texture", "shape"])
def test_decoys_are_like_lesions_but_for_the_cue_and_in_every_image(kind: str, cue: str) -> None:
    data = LesionLab(kind, n_images=40, size=128, knobs={"cue": cue, "distractors": 0.0})
    lesions, decoys = [], []
    for i in range(40):
        recipe = data.recipe(i)
        scene = recipe.scene()
        assert len(scene.distractors) >= 2
        assert {p.kind for p in scene.lesions} <= {cue}
        lesions += scene.lesions
        decoys += scene.distractors
    size, filled, rough = (
        [np.mean([of(p) for p in parts]) for parts in (lesions, decoys)]
        for of in (
            lambda p: p.mask(128).sum(),
            lambda p: p.filling.mean(),
            lambda p: p.filling.std() if cue == "texture" else 0.0,
        )
    )
    assert size[0] == pytest.approx(size[1], rel=0.25)
    assert filled[0] == pytest.approx(filled[1], abs=0.02)
    assert rough[0] == pytest.approx(rough[1], rel=0.3)


@every_kind
def test_domain_shift(kind: str) -> None:
    def picture(i: int, **knobs: Any) -> np.ndarray:
        data = LesionLab(kind, n_images=4, size=64, knobs={"prevalence": 0.0, "distractors": 0.0, **knobs})
        return data.recipe(i).picture()

    def grain(x: np.ndarray) -> float:
        return float((x - ndimage.uniform_filter(x, (1, 3, 3))).std())

    for i in range(4):
        plain = picture(i)
        assert picture(i, gamma=1.6).mean() < plain.mean() < picture(i, gamma=0.6).mean()
        assert grain(picture(i, noise=0.0)) < grain(plain) < grain(picture(i, noise=2.5))
        means = [picture(i, camera=c).mean((1, 2)) for c in (-0.8, 0.8)]
        assert not np.allclose(*means, rtol=0.1)


def test_a_wide_heart_is_wide() -> None:
    narrow, wide = (
        LesionLab("xray", n_images=3, size=128, knobs={"prevalence": 0.0, "distractors": 0.0, "heart_width": (w, w)}) for w in (0.4, 0.65)
    )  # fmt: skip
    for i in range(3):
        row = slice(78, 84)
        bright = [(d.recipe(i).picture()[0, row, 20:108].mean(0) > 0.5).sum() for d in (narrow, wide)]
        assert bright[1] - bright[0] == pytest.approx((0.65 - 0.4) * 0.72 * 128, rel=0.4)
