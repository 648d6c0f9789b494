"""What a network with evidence does on the user's own images: the dear part of its certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pellucid import hooks
from pellucid.call import Call, weights_device
from pellucid.errors import BadInput, OptionError
from pellucid.models import head as heads
from pellucid.models.certificate import ROUNDING, Certificate
from pellucid.models.effective_field import effective_field
from pellucid.models.global_context import global_context
from pellucid.models.leakage import leakage
from pellucid.models.multi_scale import MultiScale
from pellucid.models.receptive_field import by_recurrence
from pellucid.models.softcam import SoftCAM
from pellucid.models.trace import Untraceable, as_logits, trace
from pellucid.targets import Task

_DIFFER = "on the inspected images evidence and logits differ by more than rounding"


def inspect(
    network: nn.Module,
    images: Float[Tensor, "images channels *spatial"],
    *,
    original: nn.Module | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    closely: int = 8,
    cells: int = 4,
    batch_size: int = 8,
    seed: int = 0,
) -> Certificate:
    """The certificate of a SoftCAM, or of a network with several evidence heads (`MultiScale`), with what is measured on
    these images; the network itself stays as it was.

    Logits are compared on all images: those of the network's own forward pass (of `original`, where another network is
    given) with summed evidence plus bias. Effective field and leakage are measured on the first `closely` images, which
    takes about 40 passes for each of them; `cells` cells are tried for leakage. Inputs of the size and kind of use say
    most. args, kwargs: the network's other inputs; tensors among them with one row per image follow the images. Of
    several heads the evidence added up on the finest grid is measured.

    To keep the result: `softcam.certificate = pl.inspect(softcam, images)`, then `softcam.save(folder)`.
    Raises `OptionError` for a network of another kind, `BadInput` for images without batch or places.
    """
    if not isinstance(network, SoftCAM | MultiScale):
        raise OptionError(
            f"A {type(network).__name__} cannot be inspected.",
            why="A converted network is needed.",
            hint="Convert it first: pellucid.convert(model, example). Of a finer map inspect the SoftCAM it was made from.",
        )
    _check_images(images, len(network.certificate.input_size))
    images = images.detach().to(weights_device(network))
    call = Call(network, tuple(args), dict(kwargs or {}), network.output, batch=len(images))
    near = call.rows(torch.arange(len(images))[:closely])
    field, layers = _context(network, call.rows(torch.arange(1)), images[:1])
    effective = effective_field(near, images[:closely], batch_size=batch_size)
    leak = leakage(
        near, images[:closely], field=field, effective=effective.side, cells=cells, batch_size=batch_size, seed=seed
    )
    known = _with_layers(network.certificate, layers)
    found = _compared(network, call, images, original, batch_size)
    notes = (*(n for n in known.notes if n != _DIFFER), *([_DIFFER] if found.pop("differ") else []))
    return replace(known, **found, notes=notes, effective_field=effective, leakage=leak)


def with_context(softcam: SoftCAM, x: Float[Tensor, "1 channels *spatial"]) -> Certificate:
    """The certificate with the layers of global context named, which takes one pass; nothing is measured."""
    return _with_layers(softcam.certificate, _context(softcam, Call(softcam), x)[1])


def _with_layers(known: Certificate, layers: tuple[str, ...]) -> Certificate:
    if not layers:
        return known
    return replace(known, global_context=layers, whole_input=True, receptive_field=None)


def _check_images(images: Any, rank: int) -> None:
    if not isinstance(images, Tensor) or images.ndim != rank + 2 or len(images) == 0:
        came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise BadInput(
            f"The images are {came}.",
            why=f"A tensor (images, channels, *spatial) with {rank} spatial axes is needed.",
            hint="Stack the inputs as the network takes them; add the batch axis to a single one: x[None].",
        )


def _context(network: SoftCAM | MultiScale, call: Call, x: Tensor) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    """From one traced pass: the side per axis of what convolutions and poolings let a cell see (None: not known), and the
    layers that let it see everything (`global_context`). A network that cannot be traced tells neither.
    """
    model, x, rank = network.model, x.clone(), x.ndim - 2
    others = tuple(v for v in tree_leaves((call.args, dict(call.kwargs))) if isinstance(v, Tensor))
    with hooks.untouched(network), torch.inference_mode(False):
        try:
            select = network.select if isinstance(network, SoftCAM) else call.select
            traced = trace(model, lambda: call.run(model, x), (x, *others), select)
        except (Untraceable, OptionError):  # the trunk of several heads may return more than its logits
            return None, ()
    stages = network.stages if isinstance(network, MultiScale) else [network.plan]
    fields, layers = list[tuple[float, ...] | None](), dict[str, None]()
    for stage in stages:
        cut = next((ref for ref, points in traced.points.items() if stage.capture in points), None)
        field = None if cut is None else by_recurrence(traced, cut, rank)
        if cut is None or field is None:
            return None, ()
        fields.append(field.size)
        layers |= dict.fromkeys(global_context(traced, cut, model, rank))
    if isinstance(network, SoftCAM):
        return fields[0], tuple(layers)
    with hooks.untouched(network), torch.no_grad():  # of a fine cell, with the coarser ones that it has a share of
        return call.evidence(x).geometry.receptive_field, tuple(layers)


def _compared(
    network: SoftCAM | MultiScale, call: Call, images: Tensor, original: nn.Module | None, batch_size: int
) -> dict[str, Any]:
    """Summed evidence and logits on all images."""
    own = network.model if isinstance(network, SoftCAM) and network.fused is not None else None
    reference = original if original is not None else own
    select = network.select if isinstance(network, SoftCAM) else call.select
    made, logits = [], []
    with hooks.untouched(network), hooks.untouched(reference or network), torch.no_grad():
        for rows in torch.split(torch.arange(len(images)), batch_size):
            part, x = call.rows(rows), images[rows]
            seen = part.evidence(x)
            made.append(seen.maps.flatten(2).mean(2) + seen.bias)
            logits.append(seen.logits if reference is None else as_logits(select(part.run(reference, x))))
    return compared(torch.cat(made), torch.cat(logits), network.task)


def compared(
    made: Float[Tensor, "images classes"], logits: Float[Tensor, "images classes"], task: Task
) -> dict[str, Any]:
    """How far apart two sets of logits are: the fields `images` to `kl` of a `Certificate`, and whether they `differ`."""
    allowed = max(ROUNDING, 8 * torch.finfo(logits.dtype).eps)
    a, b = made.double().cpu(), logits.double().cpu()
    error, spread = (a - b).abs(), heads.spread(b)
    relative = float(error.max()) / spread
    return {
        "images": len(b), "parity": float(error.max()), "parity_relative": relative, "p99": float(np.quantile(error.numpy(), 0.99)),
        "flips": int((_answers(a) != _answers(b)).sum()), "kl": None if task == "regression" else float(divergence(b, a, task).max()),
        "differ": not relative <= allowed,
    }  # fmt: skip


def divergence(
    p: Float[Tensor, "images classes"], q: Float[Tensor, "images classes"], task: Task
) -> Float[Tensor, "images"]:
    """The Kullback-Leibler divergence of the probabilities of logits q from those of logits p, in nats.

    Of a softmax over the classes; for labels that do not exclude each other and single logits the sum over their yes
    and no.
    """
    if task == "multiclass":
        return F.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="none", log_target=True).sum(1).clamp_min(0)
    yes = p.sigmoid() * (F.logsigmoid(p) - F.logsigmoid(q))
    no = (-p).sigmoid() * (F.logsigmoid(-p) - F.logsigmoid(-q))
    return (yes + no).sum(1).clamp_min(0)


def _answers(logits: Tensor) -> Tensor:
    return logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0] > 0
