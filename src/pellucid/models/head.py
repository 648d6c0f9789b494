"""What the rest of a network makes of a feature map: is it a linear head on the map's mean, and with which weights?

Every test runs in double precision on large, sign-changing features that differ from place to place. Small changes of
real features would miss what bends only elsewhere: with them a cut before DenseNet's functional ReLU looks linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.errors import ConversionError

Tail = Callable[[Tensor], Tensor]
Pooling = Literal["mean", "sum"]

# Affine tails leave at most 1e-14 of the logits' spread, curved ones at least 1e-3: anything between will do.
TOLERANCE = 1e-9
_SCALES = (0.1, 3.0, 100.0)
_DIRECTIONS = 8


@dataclass(frozen=True)
class Reading:
    """What was found out about a tail.

    residual: departure from affinity, relative to the spread of the logits. channel_axis: of the features, 1 or -1;
    None where no axes behave like places. slopes (k, channels): k random combinations of the logits differentiated by
    one place's channels. directions (k, classes): these combinations. used, places: how many places matter, of how many.
    """

    residual: float
    channel_axis: int | None
    slopes: Tensor
    directions: Tensor
    used: int
    places: int
    mixes_batch: bool

    @property
    def affine(self) -> bool:
        return self.residual <= TOLERANCE


def features_like(shape: Iterable[int], scale: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Sign-changing random features: a part that differs everywhere and parts common to all places of a channel."""
    shape = tuple(shape)
    first = (*shape[:2], *(1,) * (len(shape) - 2))
    last = (shape[0], *(1,) * (len(shape) - 2), shape[-1])
    parts = [torch.randn(s, generator=generator, dtype=torch.float64) for s in (shape, first, last)]
    return (scale * sum(parts)).to(device)  # type: ignore[union-attr]


def spread(logits: Float[Tensor, "batch classes"]) -> float:
    """The logits' standard deviation over inputs and classes; their size where there is only one."""
    if logits.numel() > 1 and float(logits.double().std()) > 0:
        return float(logits.double().std())
    return float(logits.double().abs().max()) or 1.0


def departure(tail: Tail, shape: Iterable[int], device: torch.device, seed: int = 0) -> float:
    """How far `tail` is from affine: |f(au + (1-a)v) - a f(u) - (1-a) f(v)| over the spread of f, the worst of all scales."""
    generator, worst, shape = torch.Generator().manual_seed(seed), 0.0, tuple(shape)
    with torch.no_grad():
        for scale in _SCALES:
            u, v = (features_like(shape, s, generator, device) for s in (scale, 10 * scale))
            fu, fv, between = tail(u), tail(v), tail(0.37 * u + 0.63 * v)
            error = float((between - 0.37 * fu - 0.63 * fv).abs().max()) / max(spread(fu), spread(fv))
            worst = max(worst, error if error == error else float("inf"))
    return worst


def read(tail: Tail, shape: tuple[int, ...], device: torch.device, seed: int = 1) -> Reading:
    """Find out whether `tail` is affine in features of this shape, which axes are places, and its slope per channel."""
    residual = departure(tail, shape, device)
    generator = torch.Generator().manual_seed(seed)
    features = features_like(shape, 3.0, generator, device).requires_grad_()
    with torch.enable_grad():
        logits = tail(features)
        directions = torch.randn(_DIRECTIONS, logits.shape[1], generator=generator, dtype=torch.float64).to(device)
        if not logits.requires_grad:
            slopes = torch.zeros(_DIRECTIONS, *shape, dtype=torch.float64, device=device)
        else:
            scores = (logits[0] @ directions.T).unbind()
            slopes = torch.stack([torch.autograd.grad(s, features, retain_graph=True)[0] for s in scores])
    mixes = bool(slopes[:, 1:].abs().max() > 0) if shape[0] > 1 else False
    slopes = slopes[:, 0]
    size = float(slopes.abs().max())
    guesses = [slopes.flatten(2), slopes.movedim(-1, 1).flatten(2)]  # (k, channels, places), channels first or last
    used, places = min(
        ((int((g.abs().amax((0, 1)) > 1e-12 * size).sum()), g.shape[2]) for g in guesses), key=lambda n: n[0] / n[1]
    )
    for axis, guess in zip((1, -1), guesses, strict=True):
        mean = guess.mean(2, keepdim=True)
        if size > 0 and float((guess - mean).abs().max()) <= TOLERANCE * size:
            return Reading(residual, axis, mean[..., 0], directions, used, guess.shape[2], mixes)
    return Reading(residual, None, slopes.flatten(1), directions, used, places, mixes)


