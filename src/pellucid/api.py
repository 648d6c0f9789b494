"""The verbs that put the parts together. Each reads from top to bottom."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import __version__, hooks, targets
from pellucid.call import Call, has_evidence, weights_device
from pellucid.contracts import Case, Values
from pellucid.errors import BadInput, OptionError, PellucidError, nearest
from pellucid.explanation import Attribution, Explanation
from pellucid.methods import COMPARED, METHODS
from pellucid.metrics import METRICS
from pellucid.record import Prediction, Record, Table, join
from pellucid.registry import look_up
from pellucid.sample import Dataset, Sample, collate
from pellucid.shards import Shards


def explain(
    model: nn.Module,
    x: Float[Tensor, "batch channels *spatial"],
    target: Any = None,
    *,
    method: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
    input_name: str | None = None,
    task: targets.Task | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Explanation:
    """Explain the network's decisions on a batch; the network is left exactly as it was.

    target: a class number or name, one per input, a target object, or None for what the network predicts.
    method: a name in `pl.METHODS`; by default "evidence" for a SoftCAM and "grad_cam" for any other network.
    args, kwargs, output, input_name: for networks with several inputs or outputs (see `Call`).
    task: "multiclass", "multilabel", "binary" or "regression" where the output's shape does not tell.
    batch_size: how many inputs to explain at a time; methods that run an input in many versions run as many of these
    at a time. options: the method's own (`layer=`, `rectify=`, ...).

    Raises `OptionError`, `TargetError` or `LayerError` for what does not fit, `BadInput` for an unusable input.
    """
    name = method or default_method(model)
    leaf = look_up(METHODS, name, "method").load()
    check_options(name, leaf, options)
    _check_input(x)
    task = task or getattr(model, "task", None)
    classes = classes if classes is not None else getattr(model, "classes", None)
    wanted = targets.parse(target, task=task, classes=classes)
    targets.check_count(wanted, len(x))
    parts = []
    with torch.inference_mode(False), hooks.untouched(model):
        x = x.detach().clone() if x.is_inference() else x.detach()
        x = x.to(weights_device(model))
        output = _logits_of(model) if output is None else output
        call = Call(model, tuple(args), dict(kwargs or {}), output, input_name, batch=len(x))
        offered = {"generator": torch.Generator().manual_seed(seed), "task": task}
        if batch_size is not None:
            offered["batch_size"] = batch_size
        given = {**{k: v for k, v in offered.items() if k in inspect.signature(leaf).parameters}, **options}
        for rows in torch.split(torch.arange(len(x)), batch_size or len(x)):
            parts.append(leaf(call.rows(rows), x[rows], wanted.rows(rows) if len(rows) < len(x) else wanted, **given))
    attribution = _join(parts)
    resolved = attribution.target
    assert resolved is not None
    provenance = {
        "pellucid": __version__, "torch": torch.__version__, "network": type(model).__name__, "layer": attribution.layer, "seed": seed,
        "preprocessing": getattr(model, "preprocessing", None), "task": task or targets.default_task_or_none(attribution.output), "device": str(x.device), "dtype": str(x.dtype).removeprefix("torch."),
    }  # fmt: skip
    return Explanation(
        map=attribution.map, geometry=attribution.geometry, target=resolved, score=resolved(attribution.output).detach(), logits=attribution.output,
        method=name, options=dict(options), provenance=provenance,
        complete=attribution.complete, constant=attribution.constant, common=attribution.common,
        classes=tuple(classes) if classes is not None else None, input=x,
    )  # fmt: skip


def _logits_of(model: nn.Module) -> Any:
    """A SoftCAM knows which part of its output the logits are."""
    return getattr(model, "output", None) if has_evidence(model) else None


def default_method(model: nn.Module) -> str:
    """The method that explains a network when none is named."""
    return "evidence" if has_evidence(model) else "grad_cam"


def check_options(name: str, leaf: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise `OptionError` for an option that the leaf does not name."""
    known = option_names(leaf)
    for option in options:
        if option not in known:
            raise OptionError(f"'{name}' has no option '{option}'.", hint=nearest(option, known))


