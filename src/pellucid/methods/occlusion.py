"""How far the score falls when a part of the input is covered (Zeiler and Fergus 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import backends, inputs
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.explanation import Attribution
from pellucid.targets import Target


def occlusion(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    window: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    baseline: inputs.Baseline = "zero",
    batch_size: int | None = None,
    backend: backends.Backend | None = None,
    precision: backends.Precision | None = None,
) -> Attribution:
    """score(x) - score(x with a window covered), for each window; a sample gets the mean over the windows that cover it.

    arXiv:1311.2901, section 4.2. All channels are covered at once. Units of the score; positive where covering hurts.

    window, stride: in samples, for all axes or one per axis. By default windows are an eighth of each side and lie side
    by side, which takes 8 passes per axis. The last window of an axis may reach over the edge and is then smaller.
    baseline: what covers: "zero", "mean", "blur", a number or a tensor (see `inputs.baseline`).
    batch_size: how many covered inputs go through the network at a time; by default a few megabytes of them. backend,
    precision: a fast way to run them ("compile", "onnxruntime"; "bf16"; see `backends.fast`). bf16 keeps three digits of
    a score, so small windows, whose drops are differences of nearly equal scores, may drown in its rounding.

    Raises `OptionError` for windows that do not fit or would leave gaps, and for a backend or precision that cannot be
    had or gives something else.
    """
    size = x.shape[2:]
    sides = _per_axis(window, size, [ceil(n / 8) for n in size], "window")
    steps = _per_axis(stride, sides, sides, "stride")
    covers = [_covers(n, w, s).to(x.device) for n, w, s in zip(size, sides, steps, strict=True)]
    counts = [len(c) for c in covers]
    batch_size = inputs.pass_size(x, batch_size)
    seen = inputs.observe(call, x, target)
    fast = backends.fast(call, x, seen.output, min(batch_size, prod(counts) * len(x)), backend, precision)
    filled = inputs.baseline(x, baseline)
    after = torch.zeros(len(x), prod(counts), dtype=torch.float64, device=x.device)
    for rows, parts in inputs.passes(prod(counts), len(x), batch_size):
        for part in parts:
            covered = _windows(covers, torch.unravel_index(part, counts))[:, None, None]
            changed = torch.where(covered, filled[rows], x[rows])
            after[rows[:, None], part] = inputs.scores(fast.call, changed, seen.target, rows).double().T
    before = seen.target(seen.output).double()
    drop = _mean_over_windows((before[:, None] - after).view(-1, *counts), covers)
    made = seen.attribution(drop.to(torch.promote_types(x.dtype, torch.float32))[:, None], "sum")
    return replace(made, notes=fast.notes)


def _per_axis(
    value: int | Sequence[int] | None, largest: Sequence[int], default: Sequence[int], name: str
) -> list[int]:
    """One number per axis, from 1 to the largest that makes sense there."""
    given = list(default) if value is None else [value] * len(largest) if isinstance(value, int) else list(value)
    if len(given) != len(largest) or not all(1 <= g <= m for g, m in zip(given, largest, strict=True)):
        raise OptionError(
            f"{name}={value} is not possible.",
            why=f"It has to be at least 1 and at most {tuple(largest)} along the axes.",
            hint="Windows fit into the input; strides are no longer than windows, or some samples would never be covered.",
        )
    return given


def _covers(n: int, window: int, stride: int) -> Bool[Tensor, "windows n"]:
    """Which samples of one axis each window covers."""
    start = stride * torch.arange(ceil((n - window) / stride) + 1)[:, None]
    place = torch.arange(n)
    return (place >= start) & (place < start + window)


def _windows(covers: Sequence[Bool[Tensor, "windows n"]], index: Sequence[Tensor]) -> Bool[Tensor, "part *spatial"]:
    """The windows with the given number on each axis, as masks."""
    rank = len(covers)
    mask = torch.ones((), dtype=torch.bool, device=covers[0].device)
    for axis, (cover, i) in enumerate(zip(covers, index, strict=True)):
        mask = mask & cover[i].view(len(i), *(1,) * axis, -1, *(1,) * (rank - 1 - axis))
    return mask


def _mean_over_windows(
    drop: Float[Tensor, "batch *windows"], covers: Sequence[Bool[Tensor, "windows n"]]
) -> Float[Tensor, "batch *spatial"]:
    """For every sample the mean over the windows that cover it. The axes of windows become axes of samples in turn."""
    with torch.autocast(drop.device.type, enabled=False):
        for cover in covers:
            share = cover.to(drop) / cover.to(drop).sum(0)
            drop = torch.tensordot(drop, share, dims=([1], [0]))
    return drop
