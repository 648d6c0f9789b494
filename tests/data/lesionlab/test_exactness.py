"""What makes the counterfactuals exact, for every kind of picture, lesion, distractor, marker and camera."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from pellucid.data.lesionlab import DISTRACTOR_TYPES, KINDS, LESION_TYPES, LesionLab
from pellucid.sample import Sample

every_kind = pytest.mark.parametrize("kind", KINDS)

CASES: dict[str, dict[str, Any]] = {
    "easy": {},
    "hard": {"preset": "hard"},
    "other lens": {"marker": "blur", "rho": 0.9},
    "other film": {"marker": "gamma", "rho": 0.9},
    "told apart": {"knobs": {"contrast_to_noise": 1.0, "diameter_over_stride": 1.0}},
    "texture": {"knobs": {"cue": "texture"}},
    "shape": {"knobs": {"cue": "shape", "suppressor": 0.4}},
    "crowded": {"knobs": {"prior": "fixed", "lesions": (5, 9), "contrast": 0.6}},
    "shifted": {"knobs": {"prior": "anatomical", "camera": 0.7, "gamma": 1.4, "noise": 2.0}},
}


def many(kind: str, n: int, size: int = 64, **options: Any) -> list[Sample]:
    data = LesionLab(kind, n_images=n, size=size, **options)
    return [data[i] for i in range(n)]


def differs(sample: Sample, name: str) -> torch.Tensor:
    return (sample.alternatives[name]().input != sample.input).any(0)


@every_kind
@pytest.mark.parametrize("case", CASES)
def test_leaving_a_lesion_out_changes_no_bit_outside_its_effect_zone(kind: str, case: str) -> None:
    checked = 0
    for sample in many(kind, 8, **CASES[case]):
        for entry in sample.meta["lesions"]:
            k = entry["number"]
            changed, zone, mask = (
                differs(sample, f"without lesion:{k}"),
                sample.zones[f"effect:{k}"],
                sample.zones[f"lesion:{k}"],
            )
            assert changed.any()
            assert not (changed & ~zone).any(), entry
            assert mask.any()
            assert not (mask & ~zone).any()
            checked += 1
    assert checked >= 5


@every_kind
def test_every_type_of_lesion_and_distractor_changes_its_own_zone_only(kind: str) -> None:
    knobs = {
        "types": LESION_TYPES[kind], "distractor_types": DISTRACTOR_TYPES[kind], "distractors": 5.0, "lesions": (3, 6), "prevalence": 1.0,
    }  # fmt: skip
    data, seen = LesionLab(kind, n_images=14, size=128, knobs=knobs), Counter[str]()
    for i in range(14):
        sample, scene = data[i], data.recipe(i).scene()
        for noun, parts in (("lesion", scene.lesions), ("distractor", scene.distractors)):
            for k, part in enumerate(parts):
                zone = scene.effect(k, ()) if noun == "lesion" else part.effect(128, scene.spread)
                changed = differs(sample, f"without {noun}:{k}").numpy()
                assert not (changed & ~zone).any(), (i, part.kind)
                seen[part.kind] += bool(changed.any())
    assert set(seen) == {*LESION_TYPES[kind], *DISTRACTOR_TYPES[kind]}
    assert min(seen.values()) > 2


def test_a_tear_moves_its_columns_and_is_seen_at_their_edges() -> None:
    knobs = {"distractor_types": ("motion_tear",), "distractors": 1.0, "prevalence": 0.0}
    data, tears = LesionLab("oct", n_images=12, size=128, knobs=knobs), 0
    for i in range(12):
        sample, scene = data[i], data.recipe(i).scene()
        if len(scene.distractors) != 1:
            continue
        (tear,) = scene.distractors
        columns = np.flatnonzero(differs(sample, "without distractor:0").any(0))
        assert abs(columns[0] - tear.columns.start) <= 2
        assert abs(columns[-1] - tear.columns.stop) <= 2
        seen = np.flatnonzero(sample.zones["distractor:0"].any(0))
        assert set(seen) == {tear.columns.start - 1, tear.columns.start, tear.columns.stop - 1, tear.columns.stop}
        tears += 1
    assert tears > 2


@every_kind
def test_a_lesion_changes_its_mask_most(kind: str) -> None:
    inside, around = [], []
    for sample in many(kind, 10, size=128):
        for entry in sample.meta["lesions"]:
            k = entry["number"]
            change = (sample.alternatives[f"without lesion:{k}"]().input - sample.input).abs().amax(0)
            mask = sample.zones[f"lesion:{k}"]
            inside.append(change[mask].mean().item())
            around.append(change[sample.zones[f"effect:{k}"] & ~mask].mean().item())
    assert np.mean(inside) > 2 * np.mean(around)


@every_kind
def test_masks_are_where_the_opacity_exceeds_one_half_of_its_gain(kind: str) -> None:
    data = LesionLab(kind, n_images=8, size=64, knobs={"prevalence": 1.0, "contrast": 0.8})
    for i in range(8):
        sample, recipe = data[i], data.recipe(i)
        for name, soft in recipe.opacities().items():
            assert 0 <= soft.min() <= soft.max() <= 0.8 + 1e-6
            np.testing.assert_array_equal(sample.zones[name].numpy(), soft > np.float32(0.5) * np.float32(0.8))


@every_kind
def test_a_background_drawn_anew_stays_in_its_tile_and_is_no_different_in_kind(kind: str) -> None:
    before, after = [], []
    data = LesionLab(kind, n_images=12, size=128, knobs={"prevalence": 0.0, "distractors": 0.0})
    for i in range(12):
        sample, recipe = data[i], data.recipe(i)
        for k, tile in enumerate(recipe.scene().contents.tiles):
            zone = sample.zones[f"background:{k}"].numpy()
            assert zone.any()
            changed = differs(sample, f"without background:{k}").numpy()
            reach = np.zeros_like(zone)
            reach[tile.slices] = True
            assert changed.any()
            assert not (changed & ~ndimage.binary_dilation(reach, np.ones((5, 5)))).any()
            other = replace(recipe, without=frozenset({f"background:{k}"})).picture()[0][zone]
            before.append(recipe.picture()[0][zone])
            after.append(other)
    old, new = (np.array([v.mean() for v in values]) for values in (before, after))
    assert abs(np.mean(new - old)) < 4 * np.std(new - old) / np.sqrt(len(old))
    assert np.mean([v.std() for v in after]) == pytest.approx(np.mean([v.std() for v in before]), rel=0.1)


@every_kind
def test_backgrounds_lie_off_the_lesions_in_nearly_all_images(kind: str) -> None:
    met = [
        bool((sample.zones[name] & sample.mask).any())
        for sample in many(kind, 30, preset="hard")
        for name in sample.zones
        if name.startswith("background:")
    ]
    assert np.mean(met) < 0.05


@every_kind
def test_without_a_suppressor_the_gauge_alone_changes(kind: str) -> None:
    for sample in many(kind, 5, knobs={"suppressor": 0.5}):
        zone = ndimage.binary_dilation(sample.zones["suppressor"].numpy(), np.ones((5, 5)))
        changed = differs(sample, "without suppressor").numpy()
        assert changed.any()
        assert not (changed & ~zone).any()


@every_kind
def test_the_gauge_tells_the_brightness_and_neither_tells_the_label(kind: str) -> None:
    samples = many(kind, 60, knobs={"suppressor": 0.5, "distractors": 0.0})
    gauge = np.array([s.image[s.zones["suppressor"].numpy()].mean() for s in samples])
    told = np.array([s.meta["log_brightness"] for s in samples])
    clean = [s.alternatives["without lesions"]() if "without lesions" in s.alternatives else s for s in samples]
    bright = np.array([s.image[s.zones["field"].numpy()].mean() for s in clean])
    assert stats.spearmanr(gauge, told).statistic > 0.97
    assert stats.spearmanr(gauge, bright).statistic > 0.7
    assert stats.mannwhitneyu(*(told[[s.label == k for s in samples]] for k in (0, 1))).pvalue > 0.01


@every_kind
def test_all_but_the_lesions_is_the_same_whatever_the_label(kind: str) -> None:
    data = LesionLab(kind, n_images=6, size=64, marker="tag", knobs={"suppressor": 0.3})
    for i in range(6):
        recipe = data.recipe(i)
        ill, healthy = replace(recipe, ill=True)(), replace(recipe, ill=False)()
        assert ill.meta["distractors"] == healthy.meta["distractors"]
        assert torch.equal(ill.zones["distractors"], healthy.zones["distractors"])
        assert torch.equal(ill.alternatives["without lesions"]().input, healthy.input)


@every_kind
def test_places_do_not_depend_on_the_label_but_through_knobs(kind: str) -> None:
    data = LesionLab(kind, n_images=240, size=64, knobs={"distractors": 4.0})
    places: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    counts: dict[int, list[int]] = {0: [], 1: []}
    for i in range(240):
        recipe = data.recipe(i)
        found = recipe.scene().distractors
        places[int(recipe.ill)] += [part.centre for part in found]
        counts[int(recipe.ill)].append(len(found))
    for axis in (0, 1):
        assert stats.ks_2samp(*([p[axis] for p in places[k]] for k in (0, 1))).pvalue > 0.01
    assert stats.mannwhitneyu(counts[0], counts[1]).pvalue > 0.01


@every_kind
def test_components_have_streams_of_their_own(kind: str) -> None:
    base = {"prevalence": 1.0, "lesions": (4, 4), "distractors": 3.0}
    changes: list[dict[str, Any]] = [
        {"distractors": 0.0},
        {"suppressor": 0.3},
        {"label_noise": 0.4},
        {"gamma": 1.5},
        {"noise": 0.5},
    ]
    wanted = LesionLab(kind, n_images=3, size=64, knobs=base)
    for change in changes:
        data = LesionLab(kind, n_images=3, size=64, knobs={**base, **change})
        for i in range(3):
            a, b = wanted.recipe(i).scene(), data.recipe(i).scene()
            if change != {"distractors": 0.0}:
                assert [d.latent() for d in a.distractors] == [d.latent() for d in b.distractors]
                assert [p.latent() for p in a.lesions] == [p.latent() for p in b.lesions]
            assert [(p.kind, p.centre[0], p.radius) for p in a.lesions] == [
                (p.kind, p.centre[0], p.radius) for p in b.lesions
            ]
    few = LesionLab(kind, n_images=3, size=64, knobs={**base, "lesions": (2, 2)})
    for i in range(3):
        for a, b in zip(few.recipe(i).scene().lesions, wanted.recipe(i).scene().lesions, strict=False):
            assert a.latent() == b.latent()


def test_another_process_draws_the_same_bits() -> None:
    code = (
        "import hashlib, torch; from pellucid.data.lesionlab import LesionLab, KINDS\n"
        "for kind in KINDS:\n"
        "    data = LesionLab(kind, n_images=3, size=64, marker='tag', rho=.5)\n"
        "    print(hashlib.sha256(b''.join(data[i].input.numpy().tobytes() for i in range(3))).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(seed)
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0].split())) == 3


def environment(seed: str) -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
