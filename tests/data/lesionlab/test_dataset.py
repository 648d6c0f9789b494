"""LesionLab as a data set: labels, patients, shortcuts, recipes."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid.data.lesionlab import Knobs, LesionLab, lesionlab
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset

SMALL = LesionLab(n_images=24, marker="letter", rho=0.5)


def test_it_is_a_dataset_whose_facts_agree_with_its_samples() -> None:
    assert isinstance(SMALL, Dataset)
    for i in range(len(SMALL)):
        sample, facts = SMALL[i], SMALL.facts(i)
        assert (sample.name, sample.label, sample.group) == (facts.name, facts.label, facts.group)
        assert sample.label == int(bool(sample.meta["lesions"]))
    assert len({SMALL.facts(i).name for i in range(24)}) == 24
    with pytest.raises(IndexError):
        SMALL[24]


def test_the_mask_is_the_union_of_the_lesions_and_empty_where_healthy() -> None:
    seen = set()
    for sample in (SMALL[i] for i in range(24)):
        lesions = [z for name, z in sample.zones.items() if name.startswith("lesion:")]
        union = torch.stack([*lesions, torch.zeros(128, 128, dtype=torch.bool)]).any(0)
        assert torch.equal(sample.mask, union)
        assert bool(sample.mask.any()) == (sample.label == 1)
        assert not (sample.mask & ~sample.zones["field"]).any()
        seen.add(sample.label)
    assert seen == {0, 1}


def test_input_is_the_picture_normalised_and_the_image_its_8_bit_copy() -> None:
    sample, picture = SMALL[1], SMALL.recipe(1).picture()
    mean, std = torch.tensor(SMALL.mean)[:, None, None], torch.tensor(SMALL.std)[:, None, None]
    torch.testing.assert_close(sample.input * std + mean, torch.from_numpy(picture), atol=1e-6, rtol=0)
    assert np.abs(sample.image.transpose(2, 0, 1) / 255 - picture).max() <= 0.5 / 255 + 1e-6
    other = LesionLab(n_images=24, marker="letter", rho=0.5, normalise=((0.5,) * 3, (0.25,) * 3))[1]
    torch.testing.assert_close(other.input * 0.25 + 0.5, torch.from_numpy(picture), atol=1e-6, rtol=0)


def test_the_constants_are_about_the_moments_of_the_pictures() -> None:
    pictures = np.stack([SMALL.recipe(i).picture() for i in range(24)])
    np.testing.assert_allclose(pictures.mean((0, 2, 3)), SMALL.mean, atol=0.03)
    np.testing.assert_allclose(pictures.std((0, 2, 3)), SMALL.std, atol=0.03)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 1.0])
def test_the_letter_follows_the_label_as_rho_says(rho: float) -> None:
    n = 3000
    data = LesionLab(n_images=n, marker="letter", rho=rho)
    recipes = [data.recipe(i) for i in range(n)]
    for ill, wanted in ((True, 0.5 + rho / 2), (False, 0.5 - rho / 2)):
        shown = np.array([r.marker for r in recipes if r.ill is ill])
        assert abs(shown.mean() - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / len(shown))
    assert np.mean([r.ill for r in recipes]) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / n))


def test_the_marker_touches_neither_lesions_nor_labels() -> None:
    plain, marked = (LesionLab(n_images=8, marker=m, rho=r) for m, r in (("none", 0.0), ("letter", 0.9)))
    for i in range(8):
        a, b = plain[i], marked[i].alternatives["without marker"]()
        assert torch.equal(a.input, b.input)
        assert (a.label, a.meta["lesions"]) == (b.label, b.meta["lesions"])
        assert "marker" not in a.zones
        assert "with marker" not in a.alternatives


def test_prevalence_moves_labels_only() -> None:
    often = LesionLab(n_images=400, knobs={"prevalence": 0.8})
    assert np.mean([often.facts(i).label for i in range(400)]) == pytest.approx(0.8, abs=0.08)


def test_alternatives_change_the_one_thing_they_name() -> None:
    checked = 0
    for i in range(24):
        sample = SMALL[i]
        numbers = [entry["number"] for entry in sample.meta["lesions"]]
        for k in numbers:
            changed = sample.alternatives[f"without lesion:{k}"]()
            differs = (changed.input != sample.input).any(0)
            assert differs.any()
            assert not (differs & ~sample.zones[f"effect:{k}"]).any()
            assert [entry["number"] for entry in changed.meta["lesions"]] == [j for j in numbers if j != k]
            assert changed.label == int(len(numbers) > 1)
            assert changed.meta["marker"] == sample.meta["marker"]
            checked += 1
        with_, without = (sample.alternatives[f"{w} marker"]() for w in ("with", "without"))
        same, other = (with_, without) if sample.meta["marker"] else (without, with_)
        assert torch.equal(same.input, sample.input)
        differs = (other.input != sample.input).any(0)
        assert differs.any()
        assert not (differs & ~sample.zones["marker"]).any()
        assert with_.label == without.label == sample.label
    assert checked > 20


def test_all_lesions_out_is_one_by_one_out_and_healthy() -> None:
    sample = next(s for s in (SMALL[i] for i in range(24)) if len(s.meta["lesions"]) >= 3)
    step = sample
    for entry in sample.meta["lesions"]:
        step = step.alternatives[f"without lesion:{entry['number']}"]()
    whole = sample.alternatives["without lesions"]()
    assert torch.equal(step.input, whole.input)
    assert whole.label == 0
    assert not whole.mask.any()
    assert "without lesions" not in whole.alternatives


def test_recipes_are_small_pickles_that_render_the_same() -> None:
    sample = SMALL[2]
    for recipe in sample.alternatives.values():
        packed = pickle.dumps(recipe)
        assert len(packed) < 2000
        assert torch.equal(pickle.loads(packed)().input, recipe().input)
    assert torch.equal(pickle.loads(pickle.dumps(SMALL))[2].input, sample.input)


def test_distractors_do_not_depend_on_the_label() -> None:
    recipe = SMALL.recipe(0)
    ill, healthy = replace(recipe, ill=True)(), replace(recipe, ill=False)()
    assert ill.meta["distractors"] == healthy.meta["distractors"]
    assert torch.equal(ill.zones["distractors"], healthy.zones["distractors"])


def test_patients_have_one_to_four_images_of_one_anatomy() -> None:
    data = LesionLab(n_images=300)
    groups = [data.facts(i).group for i in range(300)]
    assert set(np.unique(groups, return_counts=True)[1]) == {1, 2, 3, 4}
    assert groups == sorted(groups)
    roots = {(r.group, r.patient) for r in (data.recipe(i) for i in range(300))}
    assert len(roots) == len(set(groups))


def test_splits_and_seeds_share_no_patient() -> None:
    sets = [LesionLab(n_images=200, split=s, seed=k) for s in ("train", "val", "test") for k in (0, 1)]
    roots = [{d.recipe(i).patient for i in range(200)} for d in sets]
    groups = [{d.facts(i).group for i in range(200)} for d in sets]
    for i in range(len(sets)):
        for j in range(i):
            assert not roots[i] & roots[j]
            assert not groups[i] & groups[j]


def test_a_larger_set_starts_with_the_smaller_one() -> None:
    small, large = LesionLab(n_images=7), LesionLab(n_images=50)
    assert [small.recipe(i) for i in range(7)] == [large.recipe(i) for i in range(7)]


@pytest.mark.parametrize(("preset", "wanted", "slack"), [("easy", 0.0067, 0.002), ("hard", 0.0009, 0.0003)])
def test_lesions_cover_what_the_preset_says(preset: str, wanted: float, slack: float) -> None:
    data = LesionLab(n_images=160, preset=preset)
    shares = [data.recipe(i)().mask.float().mean().item() for i in range(160) if data.facts(i).label]
    assert np.mean(shares) == pytest.approx(wanted, abs=slack)


def test_the_fingerprint_knows_every_option() -> None:
    changes = [
        {"n_images": 25}, {"size": 64}, {"seed": 1}, {"preset": "hard"}, {"rho": 0.4}, {"split": "val"},
        {"knobs": {"diameter": 2.0}}, {"normalise": ((0.5,) * 3, (0.5,) * 3)},
    ]  # fmt: skip
    base = {"n_images": 24, "marker": "letter", "rho": 0.5}
    prints = [LesionLab(**{**base, **c}).fingerprint for c in changes]
    assert len({SMALL.fingerprint, *prints}) == len(changes) + 1
    assert LesionLab(**base).fingerprint == SMALL.fingerprint


def test_sizes_up_to_512_show_the_same_scene() -> None:
    coarse, fine = (LesionLab(n_images=1, size=n, knobs={"prevalence": 1.0})[0] for n in (128, 512))
    assert coarse.meta["lesions"] == fine.meta["lesions"]
    shrunk = fine.image.reshape(128, 4, 128, 4, 3).mean((1, 3))
    inside = coarse.zones["field"].numpy()
    assert np.corrcoef(shrunk[inside].ravel(), coarse.image[inside].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"n_image": 3}, "n_images"), ({"diametre": 3}, "diameter"), ({"preset": "eazy"}, "easy"),
        ({"marker": "leter"}, "letter"), ({"split": "tset"}, "test"), ({"types": ("hemorrhage",)}, "haemorrhage"),
    ],
)  # fmt: skip
def test_a_wrong_word_names_the_nearest(options: dict, hint: str) -> None:
    with pytest.raises(OptionError, match=hint):
        lesionlab("lesionlab:fundus", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 100}, {"size": 32}, {"n_images": 0}, {"rho": 1.5, "marker": "letter"}, {"rho": 0.5}, {"seed": -1},
        {"lesions": (3, 2)}, {"diameter": 0}, {"contrast": 2}, {"prevalence": 1.1}, {"normalise": ((0.5,), (0.5,))},
    ],
)  # fmt: skip
def test_impossible_values_are_refused(options: dict) -> None:
    with pytest.raises(OptionError) as caught:
        lesionlab("lesionlab:fundus", **options)
    assert caught.value.why
    assert caught.value.hint


def test_the_source_names_the_kind() -> None:
    assert lesionlab("lesionlab:fundus", n_images=3, diameter=2.0).knobs == Knobs(diameter=2.0)
    with pytest.raises(BadInput, match="fundus"):
        lesionlab("lesionlab:fundos")
