"""The head compiler: a self-explaining copy of a network, or the reason why there is none.

copy ──> analysis (where is the feature map, what does the head make of it?) ──> SoftCAM ── whole inputs ──> certificate
"""

from __future__ import annotations

import copy as copying
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks
from pellucid.call import Call, weights_device
from pellucid.errors import BadInput, ConversionError, OptionError
from pellucid.models import head as heads
from pellucid.models.analysis import analyse, before_the_head
from pellucid.models.retrain import retrained
from pellucid.models.softcam import SoftCAM
from pellucid.models.trace import as_logits
from pellucid.targets import Task

Kind = Literal["exact", "exact_at_this_image", "retrain"]
KINDS = ("exact", "exact_at_this_image", "retrain")
_LEAST_SHARE = 0.01


def convert(
    model: nn.Module | str,
    example: Float[Tensor, "batch channels *spatial"],
    *,
    kind: Kind | None = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    features: str | None = None,
    head: str | None = None,
    output: Any = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    images: Float[Tensor, "images channels *spatial"] | None = None,
    tolerance: float = 1e-4,
) -> SoftCAM:
    """A self-explaining copy of a network: the same predictions, with evidence that adds up; the original stays untouched.

    model: any network (of a compiled one, the network that was compiled), or a name such as "torchvision:resnet50", "timm:regnety_016", "pellucid:s8" (random weights).
    example: inputs as in use, at the size of use; evidence needs at least two cells.
    kind: "exact" (the logits are linear in a pooled feature map: one evidence layer for every input) or
    "exact_at_this_image" (the head bends; its gates are held as each input sets them, see `models.frozen`): refuse what is
    not of this kind. By default the first that holds. "retrain": replace the head, warm-started, so that the function
    changes and has to be trained again (see `models.retrain`).
    task, classes: what the logits mean, and their names. output: which part of a tuple or dict are the logits.
    args, kwargs: the network's other inputs. images: real inputs for the parity test (default: the example).
    features, head: dotted names of the layer that gives the feature map and of the linear layer, for networks that
    cannot be traced; they are tested like any other.

    Raises `ConversionError` naming the layer and the reason where evidence would not add up: nothing is converted on
    trust. Sources: Zhou et al. 2016 (CAM); Djoumessi et al. 2025 (SoftCAM).
    """
    if kind is not None and kind not in KINDS:
        raise OptionError(f"There is no kind '{kind}' of conversion.", hint=f"Choose one of {', '.join(KINDS)}.")
    if isinstance(model, str):
        from pellucid.models.zoo import build

        model = build(model)
    _check_example(example)
    # What torch.compile wraps is the network itself; compiled code cannot be looked into. Compile the SoftCAM instead.
    model = getattr(model, "_orig_mod", model)
    with torch.inference_mode(False):
        ours = _copied(model)
    if kind == "retrain":
        return _with_new_head(ours, example, features, tuple(args), dict(kwargs or {}), output, task, classes, images)
    device = weights_device(ours)
    with torch.inference_mode(False), hooks.untouched(ours):
        example = example.detach().to(device).clone()
        call = Call(ours, tuple(args), dict(kwargs or {}), output, batch=len(example))
        with _no_zero_weights(ours) as drawn:
            found = analyse(call, example, features, head, kind)
        plain = found.certificate(call, example, drawn)
        fused = found.own_parameters(ours)
        softcam = SoftCAM(ours, found.plan, plain, task=task, classes=classes, output=output, fused=fused)
        softcam.certificate = replace(plain, **_parity(softcam, call, example, images, tolerance))
        retired = _retired(softcam, call, example)
    for parameter in retired:
        parameter.requires_grad_(False)
    softcam.training = ours.training
    return softcam


def _with_new_head(
    ours: nn.Module,
    example: Tensor,
    features: str | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
    task: Task | None,
    classes: Sequence[str] | None,
    images: Tensor | None,
) -> SoftCAM:
    """Kind retrain: every cell gets the head, the logits are the mean; and how far that is from the original."""
    example = example.detach().to(weights_device(ours)).clone()
    real = example if images is None else images.detach().to(example)
    call = Call(ours, args, kwargs, output, batch=len(example))
    training = ours.training
    with torch.inference_mode(False), hooks.untouched(ours):
        point, axis, between = before_the_head(call, example, features)
        with torch.no_grad():
            wanted = torch.cat([as_logits(call.rows(torch.arange(len(b)))(b)) for b in torch.split(real, len(example))])
        network = retrained(ours, call, example, point, axis, between)
    network.train(training)
    softcam = convert(
        network,
        example,
        kind="exact",
        task=task,
        classes=classes,
        args=args,
        kwargs=kwargs,
        images=images,
        features="head",
    )
    with torch.no_grad(), hooks.untouched(softcam):
        made = torch.cat([call.rows(torch.arange(len(b))).run(softcam, b) for b in torch.split(real, len(example))])
    agreement = float((_answers(made) == _answers(wanted)).float().mean())
    note = f"the head acts on every cell and the answers are averaged: on {len(real)} inputs logits differ from the original's by {float((made - wanted).abs().max()) / heads.spread(wanted):.2g} of their spread"
    known = softcam.certificate
    softcam.certificate = replace(known, kind="retrain", agreement=(agreement,), notes=(*known.notes, note))
    return softcam