def option_names(leaf: Callable[..., Any]) -> list[str]:
    """What a user may set of a method or metric."""
    return [
        p.name
        for p in inspect.signature(leaf).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name != "generator"
    ]


def _check_input(x: Any) -> None:
    if not isinstance(x, Tensor):
        raise BadInput(
            f"The input is a {type(x).__name__}.",
            why="A tensor (batch, channels, *spatial) is needed.",
            hint="Use torch.as_tensor, or a reader.",
        )
    if x.ndim < 2 or len(x) == 0:
        raise BadInput(
            f"The input has shape {tuple(x.shape)}.",
            why="(batch, channels, *spatial) with at least one input is needed.",
            hint="Add the batch axis: x[None].",
        )
    if not x.is_floating_point():
        raise BadInput(
            f"The input holds {x.dtype} values.",
            why="Networks take floating-point values.",
            hint="Scale it as in training, for example x.float() / 255.",
        )
    extremes = torch.stack(torch.aminmax(x)) if x.numel() else x  # nan and inf both reach the extremes
    if not bool(torch.isfinite(extremes).all()):
        raise BadInput(
            "The input holds values that are not finite.",
            why="No explanation of nan or inf can be right.",
            hint="Mend the input.",
        )


def _join(parts: Sequence[Attribution]) -> Attribution:
    """One attribution for the inputs of several; they come from one method and network."""
    if len(parts) == 1:
        return _detached(parts[0])
    first = parts[0]

    def together(name: str) -> Any:
        values = [getattr(p, name) for p in parts]
        if isinstance(values[0], Tensor):
            return torch.cat(values).detach()
        return [v for part in values for v in part] if isinstance(values[0], list) else values[0]

    whole = {name: together(name) for name in ("map", "output", "constant", "common")}
    joined = targets.join([p.target for p in parts if p.target is not None])
    return Attribution(**whole, geometry=first.geometry, target=joined, complete=first.complete, layer=first.layer)


