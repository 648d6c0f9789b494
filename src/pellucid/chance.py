"""What chance gives: inputs without their content, and how large a method's maps of them are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

LEVEL = 0.95
FEWEST = 19  # draws that can give p = 1 - LEVEL

Inputs = Float[Tensor, "batch channels *spatial"]


@dataclass(frozen=True)
class Null:
    """The size of each input's map beside those of inputs that hold nothing: its surrogates, or references.

    kind: what was taken from the inputs, a name in `SURROGATES`; or "reference". strongest: the largest |cell|. positive:
    the sum of the positive cells. Both in the map's units; the first column is the input itself, each of the others one
    surrogate or reference.

    The null hypothesis is that the input comes from a distribution which does not change when phases are turned (places
    are shuffled): that nothing is in it but what its surrogates keep. With references: that it is one more of them. The
    p-values are exact under it (randomisation test over a group; Hemerik and Goeman 2018,
    doi:10.1007/s11749-017-0571-1), for every input by itself: all inputs meet the same draws, and several p-values want a
    correction for their number. A small one says that maps of this size do not come from such inputs. It does not say
    that the map is right, nor where; a large one does not say that there is nothing.
    """

    kind: str
    strongest: Float[Tensor, "batch columns"]
    positive: Float[Tensor, "batch columns"]

    @property
    def draws(self) -> int:
        return self.strongest.shape[1] - 1

    def rows(self, index: Tensor) -> Null:
        """Those of some of the inputs."""
        return Null(self.kind, self.strongest[index], self.positive[index])

    def p_values(self) -> dict[str, Float[Tensor, "batch"]]:
        """(k + 1) / (draws + 1) where k surrogates reach the input's size; equal to rounding counts as reached."""
        return {"strongest": _p_value(self.strongest), "positive": _p_value(self.positive)}

    def limits(self, level: float = LEVEL) -> dict[str, Float[Tensor, "batch"]]:
        """The sizes that a share `level` of the surrogates stays within; an input beyond has p <= 1 - level."""
        place = ceil(round(level * (self.draws + 1), 6)) - 1
        return {
            "strongest": self.strongest[:, 1:].sort(dim=1).values[:, place],
            "positive": self.positive[:, 1:].sort(dim=1).values[:, place],
        }

    def as_dict(self, i: int = 0) -> dict[str, Any]:
        """What is said of input `i`, for JSON."""
        said = {"p_value": self.p_values(), "limit": self.limits()}
        numbers = {key: {name: float(values[i]) for name, values in found.items()} for key, found in said.items()}
        return {"kind": self.kind, "draws": self.draws, "level": LEVEL, **numbers}

    def caption(self, i: int = 0) -> str:
        """What the grey band of a picture is, and where the map of input `i` stands."""
        p = float(self.p_values()["strongest"][i])
        return f"grey: {LEVEL:.0%} of {self.draws} {DESCRIBED[self.kind]}; p = {p:.2g}"


def sizes(maps: Float[Tensor, "batch *grid"]) -> dict[str, Float[Tensor, "batch"]]:
    """The largest |cell| and the sum of the positive cells of every map."""
    flat = maps.detach().cpu().double().flatten(1)
    return {"strongest": flat.abs().amax(1), "positive": flat.clamp_min(0).sum(1)}


def _p_value(values: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch"]:
    reached = values >= values[:, :1] * (1 - 1e-5)
    return reached.double().mean(1)


# --- surrogates -------------------------------------------------------------------------------------------------------


def phases(x: Inputs, generator: torch.Generator) -> Inputs:
    """The power spectrum, the mean and the correlations between channels stay; what lies where goes.

    The phase of every frequency is turned by a random angle, the same in all channels (Theiler et al. 1992,
    doi:10.1016/0167-2789(92)90102-S; Prichard and Theiler 1994, doi:10.1103/PhysRevLett.73.951 for several channels).
    """
    wide, axes = x.to(torch.promote_types(x.dtype, torch.float32)), tuple(range(2, x.ndim))
    angle = torch.fft.rfftn(torch.randn(x.shape[2:], generator=generator).to(wide)).angle()
    turn = torch.polar(torch.ones_like(angle), angle)
    turn.view(-1)[0] = 1  # the mean stays
    surrogate: Tensor = torch.fft.irfftn(torch.fft.rfftn(wide, dim=axes) * turn, s=x.shape[2:], dim=axes)
    return surrogate.to(x.dtype)


def pixels(x: Inputs, generator: torch.Generator) -> Inputs:
    """The values stay, all channels of a sample together; every sample gets another place."""
    return _shuffled(x, [1] * (x.ndim - 2), generator)


def patches(x: Inputs, generator: torch.Generator) -> Inputs:
    """Patches of an eighth of each side stay as they are and change places; what sides not divisible by 8 leave stays."""
    return _shuffled(x, [max(n // 8, 1) for n in x.shape[2:]], generator)


SURROGATES: Mapping[str, Callable[[Inputs, torch.Generator], Inputs]] = {
    "phases": phases,
    "pixels": pixels,
    "patches": patches,
}
DESCRIBED = {
    "phases": "random-phase inputs",
    "pixels": "inputs with shuffled pixels",
    "patches": "inputs with shuffled patches",
    "reference": "reference inputs",
}


def _shuffled(x: Inputs, sides: list[int], generator: torch.Generator) -> Inputs:
    places = torch.arange(x.shape[2:].numel())
    blocks = places.view(x.shape[2:])
    for axis, side in enumerate(sides):
        blocks = blocks.unfold(axis, side, side)
    count = 1
    for n, side in zip(x.shape[2:], sides, strict=True):
        count *= n // side
    blocks = blocks.reshape(count, -1)
    source = places.clone()
    source[blocks.flatten()] = blocks[torch.randperm(count, generator=generator)].flatten()
    return x.flatten(2)[..., source.to(x.device)].view_as(x)
