"""Changes that keep the label, every input by its own chance; masks move with their inputs.

Flips and quarter turns work on whole batches of any rank; what cuts, turns by any angle or changes colours is
torchvision's and takes pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from pellucid.errors import OptionError
from pellucid.sample import Dataset, Subset
from pellucid.training.config import TrainingConfig

# Spatial axes that an op needs; the last axis of an image is left to right.
_AXES = {"hflip": 1, "vflip": 2, "transpose": 2, "rotate90": 2}
_OF_PICTURES = ("crop", "rotation", "translation", "jitter")
_MIRROR = ("hflip", "transpose")
_TURN = ("rotate90", "rotation")
_TO_THE_SIDE = 90  # degrees of a turn from which on left may come to be right

# Mean and standard deviation per channel that the inputs were normalised with.
Colours = tuple[tuple[float, ...], tuple[float, ...]]


def augment(
    x: Shaped[Tensor, "batch channels *spatial"],
    names: Sequence[str],
    generator: torch.Generator,
    *,
    masks: Bool[Tensor, "batch *spatial"] | None = None,
    config: TrainingConfig | None = None,
    colours: Colours | None = None,
    part: tuple[Sequence[int], int] | None = None,
) -> tuple[Shaped[Tensor, "batch channels *spatial"], Bool[Tensor, "batch *spatial"] | None]:
    """Copies of `x` and `masks` with the named ops applied in order.

    generator: a CPU generator, the only source of chance. config: how strong the ops on pictures are. colours: how the
    inputs were normalised, for "jitter", and so that what comes in from outside the picture is black. part: the places
    of these inputs in a batch, and the size of it: each is changed as it would be with the whole batch at hand.
    """
    places, size = (range(len(x)), len(x)) if part is None else part

    def draw(high: int) -> Tensor:
        return torch.randint(high, (size,), generator=generator)[list(places)]

    x = x.clone(memory_format=torch.contiguous_format) if names else x
    masks = masks.clone() if names and masks is not None else masks
    for name in names:
        if name in _OF_PICTURES:
            x, masks = _on_pictures(name, x, masks, draw, config or TrainingConfig(), colours)
            continue
        turns = draw(4 if name == "rotate90" else 2)
        for turn, op in enumerate(_OPS[name], start=1):
            rows = (turns == turn).nonzero().flatten().to(x.device)
            x[rows] = op(x[rows])
            if masks is not None:
                masks[rows] = op(masks[rows])
    return x, masks


def on_numbers(names: Sequence[str]) -> bool:
    """Whether an op needs the inputs as numbers; the others move bytes as well."""
    return any(name in _OF_PICTURES for name in names)


def _on_pictures(
    name: str,
    x: Float[Tensor, "batch channels height width"],
    masks: Bool[Tensor, "batch height width"] | None,
    draw: Callable[[int], Tensor],
    config: TrainingConfig,
    colours: Colours | None,
) -> tuple[Tensor, Tensor | None]:
    """One of torchvision's ops on about half of the pictures, each with draws of its own."""
    from torchvision import tv_tensors

    chosen, seeds = draw(2).nonzero().flatten().tolist(), draw(2**62).tolist()
    change = _transform(name, config, tuple(x.shape[-2:]), colours)
    with torch.random.fork_rng(devices=[]):
        for i in chosen:
            torch.default_generator.manual_seed(seeds[i])
            picture = tv_tensors.Image(x[i])
            if masks is None:
                x[i] = change(picture)
            else:
                x[i], masks[i] = change(picture, tv_tensors.Mask(masks[i]))
    return x, masks


def _transform(name: str, config: TrainingConfig, size: tuple[int, ...], colours: Colours | None) -> Callable[..., Any]:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    if name == "jitter":
        assert colours is not None
        return _jittered(v2.ColorJitter(*config.jitter), colours)
    if name == "crop":
        return v2.RandomResizedCrop(size, config.crop_scale, config.crop_ratio, antialias=True)  # type: ignore[no-any-return]
    black = 0.0 if colours is None else [-m / s for m, s in zip(*colours, strict=True)]
    fill = {tv_tensors.Image: black, tv_tensors.Mask: 0}
    share = config.translation_share
    return v2.RandomAffine(  # type: ignore[no-any-return]
        config.rotation_degrees if name == "rotation" else 0,
        translate=(share, share) if name == "translation" else None,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=fill,
    )


