"""The names, the networks behind them, and weights that hide nothing."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

SOURCES = ("torchvision", "timm")
CLASSES = 10  # of a classifier that is attached to an encoder


def names(source: str) -> list[str]:
    """All classification networks: torchvision's for images and videos, timm's as they are listed."""
    if source == "timm":
        import timm

        return [f"timm:{name}" for name in timm.list_models()]
    from torchvision import models

    return [f"torchvision:{name}" for module in (models, models.video) for name in models.list_models(module=module)]


def build(name: str, attach: bool = False, **options: Any) -> nn.Module:
    """The network at random; `attach` gives an encoder a classifier of `CLASSES` classes."""
    source, _, own = name.partition(":")
    if attach:
        options["num_classes"] = CLASSES
    if source == "timm":
        import timm

        return timm.create_model(own, pretrained=False, **options).eval()
    from torchvision import models

    if own in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # slow, and drawn again by `perturb` where it matters
    return models.get_model(own, weights=None, **options).eval()  # type: ignore[no-any-return]


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def perturb(model: nn.Module, seed: int) -> nn.Module:
    """Redraw in place what initialisation leaves neutral, so that a wrong conversion cannot look right.

    BatchNorm statistics get means and variances of their own; zero biases, layer scales and zero or nearly zero weight
    matrices are drawn; norm weights are spread about their value.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(mean, Tensor) and isinstance(variance, Tensor):
                mean.normal_(0, 0.2, generator=generator)
                variance.uniform_(0.5, 1.5, generator=generator)
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                _redraw(parameter, "bias" in name.rpartition(".")[2], generator)
    return model


def _redraw(parameter: Tensor, bias: bool, generator: torch.Generator) -> None:
    size = float(parameter.abs().max())
    if parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) > 1:
        usual = parameter[0].numel() ** -0.5
        if float(parameter.std()) < 0.2 * usual:
            parameter.normal_(0, usual, generator=generator)
    elif bias and size == 0:
        parameter.normal_(0, 0.05, generator=generator)
    elif size < 0.01 and not bias:  # layer scales, gains of residual branches
        parameter.uniform_(0.1, 0.5, generator=generator)
    elif parameter.numel() > 1 and float(parameter.min()) == float(parameter.max()):
        parameter.mul_(torch.empty_like(parameter).uniform_(0.8, 1.2, generator=generator))


def example(size: Sequence[int], seed: int) -> Tensor:
    """Random inputs `(batch, *size)`, size with the channels first: coarse blocks and noise. Two images, or one video."""
    generator = torch.Generator().manual_seed(seed)
    channels, *spatial = size
    batch = 2 if len(spatial) == 2 else 1
    coarse = torch.randn(batch, channels, *(4 for _ in spatial), generator=generator)
    blocks = nn.functional.interpolate(coarse, size=tuple(spatial), mode="nearest")
    return blocks + 0.5 * torch.randn(batch, *size, generator=generator)


def inputs(native: Sequence[int], fixed: bool) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
    """Input sizes to try, small ones first, with the constructor's options that go with them.

    native: channels and size in use. fixed: the network is made for one size, which an option may change.
    """
    channels, *spatial = native
    for side in (128, 112) if len(spatial) == 2 else (64, 112):
        if side < spatial[-1]:
            yield (channels, *spatial[:-2], side, side), {"img_size": side} if fixed else {}
    yield tuple(native), {}
