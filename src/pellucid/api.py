"""The verb that explains."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import __version__, hooks, targets, together
from pellucid.call import Call, has_evidence, unwrapped, weights_device
from pellucid.errors import BadInput, OptionError, nearest
from pellucid.explanation import Attribution, Explanation
from pellucid.methods import METHODS
from pellucid.registry import look_up


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

    target: a class number or name, one per input, a target object, or None for what the network predicts. With
    `SeveralTargets` every input is explained for several of them, from the same passes where the method can.
    method: a name in `pl.METHODS`; by default "evidence" for a SoftCAM and "grad_cam" for any other network.
    args, kwargs, output, input_name: for networks with several inputs or outputs (see `Call`).
    task: "multiclass", "multilabel", "binary" or "regression" where the output's shape does not tell.
    batch_size: how many inputs to explain at a time; methods that run an input in many versions run as many of these
    at a time. options: the method's own (`layer=`, `rectify=`, ...). A list of layers gives one map at the input's
    size: the mean of their maps, each divided by its own largest size.

    Raises `OptionError`, `TargetError` or `LayerError` for what does not fit, `BadInput` for an unusable input.
    """
    model = unwrapped(model)
    name = method or default_method(model)
    row = look_up(METHODS, name, "method")
    leaf = row.load()
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
        output = logits_of(model) if output is None else output
        call = Call(model, tuple(args), dict(kwargs or {}), output, input_name, batch=len(x))
        offered = {"generator": torch.Generator().manual_seed(seed), "task": task}
        if batch_size is not None:
            offered["batch_size"] = batch_size
        given = {**{k: v for k, v in offered.items() if k in inspect.signature(leaf).parameters}, **options}
        run = together.over_layers(leaf, given)
        run = together.over_targets(run, wanted, row)
        for rows in torch.split(torch.arange(len(x)), batch_size or len(x)):
            parts.append(run(call.rows(rows), x[rows], wanted.rows(rows) if len(rows) < len(x) else wanted, **given))
    attribution = _join(parts)
    resolved = attribution.target
    assert resolved is not None
    provenance = {
        "pellucid": __version__, "torch": torch.__version__, "network": type(model).__name__, "layer": attribution.layer, "seed": seed,
        "preprocessing": getattr(model, "preprocessing", None), "task": task or targets.default_task_or_none(attribution.output), "device": str(x.device), "dtype": str(x.dtype).removeprefix("torch."),
        **attribution.notes,
    }  # fmt: skip
    return Explanation(
        map=attribution.map, geometry=attribution.geometry, target=resolved, score=resolved(attribution.output).detach(), logits=attribution.output,
        method=name, options=dict(options), provenance=provenance,
        complete=attribution.complete, constant=attribution.constant, common=attribution.common,
        classes=tuple(classes) if classes is not None else None, input=x,
    )  # fmt: skip


def logits_of(model: nn.Module) -> Any:
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
    notes = dict(first.notes)
    if "difference" in notes:
        notes["difference"] = max(p.notes["difference"] for p in parts)
    return Attribution(
        **whole, geometry=first.geometry, target=joined, complete=first.complete, layer=first.layer, notes=notes
    )


def _detached(a: Attribution) -> Attribution:
    def free(value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value

    return replace(a, map=free(a.map), output=free(a.output), constant=free(a.constant), common=free(a.common))


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the names, types and bytes of everything in the network's state."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return digest.hexdigest()
