"""Infidelity (Yeh et al. 2019, definition 2.1)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid import inputs
from pellucid.call import Call
from pellucid.errors import OptionError, nearest
from pellucid.metrics.removal import Baseline, answers, contributions, copied, effects, where_defined
from pellucid.spatial import Geometry
from pellucid.targets import Target

KINDS = ("boxes", "noise")


def infidelity(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    map: Float[Tensor, "batch *grid"],
    geometry: Geometry,
    task: str = "multiclass",
    *,
    change: Literal["boxes", "noise"] = "boxes",
    samples: int = 64,
    side: float = 0.25,
    noise: float = 0.2,
    baseline: Baseline = 0.0,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """E[(I . map - (f(x) - f(x - I)))^2]: how far the map is from telling what a change I does to the score f.

    "": as it is, in squared units of the score. "rescaled": after the map is multiplied by what makes it smallest,
    beta = E[(I . map)(f(x) - f(x - I))] / E[(I . map)^2] (0 where the map tells of no change). "scale": beta; 1 where
    the map has the score's unit, negative where it has the wrong sign. A map in another unit (Grad-CAM, a gradient) can be
    judged by "rescaled" alone, and no value can be compared between networks, since larger logits change more.

    change: "boxes" takes random boxes out (a Square Removal of the paper), and the map is read as what each place adds to
    the score; a cell's value is shared among its samples. "noise" adds Gaussian noise, and the map is read as a slope;
    the noise is the same in all channels of a place unless the map has channels itself (`reduce="none"`). On a linear
    network input x gradient gives 0 for boxes on a baseline of 0, the gradient itself 0 for noise.
    samples: changes, one pass each, the same for all inputs. side: of a box, as a share of the input's; boxes may reach over
    the edge, so that every place is covered as often. noise: its standard deviation, in the network's normalised input.
    baseline: what stands in a box (see `inputs.baseline`; "blur" where one colour is a sight of its own).
    batch_size: changed inputs per pass.
    generator: by default a new one with seed 0; it is read but not moved on.

    Lower is better. Averages over boxes hardly see a map's detail, so a blurred map of the right places does well. nan where
    the map is not finite. Raises `OptionError` for impossible options, `BadInput` for a map of another size.
    """
    inputs.check_counts(samples=samples)
    _check(change, side, noise)
    if change == "boxes":
        values = contributions(map, geometry, x)
        boxes = _boxes(x.shape[2:], side, samples, copied(generator))

        def cover(part: Tensor) -> Bool[Tensor, "part *size"]:
            return _inside(boxes[0][part], boxes[1], x.shape[2:])

        told, whole, changed = effects(
            call, x, target, task, values, cover, samples, baseline=baseline, batch_size=batch_size
        )
        done = whole.score[:, None] - changed.score
    else:
        told, done = _under_noise(call, x, target, map, geometry, task, samples, noise, batch_size, copied(generator))
    return where_defined(_errors(told, done), map)


def _check(change: str, side: float, noise: float) -> None:
    if change not in KINDS:
        raise OptionError(f"There is no change '{change}'.", hint=nearest(change, KINDS))
    if not 0 < side <= 1:
        raise OptionError(
            f"side={side} is not possible.", hint="Give a share of the input's side, above 0 and up to 1."
        )
    if not noise > 0:
        raise OptionError(f"noise={noise} is not possible.", hint="Give a standard deviation above 0.")


def _errors(told: Float[Tensor, "batch copies"], done: Float[Tensor, "batch copies"]) -> dict[str, Tensor]:
    square = told.square().mean(1)
    scale = torch.where(square > 0, (told * done).mean(1) / square, 0.0)
    rescaled = (scale[:, None] * told - done).square().mean(1)
    return {"": (told - done).square().mean(1), "rescaled": rescaled, "scale": scale}


def _boxes(
    size: torch.Size, side: float, samples: int, generator: torch.Generator
) -> tuple[Int[Tensor, "samples axes"], tuple[int, ...]]:
    """The low corner of each box, which may lie outside, and the sides of all."""
    sides = tuple(max(1, round(side * n)) for n in size)
    drawn = [
        torch.randint(1 - s, n, (samples,), generator=generator, device=generator.device).cpu()
        for n, s in zip(size, sides, strict=True)
    ]
    return torch.stack(drawn, 1), sides


def _inside(low: Int[Tensor, "part axes"], sides: tuple[int, ...], size: torch.Size) -> Bool[Tensor, "part *size"]:
    mask = torch.ones(len(low), *(1,) * len(size), dtype=torch.bool)
    for axis, n in enumerate(size):
        away = torch.arange(n) - low[:, axis, None]
        along = (away >= 0) & (away < sides[axis])
        mask = mask & along.view(len(low), *(1,) * axis, n, *(1,) * (len(size) - 1 - axis))
    return mask


def _under_noise(
    call: Call, x: Tensor, target: Target, map: Tensor, geometry: Geometry, task: str,
    samples: int, noise: float, batch_size: int | None, generator: torch.Generator,
) -> tuple[Float[Tensor, "batch samples"], Float[Tensor, "batch samples"]]:  # fmt: skip
    slopes = map.detach().double() if map.shape == x.shape else contributions(map, geometry, x)[:, None]
    size = inputs.pass_size(x, batch_size)
    seeds = torch.randint(2**62, (samples,), generator=generator, device=generator.device).tolist()

    def drawn(part: Tensor) -> Float[Tensor, "part one channels *size"]:
        fields = [
            torch.randn(slopes.shape[1:], generator=torch.Generator().manual_seed(seeds[k])) for k in part.tolist()
        ]
        return noise * torch.stack(fields)[:, None].to(x)

    def change(rows: Tensor, part: Tensor) -> Tensor:
        return x[rows] - drawn(part)

    whole, changed = answers(call, x, target, task, change, samples, batch_size=size)
    told = [
        slopes.flatten(1) @ drawn(part).to(slopes).flatten(1).T for part in torch.split(torch.arange(samples), size)
    ]
    return torch.cat(told, 1), whole.score[:, None] - changed.score