def _check_example(example: Any) -> None:
    if not isinstance(example, Tensor) or example.ndim < 3 or len(example) == 0:
        came = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise BadInput(
            f"The example is {came}.",
            why="A tensor (batch, channels, *spatial) is needed.",
            hint="Add the batch axis, or the channel axis: x[None].",
        )


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copying.deepcopy(model)
    except Exception as error:
        raise ConversionError(
            f"The {type(model).__name__} cannot be copied.",
            why=str(error),
            hint="Remove what cannot be copied (open files, tensors with a graph) and try again.",
        ) from error


@contextmanager
def _no_zero_weights(model: nn.Module) -> Iterator[list[str]]:
    """Weights that are all zero (new heads, the last scale of a residual branch) hide what will bend once they are
    trained: drawn at random while open.
    """
    zero = [
        (name, p)
        for name, p in model.named_parameters()
        if "bias" not in name and p.is_floating_point() and not bool(p.any())
    ]
    with torch.no_grad():
        for _, parameter in zero:
            parameter.normal_(std=0.1)
    try:
        yield [name for name, _ in zero]
    finally:
        with torch.no_grad():
            for _, parameter in zero:
                parameter.zero_()


def _parity(softcam: SoftCAM, call: Call, example: Tensor, images: Tensor | None, tolerance: float) -> dict[str, Any]:
    """Compare evidence and logits on whole inputs: the example or the given images, and noise like the example."""
    real = example if images is None else images.detach().to(example)
    noise = (
        torch.randn(example.shape, generator=torch.Generator().manual_seed(4)).to(example) * example.std()
        + example.mean()
    )
    worst, flips, all_cells, all_constants, all_logits = 0.0, 0, [], [], []
    with torch.no_grad():
        for batch, counted in [*((b, True) for b in torch.split(real, len(example))), (noise, False)]:
            rows = call.rows(torch.arange(len(batch)))
            seen = rows.run(softcam.evidence, batch)
            cells, constant = seen.maps.flatten(2).mean(2), seen.bias.expand(len(batch), -1)
            logits = seen.logits if softcam.fused is None else as_logits(softcam.select(rows.run(softcam.model, batch)))
            worst = max(worst, float((cells + constant - logits).abs().max()))
            flips += int(counted) * int((_answers(cells + constant) != _answers(logits)).sum())
            all_cells.append(cells)
            all_constants.append(constant)
            all_logits.append(logits)
    spread = max(heads.spread(part) for part in all_logits)
    relative, allowed = worst / spread, max(tolerance, 8 * torch.finfo(logits.dtype).eps)
    if not relative <= allowed:
        raise ConversionError(
            f"Evidence and logits differ by {worst:.2g} on whole inputs, {relative:.1g} of the logits' spread.",
            why=f"At most {allowed:.1g} is allowed.",
            hint="The network may depend on values in a way that its trace does not show; name features= and head=.",
        )
    measured: dict[str, Any] = {"images": len(real), "parity": worst, "parity_relative": relative, "flips": flips}
    if softcam.plan.frozen:
        measured |= _shares(*(torch.cat(parts).double() for parts in (all_cells, all_constants, all_logits)))
    return measured


def _shares(cells: Tensor, constants: Tensor, logits: Tensor) -> Mapping[str, float | None]:
    """How much of the logits' spread over inputs the cells and the constant have; refuse what the constant swallows.

    None where the logits hardly change with the input (networks at random), so that rounding would be measured.
    """
    whole = _spread_over_inputs(logits)
    if whole <= 1e-5 * float(logits.abs().max()):
        return {"cells_share": None, "constant_share": None}
    shares: dict[str, float] = {
        "cells_share": _spread_over_inputs(cells) / whole,
        "constant_share": _spread_over_inputs(constants) / whole,
    }
    if shares["cells_share"] < _LEAST_SHARE:
        raise ConversionError(
            f"The constant swallows the logits: the cells have {shares['cells_share']:.1g} of their spread.",
            why="With the head's gates held, hardly anything is left that stems from places.",
            hint="Use kind='retrain', or a variant with a linear head after average pooling.",
        )
    return shares


def _spread_over_inputs(values: Tensor) -> float:
    """Root mean square of the deviation from each class's mean over inputs: a bias that is the same for all has none."""
    return float((values - values.mean(0)).square().mean().sqrt())


def _answers(logits: Tensor) -> Tensor:
    return logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0] > 0


def _retired(softcam: SoftCAM, call: Call, example: Tensor) -> list[nn.Parameter]:
    """Parameters that the network's logits depend on and the fused ones do not: those of the old head."""
    if softcam.fused is None:
        return []
    trainable = [p for p in softcam.model.parameters() if p.requires_grad]
    one = call.rows(torch.arange(1))

    def reached(function: Callable[..., Any]) -> list[bool]:
        with torch.enable_grad():
            score = softcam.select(one.run(function, example[:1])).sum()
            return [g is not None for g in torch.autograd.grad(score, trainable, allow_unused=True)]

    before, after = reached(softcam.model), reached(softcam)
    return [p for p, old, new in zip(trainable, before, after, strict=True) if old and not new]