def _detached(a: Attribution) -> Attribution:
    def free(value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value

    return Attribution(
        free(a.map), a.geometry, free(a.output), a.target, a.complete, free(a.constant), free(a.common), a.layer
    )


def evaluate(
    models: nn.Module | Mapping[str, nn.Module],
    dataset: Dataset,
    *,
    methods: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    target: str = "label",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 16,
    seed: int = 0,
    fold: int | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Table:
    """Score explanations: every model, method and metric on the same samples, one record each.

    methods, metrics: names, by default those of `COMPARED` (a pass or two each) and all metrics. A method that needs evidence is left out for networks that have none.
    target: "label" explains the true class, "predicted" the network's answer. For two softmax classes every method
    explains and is scored on the log-odds of that class against the other, so that all answer the same question.
    options: method or metric name -> its options. folder: where finished parts are kept; an interrupted evaluation goes
    on from there. progress: called with (parts done, parts in all).

    A sample that cannot be read or a value that is not defined becomes a record that says so.
    """
    named = dict(models) if isinstance(models, Mapping) else {"model": models}
    methods = list(methods) if methods is not None else list(COMPARED)
    metrics = list(metrics) if metrics is not None else list(METRICS)
    options = dict(options or {})
    for name in methods:
        check_options(name, look_up(METHODS, name, "method").load(), options.get(name, {}))
    for name in metrics:
        check_options(name, look_up(METRICS, name, "metric").load(), options.get(name, {}))
    if target not in ("label", "predicted"):
        raise OptionError(f"There is no target '{target}'.", hint="Choose 'label' or 'predicted'.")
    study = _Study(named, dataset, methods, metrics, target, options, seed, fold)
    parts = {
        f"{m:02d}-{start:06d}": (name, range(start, min(start + batch_size, len(dataset))))
        for m, name in enumerate(named)
        for start in range(0, len(dataset), batch_size)
    }
    shards = Shards.open(folder, study.plan(batch_size), list(parts)) if folder is not None else None
    tables = []
    for done, (part, (name, rows)) in enumerate(parts.items()):
        if shards is not None and shards.done(part):
            found = Table.from_parts(shards.read(part))
        else:
            found = study.part(name, rows)
            if shards is not None:
                shards.write(part, found.as_parts())
        tables.append(found)
        if progress is not None:
            progress(done + 1, len(parts))
    return join(tables)


@dataclass(frozen=True)
class _Study:
    """One call of `evaluate`: all that decides its records."""

    models: Mapping[str, nn.Module]
    dataset: Dataset
    methods: Sequence[str]
    metrics: Sequence[str]
    target: str
    options: Mapping[str, Mapping[str, Any]]
    seed: int
    fold: int | None

    def plan(self, batch_size: int) -> dict[str, Any]:
        return {
            "models": {name: weights_digest(model) for name, model in self.models.items()}, "data": self.dataset.fingerprint, "methods": list(self.methods),
            "metrics": list(self.metrics), "target": self.target, "options": {k: {o: repr(v) for o, v in dict(self.options[k]).items()} for k in sorted(self.options)},
            "seed": self.seed, "fold": self.fold, "batch_size": batch_size, "pellucid": __version__,
        }  # fmt: skip

    def part(self, name: str, rows: range) -> Table:
        """All records and predictions of one model on one batch of samples."""
        samples, bad = _read(self.dataset, rows)
        failed = tuple(
            Record(unread, unread, name, "", "", status=f"failed: {why}", seed=self.seed, fold=self.fold)
            for unread, why in bad
        )
        if not samples:
            return Table(failed)
        model, x = self.models[name], collate(samples)
        with torch.no_grad(), hooks.untouched(model):
            output = Call(model, output=_logits_of(model))(x.to(weights_device(model)))
        return Table(
            (*failed, *self._records(name, samples, x, output, rows)), tuple(self._predictions(name, samples, output))
        )

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
        for method in self.methods:
            if "evidence" in METHODS[method].needs and not has_evidence(model):
                continue
            try:
                explanation = explain(
                    model,
                    x,
                    wanted,
                    method=method,
                    task=task,
                    seed=self.seed + rows.start,
                    **self.options.get(method, {}),
                )
            except PellucidError as error:
                for sample in samples:
                    yield Record(
                        sample.name,
                        sample.group,
                        name,
                        method,
                        "",
                        status=f"failed: {error.message}",
                        seed=self.seed,
                        fold=self.fold,
                    )
                continue
            yield from self._scores(name, method, explanation, samples, x, rows)

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
        self, name: str, method: str, explanation: Explanation, samples: Sequence[Sample], x: Tensor, rows: range
    ) -> Iterator[Record]:
        model = self.models[name]
        device = weights_device(model)
        for metric in self.metrics:
            generator = torch.Generator().manual_seed(self.seed + rows.start)
            case = Case(
                explanation, samples, x.to(device), Call(model, output=_logits_of(model), batch=len(x)), explanation.target, generator,
                explanation.provenance["task"] or "multiclass", self.options.get(metric, {}),
            )  # fmt: skip
            leaf = METRICS[metric].load()
            with torch.no_grad(), hooks.untouched(model):
                values: Values = leaf(**case.arguments(leaf))
            for part, numbers in values.items() if isinstance(values, Mapping) else [("", values)]:
                for i, (sample, value) in enumerate(zip(samples, numbers.tolist(), strict=True)):
                    defined = value == value
                    status = "ok" if defined else "no mask" if sample.mask is None else "undefined"
                    described = explanation.target.describe(self.dataset.classes, i)
                    yield Record(
                        sample.name, sample.group, name, method, metric, part, described, value if defined else None, status, self.seed, self.fold,
                    )  # fmt: skip


def _read(dataset: Dataset, rows: range) -> tuple[list[Sample], list[tuple[str, str]]]:
    good, bad = [], []
    for i in rows:
        try:
            good.append(dataset[i])
        except BadInput as error:
            bad.append((dataset.facts(i).name, error.message))
    return good, bad


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the names, types and bytes of everything in the network's state."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return digest.hexdigest()
