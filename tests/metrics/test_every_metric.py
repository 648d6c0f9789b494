"""What every metric in the registry owes to everyone, with arguments filled out of a case."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.contracts import Case
from pellucid.explanation import Explanation
from pellucid.methods import METHODS
from pellucid.metrics import METRICS
from pellucid.sample import Sample
from pellucid.targets import ClassTarget, ContrastTarget, Target
from reference.nets import GapNet, SelfExplaining, inputs


def case(rank: int, rows: slice, method: str = "evidence", contrast: bool = False) -> Case:
    model = SelfExplaining(GapNet(rank, classes=3)).double().eval()
    x = inputs(rank).double()[rows]
    mask = torch.zeros(x.shape[2:], dtype=torch.bool)
    mask[(slice(2, 9),) * rank] = True
    classes = torch.tensor([0, 2, 1])[rows]
    target: Target = ContrastTarget(1, 0) if contrast else ClassTarget(classes)
    call = Call(model, batch=len(x))
    found = METHODS[method](call, x, target)
    explanation = Explanation(
        map=found.map, geometry=found.geometry, target=found.target, score=found.target(found.output), logits=found.output,
        method=method, complete=found.complete, constant=found.constant, common=found.common,
    )  # fmt: skip
    samples = [
        Sample(v, mask=mask, label=int(c), zones=dict.fromkeys(PARTS, mask), alternatives=without(v))
        for v, c in zip(x, classes, strict=True)
    ]
    own = explanation.target

    def again(*, x: Tensor = x, model: nn.Module = model, target: Target = own) -> Explanation:
        with torch.enable_grad():
            return pl.explain(model, x, target, method=method)

    return Case(explanation, samples, x, call, own, torch.Generator().manual_seed(0), again=again)


def without(x: Tensor) -> dict[str, Any]:
    """The input rendered without parts of it, for metrics that measure effects."""
    edges = {name: x.clone() for name in PARTS}
    for k, changed in enumerate(edges.values()):
        changed[..., 3 * k : 3 * k + 3] += 1
    return {f"without {name}": partial(Sample, changed) for name, changed in edges.items()}


PARTS = ("marker", "lesions", "background:0")


def fitting(name: str, rank: int, rows: slice = slice(0, 3)) -> Case:
    """A case with what the metric needs: signs mean something on contrast maps only."""
    return case(rank, rows, contrast=METRICS[name].property == "consistency")


def scores(name: str, given: Case) -> dict[str, torch.Tensor]:
    metric: Any = METRICS[name].load()
    values = metric(**given.arguments(metric))
    return dict(values) if isinstance(values, Mapping) else {"": values}


PROPERTIES = (
    "localisation", "faithfulness", "robustness", "randomisation", "complexity", "completeness", "consistency",
)  # fmt: skip
# Parts that exist for some inputs only, by what they are.
PARTIAL = {("sign_consistency", "positive"), ("sign_consistency", "negative")}


@pytest.fixture(params=list(METRICS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_row_names_the_leaf(name: str) -> None:
    row = METRICS[name]
    function = row.load()
    assert row.path == f"pellucid.metrics.{name}:{name}"
    assert function.__doc__
    assert row.summary
    assert row.property in PROPERTIES
    fields = {f for f in dir(Case) if not f.startswith("_")} | set(Case.__dataclass_fields__)
    for parameter in inspect.signature(function).parameters.values():
        option = parameter.kind is parameter.KEYWORD_ONLY
        assert option or parameter.name in fields
        assert not option or parameter.default is not parameter.empty


def test_one_value_per_input_and_part_whatever_the_batch(name: str, rank: int) -> None:
    given = fitting(name, rank)
    kept = {f: getattr(given, f).clone() for f in ("x", "map", "pixels", "mask")}
    whole = scores(name, given)
    assert tuple(whole) == METRICS[name].parts
    for i in range(3):
        one = scores(name, fitting(name, rank, slice(i, i + 1)))
        for part, values in whole.items():
            assert values.shape == (3,)
            assert bool(values.isfinite().all()) or (name, part) in PARTIAL
            assert one[part].tolist() == pytest.approx(values[i : i + 1].tolist(), abs=1e-9, nan_ok=True)
    assert all(torch.equal(getattr(given, f), value) for f, value in kept.items())


def test_truth_scores_better_than_its_opposite(rank: int) -> None:
    """For localisation, the mask itself as a map is the best there is, and its negative the worst."""
    given = case(rank, slice(0, 3))
    truth = given.mask.double()
    for name, row in METRICS.items():
        if row.property == "localisation":
            metric = row.load()
            best, worst = (metric(**{**given.arguments(metric), "pixels": p}) for p in (truth, -truth))
            best, worst = (v[row.parts[0]] if isinstance(v, Mapping) else v for v in (best, worst))
            assert best.tolist() == [1, 1, 1]
            assert bool((worst < best).all()) or name == "pointing_game"
