"""Smooth Grad-CAM++ (Omeiza et al. 2019)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks, inputs, spatial
from pellucid.call import Call
from pellucid.errors import OptionError, nearest
from pellucid.explanation import Attribution
from pellucid.feature_map import FeatureMap, full_precision, observe
from pellucid.targets import Target

NUMERATORS = ("second", "first")


def smooth_grad_cam_plus_plus(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    samples: int = 16,
    noise: float = 0.15,
    numerator: Literal["second", "first"] = "second",
    rectify: bool = False,
    batch_size: int = 16,
    generator: torch.Generator | None = None,
) -> Attribution:
    """Grad-CAM++ with derivatives averaged over noisy copies of the input: sum_k w_k A_k, A_k of the clean input.

    With D_p the mean over the copies of g^p, g = d score / d A_k(i,j), and S_k the sum of A_k,

        alpha = D_2 / (2 D_2 + S_k D_3)      and      w_k = sum_ij alpha relu(D_1).

    numerator: the paper prints D_1 above the line, with which the method without noise is not Grad-CAM++; "second" is
    what it generalises (torch-cam corrects it in the same way), "first" is as printed. The powers of g stand for the
    derivatives of exp(score) as in equation 19 of Grad-CAM++; the factors exp(score), which would let one copy outvote
    the others, are left out. torch-cam differs in more: g^3 inside the sum over places, relu(g) and A_k
    of the last copy alone.

    samples: how many copies. noise: their standard deviation as a share of each input's range. Every input meets the
    same draws. batch_size: how many copies go through the network at a time. generator: by default a new one with
    seed 0; it is read but not moved on, so a batch in parts gives what the batch gives.

    Raises `OptionError` for impossible options and `LayerError` as `grad_cam` does.
    """
    inputs.check_counts(samples=samples, batch_size=batch_size)
    if noise < 0:
        raise OptionError(f"noise={noise} is not possible.", hint="Give the noise as a share of the range, 0 or more.")
    if numerator not in NUMERATORS:
        raise OptionError(f"There is no numerator '{numerator}'.", hint=nearest(numerator, NUMERATORS))
    seen = observe(call, x, target, layer)
    first, second, third = _moments(call, _draws(x, samples, noise, generator), x, seen, batch_size)
    total = seen.activation.flatten(2).sum(2, keepdim=True)
    below = 2 * second + total * third
    above = (second if numerator == "second" else first) * first.relu()
    weights = torch.where(below == 0, 0, above / below).sum(2)
    return seen.attribution(spatial.combine(seen.activation, weights), rectify)


def _draws(x: Tensor, samples: int, noise: float, generator: torch.Generator | None) -> Tensor:
    """`(samples, channels, *spatial)`: noise in units of an input's range."""
    source = generator.clone_state() if generator is not None else torch.Generator().manual_seed(0)
    drawn = torch.randn((samples, *x.shape[1:]), generator=source, device=source.device)
    return noise * drawn.to(x)


def _moments(call: Call, draws: Tensor, x: Tensor, seen: FeatureMap, batch_size: int) -> Float[Tensor, "3 b k cells"]:
    """The mean first, second and third power of the gradient at the layer, over the noisy copies of each input."""
    spread = spatial.expand(x.flatten(1).amax(1) - x.flatten(1).amin(1), x)
    found = seen.activation.flatten(2).new_zeros(3, *seen.activation.flatten(2).shape)
    for part in torch.split(torch.arange(len(x) * len(draws), device=x.device), batch_size):
        rows, copies = part % len(x), part // len(x)
        noisy = x[rows] + spread[rows] * draws[copies]
        with hooks.tap(call.model, seen.module) as taken:
            score = seen.target.rows(rows.cpu())(call.rows(rows)(noisy))
            slope = full_precision(hooks.gradient(score, taken.feature_map(noisy), f"layer '{taken.name}'")).flatten(2)
        for power, kept in enumerate(found, start=1):
            kept.index_add_(0, rows, slope**power)
    return found / len(draws)
