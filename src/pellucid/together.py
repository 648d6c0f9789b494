"""One explanation out of several runs of a method: for several targets, or at several layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pellucid import spatial
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.explanation import Attribution
from pellucid.registry import MethodRow
from pellucid.spatial import Geometry
from pellucid.targets import SeveralTargets, Target

Method: TypeAlias = Callable[..., Attribution]
_AT_ONCE = 64  # targets in one run of a gradient method that takes several: it holds a feature map for each


def over_targets(method: Method, target: Target, row: MethodRow) -> Method:
    """The method for this target: with `SeveralTargets` it gives maps `(batch, targets, *grid)`.

    A method that takes several (`row.several`) gets all, those with gradients at most 64 at a time. Any other gets one
    after the other, each with the same draws, so that each map is what the target alone would get.
    """
    if not isinstance(target, SeveralTargets):
        return method
    few = target.members is not None and len(target.members) <= _AT_ONCE
    if row.several and (few or "gradient" not in row.needs):
        return method
    at_once = _AT_ONCE if row.several else 1

    def run(call: Call, x: Tensor, target: Target, **options: Any) -> Attribution:
        with torch.no_grad():
            decided = target.resolve(call(x.clone()))
        assert isinstance(decided, SeveralTargets)
        members = decided.each()
        groups = [members[i : i + at_once] for i in range(0, len(members), at_once)]
        parts = []
        for group, again in zip(groups, _same_draws(options, len(groups)), strict=True):
            asked = group[0] if at_once == 1 else SeveralTargets(group)
            parts.append(method(call, x, asked, **again))
        return _beside(parts, alone=at_once == 1)

    return run


def _same_draws(options: Mapping[str, Any], times: int) -> list[Mapping[str, Any]]:
    """The options for each run: copies of the generator, and for the last the generator itself."""
    generator = options.get("generator")
    if generator is None:
        return [options] * times
    return [{**options, "generator": generator.clone_state()} for _ in range(times - 1)] + [options]


def _beside(parts: Sequence[Attribution], alone: bool) -> Attribution:
    """The maps of all parts along the targets' axis."""
    first = parts[0]

    def along(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            return None
        return torch.stack(values, 1) if alone else torch.cat(values, 1)

    targets: list[Any] = []
    for part in parts:
        targets += part.target.each() if isinstance(part.target, SeveralTargets) else [part.target]
    return Attribution(
        along("map"), first.geometry, first.output, SeveralTargets(tuple(targets)), first.complete,
        along("constant"), along("common"), first.layer, first.notes,
    )  # fmt: skip


def over_layers(method: Method, options: Mapping[str, Any]) -> Method:
    """The method for a list of layers: the mean of their maps at the input's size; for one layer the method itself.

    Each map is divided by its own largest size first, for each input and target: layers have units of their own.
    """
    layers = options.get("layer")
    if not isinstance(layers, list | tuple):
        return method
    if not layers:
        raise OptionError("The list of layers is empty.", hint="Name at least one layer, or leave out layer=.")

    def run(call: Call, x: Tensor, target: Target, **given: Any) -> Attribution:
        runs = _same_draws(given, len(layers))
        parts = [method(call, x, target, **{**again, "layer": one}) for one, again in zip(layers, runs, strict=True)]
        maps = torch.stack([_at_input_size(part) for part in parts])
        geometry = Geometry.of_samples(x.shape[2:])
        return Attribution(
            maps.mean(0), geometry, parts[0].output, parts[0].target, layer=", ".join(part.layer for part in parts),
            notes=parts[0].notes,
        )  # fmt: skip

    return run


def _at_input_size(part: Attribution) -> Tensor:
    """The map at the input's size, in units of its largest cell; a map of zeros stays one."""
    largest = part.map.abs().flatten(-len(part.geometry.grid)).amax(-1)
    largest = torch.where(largest == 0, 1, largest)
    scaled = part.map / largest.view(*largest.shape, *(1,) * len(part.geometry.grid))
    return (
        scaled
        if scaled.shape[-len(part.geometry.grid) :] == part.geometry.input_size
        else spatial.upsample(scaled, part.geometry)
    )
