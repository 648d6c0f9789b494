"""The score of the input seen through random masks (Petsiuk et al. 2018)."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid import backends, inputs
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.explanation import Attribution
from pellucid.targets import Target


def rise(
    call: Call,
    x: Float[Tensor, "batch channels *spatial"],
    target: Target,
    *,
    masks: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    baseline: inputs.Baseline = "zero",
    centred: bool = True,
    batch_size: int | None = None,
    backend: backends.Backend | None = None,
    precision: backends.Precision | None = None,
    generator: torch.Generator | None = None,
) -> Attribution:
    """Masks M weighted by the score of what they leave, sum_i f(x * M_i) M_i / (keep * masks).

    The paper's f is a probability, which is never negative; the score here is a logit, and whatever is added to all
    logits would be added to the map, with the noise of the masks. `centred` therefore weighs by f minus its mean over the
    masks: positive where seeing a place raises the score. centred=False is the paper's sum to the letter.

    Masks (section 3.2): a coarse grid of zeros and ones, 1 with probability `keep`, `cells` along each axis, stretched by
    linear interpolation to (cells + 1) C samples with C = ceil(side / cells), and cut to the input's size at a random
    offset below C. (The paper rounds C down, which leaves too little to cut from where cells do not divide the side.)
    masks: the paper uses 4000 to 8000; the error falls as 1 / sqrt(masks). Each is one forward pass.
    baseline: what is seen where the mask is 0 (see `inputs.baseline`); the paper's is zero.
    batch_size: how many masked inputs go through the network at a time; by default a few megabytes of them. backend,
    precision: a fast way to run them ("compile", "onnxruntime"; "bf16"; see `backends.fast`).
    generator: by default a new one with seed 0. It is read but not moved on, and every input meets the same masks, so a
    batch gives what its inputs give one by one.

    Raises `OptionError` for impossible options, a backend or precision that cannot be had or gives something else.
    """
    inputs.check_counts(masks=masks, cells=cells)
    batch_size = inputs.pass_size(x, batch_size)
    if not 0 < keep < 1:
        raise OptionError(f"keep={keep} is not possible.", hint="Give a probability between 0 and 1.")
    seen = inputs.observe(call, x, target)
    fast = backends.fast(call, x, seen.output, min(batch_size, masks * len(x)), backend, precision)
    filled = inputs.baseline(x, baseline)
    grids, shifts = _drawn(x.shape[2:], masks, cells, keep, generator)
    weighted = torch.zeros(len(x), x.shape[2:].numel(), dtype=torch.float64, device=x.device)
    # What all masks share falls out below; taken off first, it leaves no rounding behind that could be drawn.
    shared = seen.target(seen.output).double() if centred else torch.zeros(len(x)).to(weighted)
    for rows, parts in inputs.passes(masks, len(x), batch_size):
        total, covered = torch.zeros(len(rows), 1).to(weighted), torch.zeros_like(weighted[:1])
        for part in parts:
            mask = _enlarged(grids[part], shifts[part], x.shape[2:], cells).to(x.device)
            changed = torch.lerp(filled[rows], x[rows], mask.to(x)[:, None, None])
            found = inputs.scores(fast.call, changed, seen.target, rows).double() - shared[rows]
            flat = mask.flatten(1)
            total, covered = total + found.sum(0)[:, None], covered + flat.sum(0)
            with torch.autocast(x.device.type, enabled=False):
                weighted[rows] += found.T @ flat
        if centred:
            weighted[rows] -= total / masks * covered
    values = (weighted / (keep * masks)).view(len(x), 1, *x.shape[2:])
    made = seen.attribution(values.to(torch.promote_types(x.dtype, torch.float32)), "sum")
    return replace(made, notes=fast.notes)


def _drawn(
    size: torch.Size, masks: int, cells: int, keep: float, generator: torch.Generator | None
) -> tuple[Bool[Tensor, "masks *grid"], Int[Tensor, "masks axes"]]:
    """The coarse grids, and where each is cut along the axes. An axis of one sample needs neither and draws nothing."""
    source = generator.clone_state() if generator is not None else torch.Generator().manual_seed(0)
    grid = [cells if n > 1 else 1 for n in size]
    ones = torch.rand(masks, *grid, generator=source, device=source.device) < keep
    shifts = torch.zeros(masks, len(size), dtype=torch.long)
    for axis, n in enumerate(size):
        if n > 1:
            drawn = torch.randint(ceil(n / cells), (masks,), generator=source, device=source.device)
            shifts[:, axis] = drawn.cpu()
    return ones.cpu(), shifts


def _enlarged(
    grids: Bool[Tensor, "part *grid"], shifts: Int[Tensor, "part axes"], size: torch.Size, cells: int
) -> Float[Tensor, "part *size"]:
    """Linear interpolation between the grid's cells, each mask cut out at its own place; axis by axis."""
    masks = grids.double()
    for axis, n in enumerate(size, start=1):
        last = masks.shape[axis] - 1
        place = (torch.arange(n) + shifts[:, axis - 1 : axis] + 0.5) / (ceil(n / cells) * (cells + 1) / cells) - 0.5
        away = place.clamp(0, last)[:, :, None] - torch.arange(last + 1)
        weights = (1 - away.abs()).clamp_min(0).to(masks)
        lines = masks.movedim(axis, 1)
        drawn = weights @ lines.reshape(len(masks), last + 1, -1)
        masks = drawn.view(len(masks), n, *lines.shape[2:]).movedim(1, axis)
    return masks
