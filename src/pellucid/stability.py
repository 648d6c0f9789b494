"""How far a map holds: the same decision seen in other ways, and by networks trained alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks, mirror, targets
from pellucid.api import explain, logits_of
from pellucid.call import Call, unwrapped, weights_device
from pellucid.errors import BadInput, OptionError
from pellucid.explanation import Explanation
from pellucid.mirror import View
from pellucid.spatial import Geometry
from pellucid.trials import Kind, Spread


def uncertainty(
    models: nn.Module | Sequence[nn.Module],
    x: Float[Tensor, "batch channels *spatial"],
    target: Any = None,
    *,
    augment: bool | None = None,
    flips: Sequence[int] | None = None,
    shifts: int | None = None,
    **how: Any,
) -> Explanation:
    """`explain`, with the maps of further views of the input, of networks trained alike, or of both.

    The explanation's `spread` holds them, laid cell on cell: mean, deviation, and how many share a cell's sign. `overlay()`
    colours only cells whose sign nine of ten share (`Explanation.settled`), and `text()` names only these.

    models: one network, whose own map stays the explained one; or several (other seeds, other folds), of which the mean
    map and the mean score are explained and still add up.
    augment: whether the usual views are explained: pictures and volumes mirrored along their last axis, and everything
    shifted by one cell to either side along every axis. By default of one network, not of several. flips, shifts: other
    axes and another number of cells than the usual; () and 0 for none. A shift by whole cells changes what a convolution
    sees at the border only: it tells of padding and of layers that see all, hardly of chance.
    how: as for `explain`, the same for all.

    Costs one explanation per network and view.
    Raises `OptionError` for a single member, several targets, or cells that lie no whole number of samples apart, and
    `BadInput` for networks whose maps differ in their grids.
    """
    networks = [models] if isinstance(models, nn.Module) else list(models)
    wanted = target if len(networks) == 1 else _common_target(networks, x, target, how)
    seen = [explain(network, x, wanted, **how) for network in networks]
    if seen[0].several:
        raise OptionError("Several targets at once have no common spread.", hint="Ask for one target at a time.")
    _check_alike(seen)
    usual = len(networks) == 1 if augment is None else augment
    views = _views(seen[0].geometry, usual, flips, shifts)
    names, members = [], []
    for i, (network, own) in enumerate(zip(networks, seen, strict=True)):
        for k, view in enumerate(views):
            member = own if k == 0 else explain(network, view.of(x), own.target, **how)
            names.append(view.name if len(networks) == 1 else f"network {i}, {view.name}")
            members.append(replace(member, map=view.back(member.map)))
    if len(members) < 2:
        raise OptionError(
            "One map has no spread.",
            why="There is one network and one view.",
            hint="Give several networks, or leave flips and shifts as they are.",
        )
    kind: Kind = "views" if len(networks) == 1 else "networks" if len(views) == 1 else "views of networks"
    return replace(_mean(seen), spread=_spread(kind, names, members))


def _common_target(networks: Sequence[nn.Module], x: Tensor, target: Any, how: dict[str, Any]) -> targets.Target:
    """What is asked of all networks: where it is the predicted class, that of their mean output."""
    first = unwrapped(networks[0])
    classes = how.get("classes") or getattr(first, "classes", None)
    wanted = targets.parse(target, task=how.get("task") or getattr(first, "task", None), classes=classes)
    outputs = []
    for network in map(unwrapped, networks):
        output = how.get("output", logits_of(network))
        call = Call(network, tuple(how.get("args", ())), dict(how.get("kwargs") or {}), output, how.get("input_name"))
        with torch.no_grad(), hooks.untouched(network):
            outputs.append(call(x.detach().to(weights_device(network))))
    return wanted.resolve(sum(outputs[1:], start=outputs[0]) / len(outputs))


def _check_alike(seen: Sequence[Explanation]) -> None:
    grids = {e.geometry.grid for e in seen}
    if len(grids) > 1:
        raise BadInput(
            f"The networks' maps have different grids: {', '.join(str(g) for g in sorted(grids))}.",
            why="Maps are compared cell by cell.",
            hint="Give networks of one kind.",
        )


def _views(geometry: Geometry, usual: bool, flips: Sequence[int] | None, shifts: int | None) -> list[View]:
    """The views, first the input as it is."""
    rank = len(geometry.grid)
    flips = ((-1,) if usual and rank > 1 else ()) if flips is None else flips
    shifts = int(usual) if shifts is None else shifts
    wrong = [axis for axis in flips if not -rank <= axis < rank]
    if wrong:
        raise OptionError(
            f"The input has no spatial axis {wrong[0]}.", why=f"It has {rank}.", hint="Count from -1, the last."
        )
    sides = [(axis, by) for axis in range(rank) for by in (-shifts, shifts)] if shifts else []
    return [
        mirror.as_it_is(geometry),
        *(mirror.mirrored(geometry, axis) for axis in flips),
        *(mirror.shifted(geometry, axis, by) for axis, by in sides),
    ]


def _mean(seen: Sequence[Explanation]) -> Explanation:
    """The explanation of the mean of several networks, part by part; of one network its own."""
    first = seen[0]
    if len(seen) == 1:
        return first

    def mean(name: str) -> Any:
        parts = [getattr(e, name) for e in seen]
        return torch.stack(parts).mean(0) if isinstance(parts[0], Tensor) else parts[0]

    means = {name: mean(name) for name in ("map", "score", "logits", "constant", "common")}
    return replace(first, **means, provenance={**first.provenance, "networks": len(seen)})


def _spread(kind: Kind, names: Sequence[str], members: Sequence[Explanation]) -> Spread:
    scores = torch.stack([e.score for e in members], 1)
    known = [e.probabilities() for e in members]
    probabilities = torch.stack(
        [torch.full_like(e.score, torch.nan) if p is None else p for e, p in zip(members, known, strict=True)], 1
    )
    return Spread(kind, tuple(names), torch.stack([e.map for e in members], 1), scores, probabilities)
