"""Gradients added up on the way from a baseline to the input (Sundararajan et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid import inputs
from pellucid.call import Call
from pellucid.errors import OptionError, nearest
from pellucid.explanation import Attribution
from pellucid.feature_map import full_precision
from pellucid.targets import Target


def integrated_gradients(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    steps: int = 50,
    baseline: inputs.Baseline = "zero",
    rule: Literal["gauss_legendre", "midpoint"] = "gauss_legendre",
    reduce: inputs.Reduce = "sum",
    batch_size: int = 16,
) -> Attribution:
    """Equation 1: (x - x') times the mean of d score / d x over the straight line from the baseline x' to x.

    The exact integral adds up to score(x) - score(x') (the paper's completeness, proposition 1); a sum over `steps`
    points does so nearly. `constant` is score(x'), so score - sum(map) - constant is what is missing, and more steps
    make it smaller. It is never spread over the map.

    steps: gradients per input; the paper uses 20 to 300. rule: where on the line they are taken. "gauss_legendre" is
    exact for smooth scores with few points, "midpoint" takes the middles of equal pieces.
    baseline: what counts as nothing there: "zero", "mean", "blur", a number or a tensor (see `inputs.baseline`).
    reduce: how channels become one value: "sum" (keeps sign and total), "abs_max" or "none".
    batch_size: how many points go through the network at a time.

    Raises `OptionError` for impossible options.
    """
    inputs.check_reduction(reduce)
    inputs.check_counts(steps=steps)
    if rule not in RULES:
        raise OptionError(f"There is no rule '{rule}'.", hint=nearest(rule, RULES))
    seen = inputs.observe(call, x, target)
    start = inputs.baseline(x, baseline)
    way = full_precision(x) - full_precision(start)
    places, weights = (torch.as_tensor(v).to(way).view(-1, *(1,) * x.ndim) for v in RULES[rule](steps))
    slope = torch.zeros_like(way)
    for rows, parts in inputs.passes(steps, len(x), batch_size):
        for k in parts:
            points = start[rows] + places[k] * way[rows]
            slope[rows] += (weights[k] * inputs.slopes(call, points.to(x), seen.target, rows)).sum(0)
    constant = inputs.scores(call, start[None], seen.target, torch.arange(len(x)))[0]
    return seen.attribution(way * slope, reduce, constant)


def _gauss_legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (points + 1) / 2, weights / 2


def _midpoint(steps: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)


# name -> places between 0 and 1, and their weights, which add up to 1
RULES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "gauss_legendre": _gauss_legendre,
    "midpoint": _midpoint,
}
