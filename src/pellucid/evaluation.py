"""The verb that scores explanations: every network, method and metric on the same samples, controls beside them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import __version__, hooks, spatial, targets
from pellucid.api import check_options, explain, logits_of, weights_digest
from pellucid.call import Call, has_evidence, unwrapped, weights_device
from pellucid.contracts import Again, Case, Values
from pellucid.controls import CONTROLS, MADE
from pellucid.errors import BadInput, OptionError, PellucidError
from pellucid.explanation import Explanation
from pellucid.methods import COMPARED, METHODS
from pellucid.metrics import MEASURED, METRICS
from pellucid.record import Prediction, Record, Table, join
from pellucid.registry import look_up
from pellucid.sample import Dataset, Sample, collate, readable
from pellucid.shards import Shards
from pellucid.spatial import Geometry


def evaluate(
    models: nn.Module | Mapping[str, nn.Module],
    dataset: Dataset,
    *,
    methods: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    controls: Sequence[str] | None = None,
    target: str = "label",
    grid: str = "own",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 16,
    seed: int = 0,
    fold: int | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Table:
    """Score explanations: every model, method and metric on the same samples, one record each.

    methods, metrics: names, by default those of `COMPARED` (a pass or two each) and of `MEASURED`. A method that needs
    evidence is left out for networks that have none.
    controls: names in `CONTROLS`, by default all: maps that know nothing, scored beside the methods because a score
    alone says little, and the mask itself where it is known.
    target: "label" explains the true class, "predicted" the network's answer. For two softmax classes every method
    explains and is scored on the log-odds of that class against the other, so that all answer the same question.
    grid: "own" scores every map on the cells it has; "cells" brings all maps onto the network's cells, each of which adds up
    what lies in it, so that a fine map is compared with a coarse one, and both with noise and truth, on equal terms.
    options: method or metric name -> its options. folder: where finished parts are kept; an interrupted evaluation goes
    on from there. progress: called with (parts done, parts in all).

    A sample that cannot be read or a value that is not defined becomes a record that says so.
    """
    given = models if isinstance(models, Mapping) else {"model": models}
    named = {name: unwrapped(model) for name, model in given.items()}
    methods = list(methods) if methods is not None else list(COMPARED)
    metrics = list(dict.fromkeys(map(METRICS.own_name, metrics if metrics is not None else MEASURED)))
    controls = list(controls) if controls is not None else list(CONTROLS) if methods else []
    options = {METRICS.own_name(name): value for name, value in (options or {}).items()}
    for name in controls:
        look_up(CONTROLS, name, "control")
    for name in methods:
        check_options(name, look_up(METHODS, name, "method").load(), options.get(name, {}))
    for name in metrics:
        check_options(name, look_up(METRICS, name, "metric").load(), options.get(name, {}))
    if target not in ("label", "predicted"):
        raise OptionError(f"There is no target '{target}'.", hint="Choose 'label' or 'predicted'.")
    if grid not in ("own", "cells"):
        raise OptionError(f"There is no grid '{grid}'.", hint="Choose 'own' or 'cells'.")
    study = _Study(named, dataset, methods, metrics, controls, target, grid, options, seed, fold)
    parts = {
        f"{m:02d}-{start:06d}": (name, range(start, min(start + batch_size, len(dataset))))
        for m, name in enumerate(named)
        for start in range(0, len(dataset), batch_size)
    }
    shards = Shards.open(folder, study.plan(batch_size), list(parts)) if folder is not None else None
    tables = []
    for done, (part, (name, rows)) in enumerate(parts.items()):
        if shards is None:
            tables.append(study.part(name, rows))
        elif not shards.done(part):
            shards.write(part, study.part(name, rows).as_parts())
        if progress is not None:
            progress(done + 1, len(parts))
    # Read at the end only: until then the records of a long evaluation lie in the folder, not in memory.
    return join(tables if shards is None else (Table.from_parts(shards.read(part)) for part in parts))


@dataclass(frozen=True)
class _Study:
    """One call of `evaluate`: all that decides its records."""

    models: Mapping[str, nn.Module]
    dataset: Dataset
    methods: Sequence[str]
    metrics: Sequence[str]
    controls: Sequence[str]
    target: str
    grid: str
    options: Mapping[str, Mapping[str, Any]]
    seed: int
    fold: int | None

    def plan(self, batch_size: int) -> dict[str, Any]:
        return {
            "models": {name: weights_digest(model) for name, model in self.models.items()}, "data": self.dataset.fingerprint, "methods": list(self.methods),
            "metrics": list(self.metrics), "controls": list(self.controls), "target": self.target, "options": {k: {o: repr(v) for o, v in dict(self.options[k]).items()} for k in sorted(self.options)},
            "seed": self.seed, "fold": self.fold, "batch_size": batch_size, "pellucid": __version__, **({} if self.grid == "own" else {"grid": self.grid}),
        }  # fmt: skip

    def part(self, name: str, rows: range) -> Table:
        """All records and predictions of one model on one batch of samples."""
        unread: dict[str, str] = {}
        samples = [sample for _, sample in readable(self.dataset, rows, unread)]
        failed = tuple(
            Record(bad, bad, name, "", "", status=f"failed: {why}", seed=self.seed, fold=self.fold)
            for bad, why in unread.items()
        )
        if not samples:
            return Table(failed)
        samples, unfit = _with_fitting_masks(samples)
        model, x = self.models[name], collate(samples)
        with torch.no_grad(), hooks.untouched(model):
            output = Call(model, output=logits_of(model))(x.to(weights_device(model)))
        records = (
            replace(r, status=unfit[r.sample]) if r.status == "no mask" and r.sample in unfit else r
            for r in self._records(name, samples, x, output, rows)
        )
        return Table((*failed, *records), tuple(self._predictions(name, samples, output)))

    def _predictions(self, name: str, samples: Sequence[Sample], output: Any) -> Iterator[Prediction]:
        task = getattr(self.models[name], "task", None) or targets.default_task(output)
        if task not in ("multiclass", "binary"):
            return
        logits = output.reshape(len(samples), -1).double().cpu()
        for sample, row in zip(samples, logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid(), strict=True):
            if isinstance(sample.label, int):
                yield Prediction(
                    sample.name, sample.group, name, sample.label, tuple(row.tolist()), self.seed, self.fold
                )

    def _records(self, name: str, samples: Sequence[Sample], x: Tensor, output: Any, rows: range) -> Iterator[Record]:
        model = self.models[name]
        task = getattr(model, "task", None)
        wanted = self._target(output, samples, task)
        base: Explanation | None = None
        cells = self._cells(model, x, wanted, task)
        known = [control for control in self.controls if control in METHODS and control not in self.methods]
        for method in (*self.methods, *known):
            if "evidence" in METHODS[method].needs and not has_evidence(model):
                continue
            try:
                explanation = _onto(
                    explain(
                        model,
                        x,
                        wanted,
                        method=method,
                        task=task,
                        seed=self.seed + rows.start,
                        **self.options.get(method, {}),
                    ),
                    cells,
                )
            except PellucidError as error:
                yield from self._failed(name, method, "", samples, error)
                continue
            base = explanation if base is None and not METHODS[method].control else base
            again = self._again(name, method, explanation, x, rows, cells)
            yield from self._scores(name, method, explanation, samples, x, rows, again)
        for control in self.controls:
            if control in MADE and base is not None:
                made = MADE[control](base, samples)
                yield from self._scores(name, control, made, samples, x, rows, None)

    def _failed(
        self, name: str, method: str, metric: str, samples: Sequence[Sample], error: PellucidError
    ) -> Iterator[Record]:
        told = f"failed: {error.message}"
        for sample in samples:
            yield Record(sample.name, sample.group, name, method, metric, status=told, seed=self.seed, fold=self.fold)

    def _target(self, output: Any, samples: Sequence[Sample], task: targets.Task | None) -> targets.Target:
        wanted = None if self.target == "predicted" else [s.label for s in samples]
        if wanted is not None and any(not isinstance(label, int) for label in wanted):
            raise OptionError(
                "A sample has no class label to explain.",
                why="target='label' explains the true class.",
                hint="Use target='predicted'.",
            )
        return targets.gauge_free(targets.parse(wanted, task=task).resolve(output), output, task)

    def _scores(
        self, name: str, method: str, explanation: Explanation, samples: Sequence[Sample], x: Tensor, rows: range, again: Again | None,
    ) -> Iterator[Record]:  # fmt: skip
        """One record per sample, metric and part. A map that is not finite has no score; neither has a made control where
        a metric would have to explain anew."""
        model = self.models[name]
        device = weights_device(model)
        finite = explanation.map.flatten(1).isfinite().all(1)
        clean = replace(explanation, map=explanation.map.masked_fill(~spatial.expand(finite, explanation.map), 0))
        for metric in self.metrics:
            generator = torch.Generator().manual_seed(self.seed + rows.start)
            case = Case(
                clean, samples, x.to(device), Call(model, output=logits_of(model), batch=len(x)), explanation.target, generator,
                explanation.provenance["task"] or "multiclass", self.options.get(metric, {}), again,
            )  # fmt: skip
            leaf = METRICS[metric].load()
            if again is None and "again" in inspect.signature(leaf).parameters:
                continue
            try:
                with torch.no_grad(), hooks.untouched(model):
                    values: Values = leaf(**case.arguments(leaf))
            except PellucidError as error:
                yield from self._failed(name, method, metric, samples, error)
                continue
            asks_truth = "mask" in inspect.signature(leaf).parameters
            for part, numbers in values.items() if isinstance(values, Mapping) else [("", values)]:
                for i, (sample, value) in enumerate(zip(samples, numbers.tolist(), strict=True)):
                    defined = value == value and bool(finite[i])
                    status = "ok" if defined else "no mask" if asks_truth and sample.mask is None else "undefined"
                    described = explanation.target.describe(self.dataset.classes, i)
                    yield Record(
                        sample.name, sample.group, name, method, metric, part, described, value if defined else None, status, self.seed, self.fold,
                    )  # fmt: skip

    def _cells(self, model: nn.Module, x: Tensor, target: targets.Target, task: targets.Task | None) -> Geometry | None:
        """The network's cells, where all maps are brought onto them."""
        return explain(model, x, target, method="random_map", task=task).geometry if self.grid == "cells" else None

    def _again(
        self, name: str, method: str, explanation: Explanation, x: Tensor, rows: range, cells: Geometry | None
    ) -> Again:
        """What explains other inputs or networks as this explanation was made."""

        own, inputs = self.models[name], x
        options: dict[str, Any] = {"task": getattr(own, "task", None), **self.options.get(method, {})}

        def again(
            *, x: Tensor | None = None, model: nn.Module | None = None, target: targets.Target | None = None
        ) -> Explanation:
            x, target = inputs if x is None else x, explanation.target if target is None else target
            with torch.enable_grad():
                return _onto(
                    explain(model or own, x, target, method=method, seed=self.seed + rows.start, **options), cells
                )

        return again


def _onto(explanation: Explanation, cells: Geometry | None) -> Explanation:
    """The explanation with its map on the given cells."""
    if cells is None or explanation.geometry == cells:
        return explanation
    summed = spatial.onto(explanation.map, explanation.geometry, cells).to(explanation.map)
    return replace(explanation, map=summed, geometry=cells)


def _with_fitting_masks(samples: Sequence[Sample]) -> tuple[list[Sample], dict[str, str]]:
    """The samples, without masks that are not of their input's size; and the status of those. One of them fails no other."""
    unfit = {}
    for s in samples:
        try:
            s.check_mask()
        except BadInput as error:
            unfit[s.name] = f"failed: {error.message}"
    return [s.changed(mask=None) if s.name in unfit else s for s in samples], unfit
