"""`pellucid convert`: make a network self-explainable and save it with its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show
from pellucid.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "convert"
HELP = "Make a network self-explainable. Proves that its logits are unchanged, and saves it as a SoftCAM."
EXAMPLES = (
    "pellucid convert torchvision:resnet18 --weights resnet18.pth --out models/resnet18",
    "pellucid convert torchvision:densenet121 --size 320 --images scans/ --out models/densenet121",
    "pellucid convert timm:regnety_016 --features s4 --head head.fc --out models/regnety",
)


def run(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="torchvision:NAME, timm:NAME, pellucid:NAME, or a saved model's folder."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the model to.")],
    weights: options.Weights = None,
    images: Annotated[
        str | None, typer.Option("--images", help="A folder or CSV of images on which logits are compared.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option("--num-classes", min=1, help="Number of classes of a fresh head.")
    ] = None,
    size: Annotated[int, typer.Option("--size", min=8, help="Side of the example input.")] = 224,
    channels: Annotated[int, typer.Option("--channels", min=1, help="Channels of the example input.")] = 3,
    features: Annotated[
        str | None, typer.Option("--features", help="Name of the last spatial layer, where tracing fails.")
    ] = None,
    head: Annotated[str | None, typer.Option("--head", help="Name of the classifier, where tracing fails.")] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    import torch

    from pellucid.models.convert import convert
    from pellucid.networks import class_names, open_network, random_weights

    torch.manual_seed(seed)  # a network without weights starts from this seed
    where = options.device(device)
    network = open_network(model, weights=weights, device=where, num_classes=num_classes)
    if hasattr(network, "evidence"):
        raise OptionError(f"{model} is a SoftCAM already.", why="It explains itself.", hint="Use it as it is.")
    say(random_weights(model, weights), quiet=quiet or not random_weights(model, weights))
    example = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(seed)).to(where)
    batch = None if images is None else _images(images, size).to(where)
    names = class_names(network, model, None) if num_classes is None else None
    softcam = convert(network, example, features=features, head=head, images=batch, classes=names)
    if dry_run:
        say("Nothing was written (--dry-run).", quiet=quiet)
    else:
        softcam.save(out)
        say(f"Wrote {out}.", quiet=quiet)
    if as_json:
        show(softcam.certificate.as_dict())
    else:
        print(softcam.certificate)


def _images(source: str, size: int, limit: int = 32) -> Tensor:
    from pellucid.data import open_data
    from pellucid.sample import collate

    data = open_data(source, size=size)
    return collate([data[i] for i in range(min(limit, len(data)))])
