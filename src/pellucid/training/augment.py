"""Changes that keep the label: whole batches at once, every input by its own chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Shaped
from torch import Tensor

from pellucid.errors import OptionError

# Spatial axes that an op needs; the last axis of an image is left to right.
_AXES = {"hflip": 1, "vflip": 2, "transpose": 2, "rotate90": 2}
_LATERALITY = ("hflip", "transpose", "rotate90")


def augment(
    x: Shaped[Tensor, "batch channels *spatial"], names: Sequence[str], generator: torch.Generator
) -> Shaped[Tensor, "batch channels *spatial"]:
    """A copy of `x` with the named ops applied in order. `generator` is a CPU generator and the only source of chance."""
    x = x.clone(memory_format=torch.contiguous_format) if names else x
    for name in names:
        turns = torch.randint(4 if name == "rotate90" else 2, (len(x),), generator=generator)
        for turn, op in enumerate(_OPS[name], start=1):
            rows = (turns == turn).nonzero().flatten().to(x.device)
            x[rows] = op(x[rows])
    return x


def check(names: Sequence[str], size: Sequence[int]) -> None:
    """Raises `OptionError` where an op does not fit inputs of this size."""
    for name in names:
        if len(size) < _AXES[name]:
            raise OptionError(
                f"'{name}' needs {_AXES[name]} spatial axes.",
                why=f"The inputs have the size {tuple(size)}.",
                hint="Leave it out.",
            )
        if name in ("transpose", "rotate90") and size[-1] != size[-2]:
            raise OptionError(
                f"'{name}' needs inputs as high as wide.",
                why=f"They have the size {tuple(size)}.",
                hint="Use hflip and vflip, or a square size.",
            )


def laterality_note(names: Sequence[str]) -> str | None:
    """What the ops make unlearnable, said once per run: left and right become the same."""
    blind = [n for n in names if n in _LATERALITY]
    if not blind:
        return None
    return f"Left and right look the same to this training ({', '.join(blind)}). Leave these out where a side, or a marker of a side, matters."


# name -> what the turns 1, 2, ... do; turn 0 does nothing
_OPS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "hflip": (lambda x: x.flip(-1),),
    "vflip": (lambda x: x.flip(-2),),
    "transpose": (lambda x: x.transpose(-1, -2),),
    "rotate90": tuple(partial(torch.rot90, k=k, dims=(-2, -1)) for k in (1, 2, 3)),
}

__all__ = ["augment", "check", "laterality_note"]
