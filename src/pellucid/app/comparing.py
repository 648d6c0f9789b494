"""`/v1/compare`: methods beside each other on one input, with scores and the controls that every score needs; and two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Form, Query
from fastapi.responses import Response

from pellucid import comparison, hooks, targets
from pellucid.api import logits_of
from pellucid.app.answers import answer, input_shown
from pellucid.app.batching import Work
from pellucid.app.explaining import Shared, received, sent
from pellucid.app.problems import Refused, answers
from pellucid.app.schemas import (
    CompareForm,
    Comparison,
    ExplanationAnswer,
    MethodScores,
    MetricInfo,
    RunDifference,
    RunsCompared,
)
from pellucid.app.served import Served
from pellucid.app.service import Explained, Service
from pellucid.call import Call, weights_device
from pellucid.contracts import Case
from pellucid.errors import OptionError, PellucidError
from pellucid.methods import METHODS
from pellucid.metrics import METRICS
from pellucid.record import Interval

router = APIRouter(prefix="/v1")

METRICS_SHOWN = ("deletion", "insertion", "sparseness")
CONTROLS = ("random_map", "centre_map")


@router.post("/compare", response_model=Comparison, responses=answers(404, 422))
async def compare(service: Shared, form: Annotated[CompareForm, Form(media_type="multipart/form-data")]) -> Response:
    """Several methods for one target. All are scored by the same passes of the network, and so are maps that know nothing."""
    with service.slots.one():
        question = await received(service, form)
        served = service.served(form.model)
        methods = list(dict.fromkeys([*(form.methods or served.compared), *CONTROLS]))
        first = await service.explained(question.model_copy(update={"layer": ""}))
        target = targets.gauge_free(first.explanation.target, first.explanation.logits, served.task)
        found: list[ExplanationAnswer] = []
        scores: list[MethodScores] = []
        failed: dict[str, str] = {}
        for method in methods:
            try:
                own = question.model_copy(update={"method": method, "layer": _layer(served, method, form.layer)})
                explained = await service.explained(own, target=target)
                measured = await service.worker.do(Work(served, None, explained, _scores))
            except PellucidError as error:
                _refuse_unknown(served, method)
                failed[method] = error.message
                continue
            found.append(await service.reading(lambda e=explained: answer(e, form.dtype, with_input=False)))  # type: ignore[misc]
            scores.append(MethodScores(method=method, control=METHODS[method].control, metrics=measured))
        shown = input_shown(first.upload.sample.name, first.shown, form.dtype)
        made = Comparison(explanations=found, scores=scores, metrics=_metrics(), failed=failed, input=shown)
        return await service.reading(lambda: sent(made))


def _layer(served: Served, method: str, layer: str) -> str:
    """The asked layer for methods that take one."""
    _refuse_unknown(served, method)
    return layer if served.methods[method].layer else ""


def _refuse_unknown(served: Served, method: str) -> None:
    if method not in served.methods:
        raise OptionError(f"{served.id} has no method '{method}'.", hint=f"It has: {', '.join(served.methods)}.")


def _scores(explained: Sequence[Explained]) -> list[dict[str, float | None]]:
    """The metrics of one explanation, in the network's thread."""
    (one,) = explained
    network = one.served.network
    x = one.explanation.input
    assert x is not None
    case = Case(
        one.explanation, [one.upload.sample], x.to(weights_device(network)), Call(network, output=logits_of(network), batch=1),
        one.explanation.target, torch.Generator().manual_seed(0), one.served.task,
    )  # fmt: skip
    found: dict[str, float | None] = {}
    for name in METRICS_SHOWN:
        leaf = METRICS[name].load()
        with torch.no_grad(), hooks.untouched(network):
            values: Any = leaf(**case.arguments(leaf))
        for part, value in (values if isinstance(values, dict) else {"": values}).items():
            if f"{name}_{part}".rstrip("_") in _NAMES:
                number = float(value[0])
                found[_NAMES[f"{name}_{part}".rstrip("_")]] = number if number == number else None
    return [found]


# Probabilities are what papers print; log-odds do not saturate.
_NAMES = {
    "deletion_probability": "deletion",
    "deletion_log_odds": "deletion_log_odds",
    "insertion_probability": "insertion",
    "insertion_log_odds": "insertion_log_odds",
    "sparseness": "sparseness",
}


def _metrics() -> list[MetricInfo]:
    rows = {name: METRICS[name.removesuffix("_log_odds")] for name in _NAMES.values()}
    return [MetricInfo(name=n, title=row.summary, higher_is_better=row.higher_is_better) for n, row in rows.items()]


@router.get("/runs/comparison", response_model=RunsCompared, responses=answers(404, 422))
async def runs(
    service: Shared,
    new: Annotated[str, Query(max_length=200, description="A network of the new run.")],
    old: Annotated[str, Query(max_length=200, description="A network of the old run.")],
) -> Response:
    """Two evaluated runs on the samples that both were scored on: new minus old, patient by patient."""
    folders = {new: _run(service, new), old: _run(service, old)}
    if len(set(folders.values())) < 2:
        raise Refused(422, f"{new} and {old} belong to one run.", hint="Name networks of two runs.")
    try:
        found = await service.reading(lambda: _compared(*folders.values()))
    except PellucidError as error:
        raise _named(error, folders) from error
    performance = [
        _difference(c.metric, "", c.difference, str(c.verdict) if c.verdict else None) for c in found.performance
    ]
    scores = [_difference(f"{c.metric} {c.part}".strip(), c.model, c.difference, None) for c in found.scores]
    return sent(
        RunsCompared(
            new=found.new, old=found.old, words=comparison.words(found), performance=performance, scores=scores
        )
    )


def _named(error: PellucidError, folders: Mapping[str, Path]) -> Refused:
    """The error by the networks' names: where they lie on the server is nobody's business."""

    def told(text: str) -> str:
        for name, folder in folders.items():
            text = text.replace(str(folder), f"the run of {name}")
        return text

    return Refused(422, told(error.message), detail=told(error.why), hint=told(error.hint))


@lru_cache(maxsize=8)
def _compared(new: Path, old: Path) -> comparison.Compared:
    """Intervals over patients take seconds."""
    return comparison.compare_runs(new, old)


def _run(service: Service, name: str) -> Path:
    """The folder of the run that a network belongs to."""
    folder = service.served(name).folder
    if folder is None:
        raise Refused(422, f"{name} belongs to no run.", hint="Serve the folders of two evaluated runs.")
    return folder if (folder / "study.json").is_file() else folder.parent


def _difference(name: str, method: str, found: Interval, verdict: str | None) -> RunDifference:
    return RunDifference(
        name=name,
        method=method,
        difference=found.mean,
        low=found.low,
        high=found.high,
        samples=found.n,
        verdict=verdict,
    )
