"""The study of the paper's claim: who is compared with whom, on what, and how corrected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.claim import PAPER, PLAIN, VARIANTS
from scipy import stats
from torch import nn

import pellucid as pl
from benchmarks import claim
from pellucid.record import Prediction, Record, Table
from pellucid.sample import Facts

OURS, RESNET = "early tap, stride 16", "ResNet-18, local trunk, stride 8"


def scored(variant: str, mass: list[float], agreement: list[float], method: str = "evidence") -> Table:
    """Of patients 0, 1, ..., one image each."""
    named = (("relevance_mass", "over_area", mass), ("effect_agreement", "", agreement), ("deletion", "log_odds", mass))
    return Table(
        tuple(
            Record(f"s{i}", f"p{i}", variant, method, metric, part, value=value)
            for metric, part, values in named
            for i, value in enumerate(values)
        )
    )


def predicted(variant: str, answers: list[float]) -> Table:
    return Table((), tuple(Prediction(f"s{i}", f"p{i}", variant, i % 2, (1 - p, p)) for i, p in enumerate(answers)))


def test_only_the_primary_scores_of_the_evidence_are_compared_and_corrected_together() -> None:
    drawn = np.random.default_rng(0).normal(0.5, 1, (2, 40))
    zero = [0.0] * 40
    found = {
        PLAIN: scored(PLAIN, zero, zero),
        PAPER: scored(PAPER, zero, zero),
        OURS: Table((*scored(OURS, *drawn.tolist()).records, *scored(OURS, zero, zero, "random_map").records)),
        "frozen, linear probe": scored("frozen, linear probe", zero, zero),
    }
    made = claim.against_the_paper(found)
    assert [(c.first, c.second, c.metric) for c in made] == [
        (OURS, PAPER, "relevance_mass"),
        (OURS, PAPER, "effect_agreement"),
    ]
    for c, values in zip(made, drawn, strict=True):
        assert c.difference.mean == pytest.approx(values.mean())
        assert c.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)
    low, high = sorted(c.p_value for c in made)
    assert sorted(c.adjusted or 0 for c in made) == pytest.approx([min(1, 2 * low), min(1, max(2 * low, high))])


def test_differences_are_told_for_every_training_and_drawn() -> None:
    ones, zero = [1.0, 2.0, 3.0, 4.0], [0.0] * 4
    again = {k: replace(r, seed=1) for k, r in enumerate(scored(OURS, zero, ones).records)}
    paper = {k: replace(r, seed=1) for k, r in enumerate(scored(PAPER, zero, zero).records)}
    by_seed = {
        PAPER: {0: scored(PAPER, zero, zero), 1: Table(tuple(paper.values()))},
        OURS: {0: scored(OURS, ones, zero), 1: Table(tuple(again.values()))},
    }
    found = claim.measured(by_seed)
    mass, agreement = claim.comparisons(found)
    assert "1.250 [" in mass
    assert mass.endswith("; by training 2.500, 0.000")
    assert agreement.endswith("; by training 0.000, 2.500")
    assert found.trainings == {PAPER: 2, OURS: 2}
    drawn = claim.figures({"toys": found})
    assert set(drawn) == {"study-relevance-mass", "study-effect-agreement"}
    assert all(b"early tap, stride 16" in content for content in drawn.values())
    assert "### toys" in claim.page({"toys": found})


def test_another_network_is_compared_with_its_own_kind() -> None:
    paper = claim.alike(RESNET, PAPER)
    assert paper == "ResNet-18, the paper's penalty"
    assert claim.alike(OURS, PAPER) == PAPER
    found = {PAPER: scored(PAPER, [5.0] * 4, [5.0] * 4), RESNET: scored(RESNET, [3.0] * 4, [1.0] * 4)}
    assert claim.against_the_paper(found) == []
    found[paper] = scored(paper, [1.0] * 4, [1.0] * 4)
    assert [(c.second, c.difference.mean) for c in claim.against_the_paper(found)] == [(paper, 2.0), (paper, 0.0)]


def test_performance_is_set_against_no_penalty_with_a_verdict() -> None:
    generator = np.random.default_rng(1)
    answers = [float(np.clip(0.2 + 0.6 * (i % 2) + generator.normal(0, 0.2), 0.01, 0.99)) for i in range(60)]
    told = {PLAIN: answers, OURS: answers, "log-sum 0.05": [1 - a for a in answers]}
    found = claim.measured({name: {0: predicted(name, given)} for name, given in told.items()})
    rows = claim.performance(found)
    assert rows[2].endswith("| - |  |")
    assert "non-inferior (n 60, half-width 0.000)" in rows[3]
    assert "| inferior (n 60" in rows[4]
    assert set(claim.figures({"toys": found})) == {"study-auc"}


def test_differences_of_the_area_are_told_for_every_training() -> None:
    """One training that orders all rightly and one that orders all wrongly: -0.5 +- Student's t of two."""
    right, wrong = [0.1 + 0.8 * (i % 2) for i in range(60)], [0.9 - 0.8 * (i % 2) for i in range(60)]

    def two(name: str, second: list[float]) -> dict[int, Table]:
        again = tuple(replace(p, seed=1) for p in predicted(name, second).predictions)
        return {0: predicted(name, right), 1: Table((), again)}

    found = claim.measured({PLAIN: two(PLAIN, right), OURS: two(OURS, wrong)})
    half = stats.t.ppf(0.975, 1) * 0.5  # the standard error of 0 and -1
    assert (
        f"; by training 0.000, -1.000, mean -0.500 [{-0.5 - half:.3f}, {-0.5 + half:.3f}]"
        in claim.performance(found)[3]
    )


def test_folds_never_share_a_patient() -> None:
    class Images:
        classes, fingerprint = ("a", "b"), "three of each of 20 patients"

        def __len__(self) -> int:
            return 60

        def facts(self, index: int) -> Facts:
            return Facts(str(index), index // 3 % 2, f"p{index // 3}")

    parts = claim._folded(Images())  # type: ignore[arg-type]
    seen = [{p.test.facts(i).group for i in range(len(p.test))} for p in parts]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 20
    for part, test in zip(parts, seen, strict=True):
        assert not test & {part.train.facts(i).group for i in range(len(part.train))}


@pytest.mark.parametrize("variant", ["local trunk, stride 8", "ResNet-18, local trunk, stride 8"])
def test_local_trunks_of_the_study_have_cells_every_8_samples(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "WEIGHTS", None)
    x = torch.randn(2, 3, 128, 128)
    network: nn.Module = VARIANTS[variant].network(2, x)
    found = pl.explain(network, x)
    assert found.map.shape[-2:] == (16, 16)
    assert found.geometry.jump == (8.0, 8.0)
    assert found.geometry.receptive_field == ((59.0, 59.0) if variant.startswith("local") else (99.0, 99.0))


def test_a_cell_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = {claim.Cell(s, v, k).folder(tmp_path) for s in claim.SETS for v in VARIANTS for k in range(2)}
    assert len(folders) == len(claim.SETS) * len(VARIANTS) * 2


def test_what_is_explained_stays_when_more_is_compared() -> None:
    assert claim._spread(range(10), None) == claim._spread(range(10), 10) == tuple(range(10))
    assert claim._spread(range(2000), 4) == (0, 500, 1000, 1500)
    assert claim._spread([3, 5, 8, 9], 2) == (3, 8)
    assert claim._spread(range(5), 0) == ()