def _jittered(jitter: Callable[[Tensor], Tensor], colours: Colours) -> Callable[..., Any]:
    """The change of colours, on values from 0 to 1 as torchvision wants them; a mask stays as it is."""
    mean, std = (torch.tensor(c).view(-1, 1, 1) for c in colours)

    def change(picture: Tensor, *mask: Tensor) -> Any:
        plain = picture.as_subclass(Tensor)
        m, s = mean.to(plain), std.to(plain)
        changed = (jitter((plain * s + m).clamp(0, 1)) - m) / s
        return (changed, *mask) if mask else changed

    return change


def check(names: Sequence[str], size: Sequence[int], channels: int = 3, colours: Colours | None = None) -> None:
    """Raises `OptionError` where an op does not fit inputs of this size and these channels."""
    for name in names:
        if name in _OF_PICTURES:
            _check_pictures(name, size, channels, colours)
        elif len(size) < _AXES[name]:
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


def _check_pictures(name: str, size: Sequence[int], channels: int, colours: Colours | None) -> None:
    if len(size) != 2:
        raise OptionError(
            f"'{name}' is for pictures.", why=f"The inputs have the size {tuple(size)}.", hint="Leave it out."
        )
    if name == "jitter" and (colours is None or channels not in (1, 3)):
        raise OptionError(
            "'jitter' changes colours and must know them.",
            why=f"The inputs have {channels} channels, and "
            + ("the data set does not say how they were normalised." if colours is None else "1 or 3 are needed."),
            hint="Leave it out, or give the data set `mean` and `std`.",
        )


def colours_of(dataset: Dataset) -> Colours | None:
    """The mean and standard deviation per channel that a data set notes, as `preparation` or itself."""
    known: Any = dataset
    while isinstance(known, Subset):
        known = known.parent
    known = getattr(known, "preparation", known)
    mean, std = getattr(known, "mean", None), getattr(known, "std", None)
    return (tuple(mean), tuple(std)) if isinstance(mean, Sequence) and isinstance(std, Sequence) else None


def sides_matter(dataset: Dataset) -> bool:
    """Whether a data set says that left and right differ: its `laterality`, or a letter as marker (LesionLab)."""
    known: Any = dataset
    while isinstance(known, Subset):
        known = known.parent
    return bool(getattr(known, "laterality", False)) or getattr(known, "marker", None) == "letter"


def laterality_note(names: Sequence[str], *, matters: bool = False, degrees: float = 180.0) -> str | None:
    """What the ops make unlearnable, said once per run: left and right become the same.

    matters: the side is known to matter in the data; then it is a warning. degrees: largest angle of "rotation".
    """
    blind = [n for n in names if n in _MIRROR or (n in _TURN and (n == "rotate90" or degrees >= _TO_THE_SIDE))]
    if not blind:
        return None
    listed = ", ".join(blind)
    if matters:
        return f"Warning: left and right matter in these data, and this training makes them look the same ({listed}). Leave these out of augment."
    return f"Left and right look the same to this training ({listed}). Leave these out where a side, or a marker of a side, matters."


# name -> what the turns 1, 2, ... do; turn 0 does nothing
_OPS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "hflip": (lambda x: x.flip(-1),),
    "vflip": (lambda x: x.flip(-2),),
    "transpose": (lambda x: x.transpose(-1, -2),),
    "rotate90": tuple(partial(torch.rot90, k=k, dims=(-2, -1)) for k in (1, 2, 3)),
}

__all__ = ["Colours", "augment", "check", "colours_of", "laterality_note", "on_numbers", "sides_matter"]
