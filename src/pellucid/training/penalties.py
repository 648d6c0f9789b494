"""Penalties on evidence maps `(batch, classes, *grid)`.

Each is the mean over inputs of a number per input, so that no input sees another one. With the reduction "mean" the
number is also a mean over classes and cells: in logit units, and the same at every resolution. With "paper_sum" it is
the sum (for l2_norm the Euclidean norm) over classes and cells. For n = classes x cells the strengths correspond as

    strength_mean = strength_sum * n          (l1, l2)
    strength_mean = strength_sum * sqrt(n)    (l2_norm)
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
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


def paper_code(maps: Float[Tensor, "batch classes *grid"], penalty: str, *, l1_share: float = 0.5) -> Float[Tensor, ""]:
    """The penalty as the SoftCAM authors' code computes it: first input of the batch, sum, unsquared norm.

    "l2" and "l2_norm" are the same there; "elastic_net" adds the sum of |A| and the norm in the shares of `l1_share`.
    """
    first = maps[:1]
    size, norm = l1(first, reduction="paper_sum"), l2_norm(first, reduction="paper_sum")
    return {"l1": size, "l2": norm, "l2_norm": norm, "elastic_net": l1_share * size + (1 - l1_share) * norm}[penalty]


def of_config(config: TrainingConfig, maps: Float[Tensor, "batch classes *grid"], labels: Tensor) -> Float[Tensor, ""]:
    """The penalty that the settings ask for, before it is multiplied by the strength."""
    if config.compat == "paper-code":
        return paper_code(maps, config.penalty, l1_share=config.l1_share)
    chosen = penalised(maps, labels, config.penalty_classes)
    share = {"l1_share": config.l1_share} if config.penalty == "elastic_net" else {}
    value: Tensor = look_up(PENALTIES, config.penalty, "penalty")(chosen, reduction=config.reduction, **share)
    return value if len(chosen) else maps.sum() * 0


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


__all__ = ["elastic_net", "l1", "l2", "l2_norm", "of_config", "paper_code", "penalised"]
