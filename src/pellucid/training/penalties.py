"""Penalties on evidence maps `(batch, classes, *grid)`.

Each is the mean over inputs of a number per input, so that no input sees another one. With the reduction "mean" the
number is also a mean over classes and cells, and the same at every resolution: a map of twice the cells in which every
value stands twice has the same penalty. With "paper_sum" it is the sum (for l2_norm the Euclidean norm) over classes and
cells. For n = classes x cells the strengths correspond as

    strength_mean = strength_sum * n          (l1, l2)
    strength_mean = strength_sum * sqrt(n)    (l2_norm)
"""

from __future__ import annotations

from math import log
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.errors import OptionError
from pellucid.registry import look_up
from pellucid.training import PENALTIES
from pellucid.training.config import TrainingConfig

Reduction = Literal["mean", "paper_sum"]


def l1(maps: Float[Tensor, "batch classes *grid"], *, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """Mean |A|: how large the evidence is, in logits."""
    return _per_input(maps.abs(), reduction).mean()


def l2(maps: Float[Tensor, "batch classes *grid"], *, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """Mean A^2 (ridge). At a given mean it is smallest for an even map."""
    return _per_input(maps.square(), reduction).mean()


def l2_norm(maps: Float[Tensor, "batch classes *grid"], *, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """Root mean square of each input's evidence, or its Euclidean norm: the unsquared norm of the published code.

    The gradient at an all-zero map is taken to be zero.
    """
    rows = maps.flatten(1)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    scale = rows.shape[1] ** 0.5 if reduction == "mean" else 1.0
    return (norms / scale).mean()


def elastic_net(
    maps: Float[Tensor, "batch classes *grid"], *, reduction: Reduction = "mean", l1_share: float = 0.5
) -> Float[Tensor, ""]:
    """l1_share * l1 + (1 - l1_share) * l2."""
    return l1_share * l1(maps, reduction=reduction) + (1 - l1_share) * l2(maps, reduction=reduction)


def log_sum(
    maps: Float[Tensor, "batch classes *grid"], *, reduction: Reduction = "mean", scale: float = 0.1
) -> Float[Tensor, ""]:
    """Mean log(1 + |A| / scale): the pull on a cell falls with its size, so weak evidence goes and strong stays.

    scale: in logits; well above it a cell is counted rather than measured.
    """
    return _per_input((maps.abs() / scale).log1p(), reduction).mean()


def hoyer(maps: Float[Tensor, "batch classes *grid"], *, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """mean(|A|)^2 / mean(A^2) of every map: 1 for an even one, 1 / cells for a single cell, 0 for none at all.

    It does not depend on the size of the evidence. With "paper_sum" it is (sum |A|)^2 / sum A^2, summed over classes.
    """
    rows = maps.flatten(2)
    cells = rows.shape[2]
    spread = rows.abs().mean(2).square() / rows.square().mean(2).clamp_min(torch.finfo(rows.dtype).tiny)
    return _per_input(spread if reduction == "mean" else spread * cells, reduction).mean()


def total_variation(maps: Float[Tensor, "batch classes *grid"], *, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """How far the evidence rises and falls along a line across the map, in logits: mean over lines and axes.

    With "paper_sum" the differences of all neighbours are added up.
    """
    ways = []
    for axis in range(2, maps.ndim):
        along = maps.diff(dim=axis).abs().sum(axis, keepdim=True)
        ways.append(_per_input(along, reduction))
    total = torch.stack(ways)
    return (total.mean(0) if reduction == "mean" else total.sum(0)).mean()


def entropy(maps: Float[Tensor, "batch classes *grid"], *, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """Entropy of where the size of the evidence lies, in nats, less that of an even map: 0 there, -log(cells) in one cell.

    With "paper_sum" the entropies themselves are summed over classes. A map of zeros has no place: it counts as even.
    """
    size = maps.abs().flatten(2)
    cells = size.shape[2]
    p = size / size.sum(2, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
    own = -torch.xlogy(p, p.clamp_min(torch.finfo(size.dtype).tiny)).sum(2)
    own = torch.where(size.sum(2) > 0, own, log(cells))
    return _per_input(own - log(cells) if reduction == "mean" else own, reduction).mean()


def mask(
    maps: Float[Tensor, "batch classes *grid"],
    *,
    reduction: Reduction = "mean",
    inside: Bool[Tensor, "batch *grid"] | None = None,
) -> Float[Tensor, ""]:
    """Mean |A| with the cells `inside` left out of the sum (not of the number it is divided by)."""
    return l1(maps if inside is None else maps * ~inside.unsqueeze(1), reduction=reduction)


def paper_code(maps: Float[Tensor, "batch classes *grid"], penalty: str, *, l1_share: float = 0.5) -> Float[Tensor, ""]:
    """The penalty as the SoftCAM authors' code computes it: first input of the batch, sum, unsquared norm.

    "l2" and "l2_norm" are the same there; "elastic_net" adds the sum of |A| and the norm in the shares of `l1_share`.
    """
    first = maps[:1]
    size, norm = l1(first, reduction="paper_sum"), l2_norm(first, reduction="paper_sum")
    return {"l1": size, "l2": norm, "l2_norm": norm, "elastic_net": l1_share * size + (1 - l1_share) * norm}[penalty]


def of_config(
    config: TrainingConfig,
    maps: Float[Tensor, "batch classes *grid"],
    labels: Tensor,
    inside: Bool[Tensor, "batch *grid"] | None = None,
) -> Float[Tensor, ""]:
    """The penalty that the settings ask for, before it is multiplied by the strength. 0 where no input counts.

    inside: for "mask", the cells that hold some of each input's mask; an input without any does not count.
    """
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    if config.compat == "paper-code":
        return paper_code(maps, config.penalty, l1_share=config.l1_share)
    if inside is not None:
        # What is left out of all classes is left out of any choice or difference of them.
        known = inside.flatten(1).any(1)
        maps, labels = (maps * ~inside.unsqueeze(1))[known], labels[known]
    chosen = penalised(maps, labels, config.penalty_classes)
    if not len(chosen):
        return maps.sum() * 0
    value: Tensor = look_up(PENALTIES, config.penalty, "penalty")(
        chosen, reduction=config.reduction, **_options(config)
    )
    return value


def counted(
    config: TrainingConfig, labels: Tensor, masks: Bool[Tensor, "batch *spatial"] | None = None, *, exclusive: bool
) -> int:
    """How many inputs the penalty is the mean over; with "target" and classes that are not exclusive: how many labels."""
    if masks is not None:
        labels = labels[masks.flatten(1).any(1)]
    return len(labels) if exclusive or config.penalty_classes != "target" else int((labels > 0.5).sum())


def _options(config: TrainingConfig) -> dict[str, Any]:
    known = {"elastic_net": {"l1_share": config.l1_share}, "log_sum": {"scale": config.log_sum_scale}}
    return known.get(config.penalty, {})


def penalised(
    maps: Float[Tensor, "batch classes *grid"], labels: Tensor, classes: Literal["all", "target", "contrast"]
) -> Tensor:
    """The maps that count: all, the labelled class's, or the labelled class's minus the mean of the others.

    labels: a class index per input, or one 0/1 per class (then "target" picks the maps of the labels that are 1).
    Raises `OptionError` for a contrast where classes do not exclude one another.
    """
    if classes == "all":
        return maps
    exclusive = labels.ndim == 1 and maps.shape[1] > 1
    if not exclusive:
        if classes == "contrast":
            raise OptionError(
                "There is no contrast between labels that do not exclude one another.",
                hint="Use penalty_classes='target' or 'all'.",
            )
        return maps[labels.view(maps.shape[:2]) > 0.5].unsqueeze(1)
    own = maps[torch.arange(len(maps), device=maps.device), labels].unsqueeze(1)
    if classes == "target":
        return own
    return own - (maps.sum(1, keepdim=True) - own) / (maps.shape[1] - 1)


def _per_input(values: Tensor, reduction: Reduction) -> Float[Tensor, " batch"]:
    rows = values.flatten(1)
    return rows.mean(1) if reduction == "mean" else rows.sum(1)


__all__ = [
    "counted", "elastic_net", "entropy", "hoyer", "l1", "l2", "l2_norm", "log_sum", "mask", "of_config", "paper_code", "penalised", "total_variation",
]  # fmt: skip