def full_weight(
    tail: Tail, shape: tuple[int, ...], axis: int, device: torch.device
) -> Float[Tensor, "classes channels"]:
    """The tail's answer to every channel alone, held at 1 in all places: the weight of the linear head it equals."""
    features = torch.zeros(shape, dtype=torch.float64, device=device)
    by_channel = features.movedim(axis, 1)
    with torch.no_grad():
        bias, columns = tail(features)[0], []
        for channels in torch.split(torch.arange(by_channel.shape[1]), shape[0]):
            features.zero_()
            for row, channel in enumerate(channels.tolist()):
                by_channel[row, channel] = 1
            columns.append(tail(features.clone())[: len(channels)] - bias)
    return torch.cat(columns).T


def check_head(
    tail: Tail,
    shape: Iterable[int],
    weight: Float[Tensor, "classes channels"],
    bias: Float[Tensor, " classes"],
    *,
    channel_axis: int = 1,
    pooling: Pooling = "mean",
    seed: int = 2,
) -> float:
    """Compare `tail` with "evidence = weight at every place, pooled, plus bias" on random features of `shape`.

    Returns the largest difference over the spread of the logits. Raises `ConversionError` above 1e-9: the evidence
    would then not be what the network computes, whatever it does on a few images.
    """
    generator, worst, shape = torch.Generator().manual_seed(seed), 0.0, tuple(shape)
    weight, bias = weight.detach().double(), bias.detach().double()
    with torch.no_grad():
        for scale in _SCALES:
            features = features_like(shape, scale, generator, weight.device)
            for probe in (features, features.relu()):
                cells = probe.movedim(channel_axis, 1).flatten(2)
                pooled = cells.mean(2) if pooling == "mean" else cells.sum(2)
                logits = tail(probe)
                error = float((pooled @ weight.T + bias - logits).abs().max()) / spread(logits)
                worst = max(worst, error if error == error else float("inf"))
    if worst > TOLERANCE:
        raise ConversionError(
            "The head is not linear in the mean of this feature map, so its evidence would not add up to the logits.",
            why=f"On random features the two differ by {worst:.1g} of the logits' spread; {TOLERANCE:g} is allowed.",
            hint="Cut the network later: after every activation, right before the pooling.",
        )
    return worst


def matching_layer(
    candidates: Iterable[tuple[str, nn.Module]], reading: Reading, bias: Float[Tensor, " classes"]
) -> tuple[str, Pooling] | None:
    """The one linear layer or 1x1 convolution whose weight and bias are exactly the tail's."""
    for name, module in candidates:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and _is_linear(module) and weight.shape[0] == len(bias):
            given = getattr(module, "bias", None)
            own = given.detach().double() if isinstance(given, Tensor) else torch.zeros_like(bias)
            pooling = slope_pooling(weight.detach().double().flatten(1), reading)
            if pooling and own.shape == bias.shape and _close(own, bias):
                return name, pooling
    return None


def slope_pooling(weight: Float[Tensor, "classes channels"], reading: Reading) -> Pooling | None:
    """Whether the tail's slopes are this weight under mean pooling, under sum pooling, or not this weight at all."""
    if weight.shape[1] != reading.slopes.shape[1]:
        return None
    projected = reading.directions @ weight
    if _close(projected, reading.slopes * reading.places):
        return "mean"
    return "sum" if _close(projected, reading.slopes) else None


def _is_linear(module: nn.Module) -> bool:
    weight: Any = module.weight
    kernel = getattr(module, "kernel_size", None)
    return isinstance(module, nn.Linear) or (kernel is not None and prod(weight.shape[2:]) == 1 and weight.ndim > 2)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * max(float(a.abs().max()), float(b.abs().max()), 1e-30))
