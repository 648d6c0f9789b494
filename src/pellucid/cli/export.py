"""`pellucid export`: one file that gives logits and evidence without pellucid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show

if TYPE_CHECKING:
    import torch
    from torch import nn

NAME = "export"
HELP = "Write a converted network as one ONNX or torch.export file with outputs logits and evidence. The file is compared with the network first."
EXAMPLES = (
    "pellucid export models/resnet18 --out resnet18.onnx",
    "pellucid export torchvision:resnet18 --weights resnet18.pth --size 320 --out resnet18.pt2",
)


def run(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A saved model's folder, or torchvision:NAME, timm:NAME, pellucid:NAME."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file: NAME.onnx or NAME.pt2.")],
    weights: options.Weights = None,
    size: Annotated[
        int | None, typer.Option("--size", min=8, help="Side of the input (default: as at conversion, else 224).")
    ] = None,
    channels: Annotated[
        int, typer.Option("--channels", min=1, help="Channels of the input of a network that is converted first.")
    ] = 3,
    fixed_size: Annotated[bool, typer.Option("--fixed-size", help="Take inputs of this size only.")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not compare the file with the network.")] = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    import torch

    from pellucid.models.export import drawn_example, export
    from pellucid.networks import open_network, random_weights

    torch.manual_seed(seed)  # a network without weights starts from this seed
    network = open_network(model, weights=weights, device=torch.device("cpu"))
    say(random_weights(model, weights), quiet=quiet or not random_weights(model, weights))
    if not hasattr(network, "evidence"):
        network = _converted(network, model, (channels, size or 224))
    example = None if size is None else drawn_example(network, side=size)
    written = export(network, out, example, any_size=not fixed_size, check=not no_check)
    if as_json:
        show(written.as_dict())
    else:
        print(written)


def _converted(network: nn.Module, name: str, shape: tuple[int, int]) -> nn.Module:
    import torch

    from pellucid.models.convert import convert
    from pellucid.networks import class_names

    channels, size = shape
    example: torch.Tensor = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    return convert(network, example, classes=class_names(network, name, None))
