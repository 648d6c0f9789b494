"""What a region says, beside what it does: the evidence in it, and the change of the score when it comes from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid import hooks, spatial
from pellucid.api import explain
from pellucid.call import Call, has_evidence, weights_device
from pellucid.errors import BadInput, OptionError
from pellucid.targets import SeveralTargets, Target


@dataclass(frozen=True)
class RegionEffect:
    """Per input and region, in the score's units; all `(batch, regions)`.

    evidence: the sum of the cells in the region. effect: how far the score falls, on average over the draws, when the
    region's content comes from other inputs. deviation: the standard deviation of that fall over the draws.
    """

    evidence: Float[Tensor, "batch regions"]
    effect: Float[Tensor, "batch regions"]
    deviation: Float[Tensor, "batch regions"]
    draws: int


def region_effect(
    model: nn.Module,
    x: Float[Tensor, "batch channels *spatial"],
    regions: Bool[Tensor, "regions *spatial"],
    target: Any = None,
    *,
    others: Float[Tensor, "others channels *spatial"] | None = None,
    draws: int = 8,
    batch_size: int = 16,
    seed: int = 0,
    **options: Any,
) -> RegionEffect:
    """Exchange regions of every input for what other inputs have at the same place, and compare with their evidence.

    A region of large evidence and no effect is shown but not used there: its evidence comes from elsewhere, or the rest
    of the input makes up for it. The seam counts as change too, and so does what the other input has in that place; the
    effect is that of an exchange, not of "nothing there".

    regions: masks, the same for all inputs. others: what to draw from, by default the other inputs of the batch. draws:
    exchanges per input and region, without repeating one while there are enough. options: of `explain`, whose map has to
    be complete.

    Raises `OptionError` for a map that does not add up or for several targets, `BadInput` for masks or others that do
    not fit.
    """
    e = explain(model, x, target, batch_size=batch_size, seed=seed, **options)
    if isinstance(e.target, SeveralTargets):
        raise OptionError("A region's effect is on one score.", hint="Give one target.")
    cells = e.contributions().cells
    device = weights_device(model)
    x = x.detach().to(device)
    source = x if others is None else others.detach().to(x)
    _check(x, regions, source, others is None)
    output = options.get("output") or (getattr(model, "output", None) if has_evidence(model) else None)
    call = Call(
        model,
        tuple(options.get("args", ())),
        dict(options.get("kwargs") or {}),
        output,
        options.get("input_name"),
        len(x),
    )
    chosen = _chosen(len(x), len(source), draws, others is None, seed)
    falls = x.new_zeros(len(x), len(regions), chosen.shape[1], dtype=torch.float64)
    masks = regions.to(device)
    with hooks.untouched(model), torch.no_grad():
        for rows, region, draw in _passes(falls.shape, batch_size):
            changed = torch.where(masks[region, None], source[chosen[rows, draw]], x[rows])
            falls[rows, region, draw] = _score(e.target, call, rows, changed)
    falls = e.score.double().to(device)[:, None, None] - falls
    deviation = falls.std(2) if falls.shape[2] > 1 else torch.full_like(falls[..., 0], torch.nan)
    found = spatial.region_sums(cells, regions, e.geometry)
    return RegionEffect(found.to(cells), falls.mean(2).to(cells), deviation.to(cells), falls.shape[2])


def _score(target: Target, call: Call, rows: Tensor, changed: Tensor) -> Tensor:
    return target.rows(rows)(call.rows(rows)(changed)).double()


def _chosen(inputs: int, others: int, draws: int, own: bool, seed: int) -> Tensor:
    """Which of the others each input is mixed with, draw by draw; never itself."""
    generator = torch.Generator().manual_seed(seed)
    count = min(draws, others - own)
    rows = []
    for i in range(inputs):
        order = torch.randperm(others, generator=generator)
        rows.append(order[order != i][:count] if own else order[:count])
    return torch.stack(rows)


def _passes(shape: torch.Size, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Input, region and draw of every changed input, `size` of them at a time."""
    for part in torch.split(torch.arange(shape.numel()), size):
        rows, region, draw = torch.unravel_index(part, shape)
        yield rows, region, draw


def _check(x: Tensor, regions: Tensor, source: Tensor, own: bool) -> None:
    if regions.dtype != torch.bool or regions.shape[1:] != x.shape[2:] or len(regions) == 0:
        raise BadInput(
            f"The regions are {tuple(regions.shape)} of {regions.dtype}.",
            why=f"Masks (regions, *{tuple(x.shape[2:])}) of truth values are needed.",
            hint="One mask of the input's size per region; add the first axis to a single one: mask[None].",
        )
    if source.shape[1:] != x.shape[1:] or len(source) < 1 + own:
        raise BadInput(
            f"There is nothing to draw from: {tuple(source.shape)}.",
            why=f"Other inputs of shape {tuple(x.shape[1:])} are needed.",
            hint="Pass others=, for instance images of the same kind without the finding.",
        )
