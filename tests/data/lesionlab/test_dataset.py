"""LesionLab as a data set: labels, patients, shortcuts, recipes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pellucid.data.lesionlab import KINDS, MARKERS, Knobs, LesionLab, lesionlab
from pellucid.data.lesionlab.marker import VARIANTS, WITHOUT_PLACE
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset

SMALL = LesionLab(n_images=24, marker="letter", rho=0.5)
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize(
    "options",
    [
        {}, {"labels": "graded", "knobs": {"lesions": (1, 9), "label_noise": 0.2}}, {"knobs": {"rule": "count", "threshold": 4}},
        {"knobs": {"label_noise": 0.3}},
    ],
    ids=["plain", "graded", "count", "noise"],
)  # fmt: skip
def test_it_is_a_dataset_whose_facts_agree_with_its_samples(kind: str, options: dict) -> None:
    data = LesionLab(kind, n_images=24, size=64, **options)
    assert isinstance(data, Dataset)
    for i in range(len(data)):
        sample, facts = data[i], data.facts(i)
        assert (sample.name, sample.label, sample.group) == (facts.name, facts.label, facts.group)
        assert 0 <= sample.label < len(data.classes)
    assert len({data.facts(i).name for i in range(24)}) == 24
    with pytest.raises(IndexError):
        data[24]


@every_kind
def test_the_label_says_whether_there_are_lesions(kind: str) -> None:
    data = LesionLab(kind, n_images=24, size=64)
    for sample in (data[i] for i in range(24)):
        assert sample.label == sample.meta["true_label"] == int(bool(sample.meta["lesions"]))


@pytest.mark.parametrize("kind", ["oct", "xray"])
def test_grey_pictures_have_three_channels_alike_or_one(kind: str) -> None:
    three, one = LesionLab(kind, n_images=1, size=64)[0], LesionLab(kind, n_images=1, size=64, grey=True)[0]
    assert three.input.shape == (3, 64, 64)
    assert one.input.shape == (1, 64, 64)
    assert all(torch.equal(channel, one.input[0]) for channel in three.input)
    assert one.image.shape == (64, 64)
    with pytest.raises(OptionError, match="grey"):
        LesionLab("fundus", grey=True)


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


@every_kind
def test_the_constants_are_about_the_moments_of_the_pictures(kind: str) -> None:
    data = LesionLab(kind, n_images=24, grey=kind != "fundus")
    pictures = np.stack([data.recipe(i).picture() for i in range(24)])
    np.testing.assert_allclose(pictures.mean((0, 2, 3)), data.mean, atol=0.03)
    np.testing.assert_allclose(pictures.std((0, 2, 3)), data.std, atol=0.03)


@pytest.mark.parametrize(("kind", "marker"), [("fundus", "letter"), ("oct", "gamma"), ("xray", "device")])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.95, 1.0])
def test_the_marker_follows_the_label_as_rho_says(kind: str, marker: str, rho: float) -> None:
    n = 2000
    data = LesionLab(kind, n_images=n, marker=marker, rho=rho)
    recipes = [data.recipe(i) for i in range(n)]
    for ill, wanted in ((True, 0.5 + rho / 2), (False, 0.5 - rho / 2)):
        shown = np.array([r.marker for r in recipes if r.ill is ill])
        assert abs(shown.mean() - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / len(shown))
    assert np.mean([r.ill for r in recipes]) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / n))
    assert np.mean([r.marker for r in recipes]) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / n))


@every_kind
@pytest.mark.parametrize("marker", MARKERS)
def test_the_marker_touches_neither_lesions_nor_labels(kind: str, marker: str) -> None:
    plain, marked = (LesionLab(kind, n_images=4, size=64, marker=m, rho=r) for m, r in (("none", 0.0), (marker, 0.9)))
    for i in range(4):
        a, b = plain[i], marked[i].alternatives["without marker"]()
        assert torch.equal(a.input, b.input)
        assert (a.label, a.meta["lesions"]) == (b.label, b.meta["lesions"])
        assert "marker" not in a.zones
        assert "with marker" not in a.alternatives


@every_kind
@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_has_a_place_unless_it_changes_the_whole_picture(kind: str, marker: str) -> None:
    data = LesionLab(kind, n_images=4, size=64, marker=marker, rho=0.0)
    for sample in (data[i] for i in range(4)):
        with_, without = (sample.alternatives[f"{w} marker"]().input for w in ("with", "without"))
        changed = (with_ != without).any(0)
        assert ("marker" in sample.zones) == (marker not in WITHOUT_PLACE)
        assert ("with the other marker" in sample.alternatives) == (marker in VARIANTS)
        if marker in WITHOUT_PLACE:
            assert changed[sample.zones["field"]].float().mean() > 0.9
        else:
            other = sample.alternatives["with the other marker"]()
            assert 0 < changed.sum() < 0.12 * changed.numel()
            assert not (changed & ~sample.zones["marker"]).any()
            assert (other.input != with_).any()
            assert not ((other.input != without).any(0) & ~sample.zones["marker"]).any()
            assert torch.equal(other.alternatives["with the other marker"]().input, with_)


@every_kind
def test_a_device_lies_on_the_first_lesion_or_where_it_would_be(kind: str) -> None:
    data = LesionLab(kind, n_images=12, size=64, marker="device", knobs={"distractors": 0.0})
    for i in range(12):
        cells = {name: recipe() for name, recipe in data.recipe(i).two_by_two().items()}
        places = {name: sample.zones["marker"] for name, sample in cells.items()}
        assert all(torch.equal(place, places["both"]) for place in places.values())
        assert (places["both"] & cells["both"].zones["effect:0"]).any()


@every_kind
def test_two_by_two_is_one_scene_with_and_without_lesions_and_marker(kind: str) -> None:
    data = LesionLab(kind, n_images=6, size=64, marker="tag", rho=0.8)
    for i in range(6):
        cells = {name: recipe() for name, recipe in data.recipe(i).two_by_two().items()}
        assert [cells[name].label for name in ("both", "lesions", "marker", "none")] == [1, 1, 0, 0]
        assert torch.equal(cells["both"].alternatives["without lesions"]().input, cells["marker"].input)
        assert torch.equal(cells["both"].alternatives["without marker"]().input, cells["lesions"].input)
        assert torch.equal(cells["marker"].alternatives["without marker"]().input, cells["none"].input)


def test_prevalence_moves_labels_only() -> None:
    often = LesionLab(n_images=400, knobs={"prevalence": 0.8})
    assert np.mean([often.facts(i).label for i in range(400)]) == pytest.approx(0.8, abs=0.08)


def test_all_lesions_out_is_one_by_one_out_and_healthy() -> None:
    sample = next(s for s in (SMALL[i] for i in range(24)) if len(s.meta["lesions"]) >= 3)
    step = sample
    for entry in sample.meta["lesions"]:
        step = step.alternatives[f"without lesion:{entry['number']}"]()
    whole = sample.alternatives["without lesions"]()
    assert torch.equal(step.input, whole.input)
    for entry in sample.meta["lesions"]:
        one = sample.alternatives[f"only lesion:{entry['number']}"]()
        assert one.meta["lesions"] == [entry]
        assert torch.equal(one.alternatives["without lesions"]().input, whole.input)
    assert whole.label == 0
    assert not whole.mask.any()
    assert "without lesions" not in whole.alternatives


@every_kind
def test_recipes_are_small_pickles_that_render_the_same(kind: str) -> None:
    data = LesionLab(kind, n_images=3, size=64, marker="tag", knobs={"prevalence": 1.0, "suppressor": 0.2})
    sample = data[2]
    for recipe in sample.alternatives.values():
        packed = pickle.dumps(recipe)
        assert len(packed) < 2000
        assert torch.equal(pickle.loads(packed)().input, recipe().input)
    assert torch.equal(pickle.loads(pickle.dumps(data))[2].input, sample.input)


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


@pytest.mark.parametrize(
    ("preset", "wanted", "slack"), [("easy", 0.0067, 0.002), ("medium", 0.0024, 0.0008), ("hard", 0.0009, 0.0003)]
)
def test_lesions_cover_what_the_preset_says(preset: str, wanted: float, slack: float) -> None:
    data = LesionLab(n_images=160, preset=preset)
    shares = [data.recipe(i)().mask.float().mean().item() for i in range(160) if data.facts(i).label]
    assert np.mean(shares) == pytest.approx(wanted, abs=slack)


def test_the_fingerprint_knows_every_option() -> None:
    changes = [
        {"n_images": 25}, {"size": 64}, {"seed": 1}, {"preset": "hard"}, {"rho": 0.4}, {"split": "val"},
        {"knobs": {"diameter": 2.0}}, {"knobs": {"rule": "count"}}, {"kind": "xray"}, {"marker": "tag"}, {"labels": "graded"},
        {"normalise": ((0.5,) * 3, (0.5,) * 3)},
    ]  # fmt: skip
    base = {"n_images": 24, "marker": "letter", "rho": 0.5}
    prints = [LesionLab(**{**base, **c}).fingerprint for c in changes]
    assert len({SMALL.fingerprint, *prints}) == len(changes) + 1
    assert LesionLab(**base).fingerprint == SMALL.fingerprint


@every_kind
@pytest.mark.parametrize("n", [256, 512])
def test_sizes_up_to_512_show_the_same_scene(kind: str, n: int) -> None:
    coarse, fine = (
        LesionLab(kind, n_images=1, size=size, knobs={"prevalence": 1.0, "distractors": 0.0})[0] for size in (128, n)
    )
    for a, b in zip(coarse.meta["lesions"], fine.meta["lesions"], strict=True):
        assert a["type"] == b["type"]
        assert [a[k] for k in ("x", "y", "radius")] == pytest.approx([b[k] for k in ("x", "y", "radius")], abs=4)
    times = n // 128
    shrunk = fine.image.reshape(128, times, 128, times, -1).mean((1, 3))
    assert np.corrcoef(shrunk.ravel(), coarse.image.reshape(128, 128, -1).ravel())[0, 1] > (
        0.8 if kind == "oct" else 0.95
    )


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"n_image": 3}, "n_images"), ({"diametre": 3}, "diameter"), ({"preset": "eazy"}, "easy"),
        ({"marker": "leter"}, "letter"), ({"split": "tset"}, "test"), ({"types": ("hemorrhage",)}, "haemorrhage"),
        ({"distractor_types": ("dost",)}, "dust"), ({"labels": "grade"}, "graded"), ({"rule": "xr"}, "xor"), ({"cue": "textur"}, "texture"),
        ({"prior": "uniforn"}, "uniform"), ({"preset": "midium"}, "medium"),
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
        {"rule": "xor"}, {"rule": "conjunction", "types": ("haemorrhage", "hard_exudate"), "lesions": (1, 1)}, {"rule": "count", "lesions": (1, 2)},
        {"cue": "shape", "types": ("haemorrhage",)}, {"labels": "graded", "rule": "count"}, {"diameter_over_stride": 0}, {"contrast_to_noise": 0},
        {"label_noise": 0.7}, {"gamma": 0}, {"noise": -1}, {"camera": 2}, {"suppressor": -1}, {"stride": 0}, {"threshold": 0}, {"types": ()},
        {"distractor_types": ()}, {"distractors": 31}, {"heart_width": (0.6, 0.5)}, {"diameter": "large"}, {"diameter": True}, {"noise": float("nan")},
        {"lesions": (1, 2, 3)}, {"lesions": 1.5}, {"lesions": None}, {"stride": 7.5}, {"types": 3}, {"size": "128"}, {"size": None}, {"n_images": 2.5}, {"rho": "x"},
        {"normalise": 3}, {"normalise": ((0.5,) * 3, (0.0,) * 3)}, {"normalise": (("a",) * 3, (0.5,) * 3)}, {"knobs": 3},
    ],
)  # fmt: skip
def test_impossible_values_are_refused(options: dict) -> None:
    with pytest.raises(OptionError) as caught:
        lesionlab("lesionlab:fundus", **options)
    assert caught.value.why
    assert caught.value.hint


def test_values_may_be_written_in_several_ways() -> None:
    one, other = (
        lesionlab("lesionlab:oct", **options)
        for options in (
            {"lesions": 3, "types": "cyst", "diameter": 2, "heart_width": [0.5, 0.5]},
            {"lesions": (3, 3), "types": ["cyst"], "diameter": np.float64(2.0), "heart_width": 0.5},
        )
    )
    assert one == other
    assert one.fingerprint == other.fingerprint


def test_the_source_names_the_kind() -> None:
    assert lesionlab("lesionlab:fundus", n_images=3, diameter=2.0).knobs == Knobs(diameter=2.0)
    for kind in KINDS:
        data = lesionlab(f"lesionlab:{kind}", n_images=2, size=64)
        assert data.kind == kind
        assert data[0].name.startswith(kind)
    with pytest.raises(BadInput, match="fundus"):
        lesionlab("lesionlab:fundos")
