"""Texts hold no number that the explanation does not hold, and say plainly what it does not show."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid as pl
from pellucid.chance import Null
from pellucid.errors import OptionError
from pellucid.explanation import Explanation
from pellucid.render.words import AUDIENCES, LANGUAGES
from pellucid.spatial import Geometry
from pellucid.targets import Target
from pellucid.trials import Erased, Spread
from render.words.kit import held, printed, unheld

NAMES = ("healthy", "exudate", "drusen 2")
CALLED = (*NAMES, "class 2", "Klasse 2")  # classes, with or without names
GRIDS = {1: (16,), 2: (6, 7), 3: (4, 5, 6)}
FORMS = [(audience, language) for audience in AUDIENCES for language in LANGUAGES]


def one(cells: Tensor, target: Target | None = None, logits: Tensor | None = None, **facts: Any) -> Explanation:
    """One explained input; by default the log-odds of exudate against healthy."""
    size = tuple(8 * n for n in cells.shape)
    score = cells.sum().reshape(1) + 0.3
    logits = torch.stack([-score / 2, score / 2], 1) if logits is None else logits
    target = target or pl.ContrastTarget(torch.tensor([1]), torch.tensor([0]))
    given = {"complete": True, "constant": torch.tensor([0.3]), "classes": NAMES, **facts}
    return Explanation(cells[None], Geometry.unregistered(cells.shape, size), target, target(logits), logits, "evidence", **given)  # fmt: skip


def spread_of(e: Explanation, maps: Tensor, probabilities: Tensor | None = None) -> Spread:
    """maps: (members, *grid)."""
    scores = maps.flatten(1).sum(1)[None]
    known = scores.sigmoid() if probabilities is None else probabilities
    return Spread("views", tuple(f"view {k}" for k in range(len(maps))), maps[None], scores, known)


def null_of(e: Explanation, strongest: float, positive: float) -> Null:
    """Nineteen surrogates, all of these sizes."""
    seen = e.map.double().flatten(1)
    columns = [(seen.abs().amax(1), strongest), (seen.clamp_min(0).sum(1), positive)]
    return Null(
        "phases", *(torch.cat([own[:, None], torch.full((1, 19), other).double()], 1) for own, other in columns)
    )


# --- every number is in the explanation ---------------------------------------------------------------------------------


@cache
def known(seed: int) -> list[float]:
    return [v for v in held(drawn(seed)) if not math.isnan(v)]


@cache
def drawn(seed: int) -> Explanation:
    """A random explanation: any rank, target and size of evidence, with or without what may stand beside it."""
    g = torch.Generator().manual_seed(seed)

    def chance(p: float) -> bool:
        return bool(torch.rand((), generator=g) < p)

    grid = GRIDS[int(torch.randint(1, 4, (), generator=g))]
    cells = torch.randn(grid, generator=g) * 10 ** float(torch.rand((), generator=g) * 3 - 2)
    cells = cells * (torch.rand(grid, generator=g) < float(torch.rand((), generator=g)))
    three, single = torch.randn(1, 3, generator=g) * 3, torch.randn(1, 1, generator=g) * 3
    kinds: list[tuple[Target | None, Tensor | None, str]] = [
        (None, None, "multiclass"), (pl.ClassTarget(torch.tensor([2])), three, "multiclass"), (pl.OneVsRestTarget(torch.tensor([1])), three, "multiclass"),
        (pl.ClassTarget(torch.tensor([0])), three, "multilabel"), (pl.SingleLogitTarget(torch.tensor([True])), single, "binary"),
        (pl.RegressionTarget(0), single, "regression"), (pl.ContrastTarget(torch.tensor([2]), torch.tensor([0])), three, "multiclass"),
    ]  # fmt: skip
    target, logits, task = kinds[int(torch.randint(len(kinds), (), generator=g))]
    names = NAMES if chance(0.7) else None
    e = one(cells, target, logits, complete=chance(0.8), classes=names, provenance={"task": task})
    if chance(0.4):
        e = replace(e, null=null_of(e, *(float(v) for v in torch.rand(2, generator=g) * cells.abs().max() * 2)))
    if chance(0.4):
        maps = cells + torch.randn(5, *grid, generator=g) * cells.abs().mean() * chance(0.8)
        maps[1].flatten()[0] = torch.nan
        e = replace(e, spread=spread_of(e, torch.cat([cells[None], maps])))
        known = e.probabilities()
        if known is None and e.spread is not None:
            e = replace(e, spread=replace(e.spread, probabilities=torch.full((1, 6), torch.nan)))
    if chance(0.4):
        score = torch.randn(1, 1, generator=g) * 3
        e = replace(e, erased=Erased(score, score.sigmoid() if e.in_log_odds else torch.full((1, 1), torch.nan)))
    return e


@pytest.mark.parametrize(("audience", "language"), FORMS)
def test_every_number_is_in_the_explanation(audience: Any, language: Any) -> None:
    numbers = 0
    for seed in range(100):
        text = drawn(seed).text(audience, language)
        assert not unheld(text, known(seed), CALLED), (seed, text)
        numbers += len(printed(text, NAMES))
    assert numbers > (100 if audience == "short" else 400)


@pytest.mark.parametrize(("audience", "language"), FORMS)
def test_a_number_of_another_explanation_is_noticed(audience: Any, language: Any) -> None:
    """The test above can fail: most texts do not fit the explanation of another map."""
    texts = [(drawn(seed).text(audience, language), known(seed + 1)) for seed in range(60)]
    foreign = [bool(unheld(text, other, CALLED)) for text, other in texts if printed(text, NAMES)]
    assert sum(foreign) > 0.8 * len(foreign)


# --- by hand --------------------------------------------------------------------------------------------------------------


def spotted() -> Tensor:
    cells = torch.zeros(8, 8)
    cells[0, :2], cells[6, 6], cells[3, 3] = torch.tensor([1.2, 0.7]), 0.7, -0.5
    return cells


def test_the_professional_form_by_hand() -> None:
    e = one(spotted())  # score 2.4, without the first region 0.5
    assert e.text("professional") == (
        "The network leans to “exudate”, probability 0.92. Two regions carry 100% of the evidence for it: "
        "upper left, 1.90 of 2.60; lower right, 0.70. Without the first the probability would be about 0.62. "
        "Evidence of 0.50 speaks against it. Left and right are those of the picture."
    )
    assert e.text("professional", "de") == (
        "Das Netz neigt zu „exudate“, Wahrscheinlichkeit 0,92. Zwei Bereiche tragen 100\u00a0% der Evidenz dafür: "
        "oben links, 1,90 von 2,60; unten rechts, 0,70. Ohne den ersten Bereich wäre die Wahrscheinlichkeit etwa 0,62. "
        "Evidenz von 0,50 spricht dagegen. Links und rechts sind die Seiten des Bildes."
    )


def test_the_short_form_by_hand() -> None:
    e = one(spotted())
    assert e.text("short").startswith(
        "The computer's answer is “exudate”. It gives this a probability of 92%. "
        "What speaks for it lies mainly in two places in the picture: upper left; lower right."
    )
    assert "92\u00a0%. Was dafür spricht, liegt vor allem an zwei Stellen im Bild: oben links; unten rechts." in e.text("short", "de")  # fmt: skip


def test_one_region_is_told_in_the_singular() -> None:
    cells = torch.zeros(8, 8)
    cells[4, 0] = 2.0
    e = one(cells)
    assert "One region carries 100% of the evidence for it: left (+2.00)." in e.text()
    assert "Ein Bereich trägt 100\u00a0% der Evidenz dafür: links (+2,00)." in e.text(language="de")
    assert "Without it the probability would be about 0.57." in e.text("professional")
    assert "an einer Stelle" not in e.text("professional", "de")
    assert "liegt vor allem an einer Stelle im Bild: links." in e.text("short", "de")


def test_what_was_measured_is_told_only_where_it_was() -> None:
    e = one(spotted())
    measured = replace(e, erased=Erased(torch.tensor([[0.45]]), torch.tensor([[0.61]])))
    for language, words in (("en", "measured by erasing it: 0.61"), ("de", "gemessen durch Löschen: 0,61")):
        assert words in measured.text("professional", language)
        assert words.split(":")[0] not in e.text("professional", language)
    assert "does less" not in measured.text("professional")
    idle = replace(e, erased=Erased(torch.tensor([[2.3]]), torch.tensor([[0.91]])))
    assert "The region does less than its evidence says" in idle.text("professional")
    assert "changes less than expected" in idle.text("short")


def test_only_complete_maps_predict() -> None:
    e = one(spotted(), complete=False)
    assert "Without" not in e.text("professional")
    assert "upper left" in e.text("professional")
    assert "The place that mattered most in the picture: upper left." in e.text("short")


def test_uncertainty_is_said_plainly() -> None:
    cells = torch.zeros(8, 8)
    cells[0, 0] = -0.2
    cells[7, 7] = 0.1
    e = one(cells)  # log-odds 0.2
    assert "It is close to undecided." in e.text("professional")
    assert "Es ist fast unentschieden." in e.text("short", "de")
    assert "undecided" not in one(spotted()).text("professional")


def test_without_positive_evidence_no_place_is_named() -> None:
    e = one(-spotted().abs())
    assert "The network does not lean to “exudate”" in e.text("professional")
    assert "No positive evidence." in e.text("professional")
    assert "Keine positive Evidenz." in e.text("professional", "de")
    assert "No place in the picture speaks for it." in e.text("short")
    assert all("left" not in e.text(audience) for audience in AUDIENCES)


def test_below_chance_no_place_is_named() -> None:
    e = one(spotted())
    gone, faint, clear = (replace(e, null=null_of(e, *sizes)) for sizes in ((5.0, 9.0), (5.0, 0.1), (0.1, 0.1)))
    for form, words in (("en", "No evidence above chance at this layer"), ("de", "Keine Evidenz über dem Zufall")):
        assert words in gone.text("professional", form)  # type: ignore[arg-type]
    assert "No single place is above chance" in faint.text("professional")
    assert "cannot be told from chance" in gone.text("short")
    for told in (gone, faint):
        assert "left" not in told.text("professional") + told.text("short")
    assert "upper left" in clear.text("professional")


def test_only_places_that_members_agree_on_are_named() -> None:
    cells = spotted()
    turned = cells.clone()
    turned[6, 6] = -0.7  # lower right is not agreed on
    e = one(cells)
    shaky = replace(e, spread=spread_of(e, torch.stack([cells, turned, cells])))
    assert "lower right" not in shaky.text("professional")
    assert "upper left, 1.90 of 2.60" in shaky.text("professional")
    assert "3 views of this input agree on the sign of 77% of the evidence" in shaky.text("professional")  # 2.4 of 3.1
    gone = replace(e, spread=spread_of(e, torch.stack([cells, -cells, cells])))
    assert "Nowhere do they agree: no place is named." in gone.text("professional")
    assert "none is named" in gone.text("short")
    assert "No region that speaks for it is settled" in gone.text("technical")


def test_small_regions_and_wide_ones() -> None:
    cells = torch.zeros(8, 8)
    cells[1:6, 1:6] = 0.1
    cells[7, 7] = 0.05  # two percent of the evidence
    e = one(cells)
    assert "across 39% of the cells in the picture" in e.text("professional")
    assert "lower right" not in e.text("professional")
    assert "has no main place" in e.text("short")
    assert "lower right" in e.text()


def test_certain_probabilities_are_not_rounded_to_certainty() -> None:
    cells = torch.zeros(8, 8)
    cells[0, 0] = 9.0
    e = one(cells)
    assert "probability more than 0.99." in e.text("professional")
    assert "probability of more than 99%." in e.text("short")
    assert "weniger als 1\u00a0%" in one(-cells).text("short", "de")


def test_unknown_forms_are_refused() -> None:
    e = one(spotted())
    with pytest.raises(OptionError, match="Did you mean 'technical'"):
        e.text("tecnical")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="Known: en, de"):
        e.text(language="fr")  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_tasks_without_one_of_many(task: str) -> None:
    def make(logit: float) -> Explanation:
        logits = torch.tensor([[logit, 9.0, 1.0]])
        return one(spotted(), pl.ClassTarget(torch.tensor([0])), logits, provenance={"task": task})

    if task == "multilabel":  # each label has a yes and a no of its own
        assert "leans to “healthy”" in make(1.0).text("professional")
        assert "does not lean" in make(-1.0).text("professional")
    else:
        assert "The network estimates “healthy”: 1.00." in make(1.0).text("professional")
        assert "probability" not in make(1.0).text("professional")
