"""`pellucid convert`: make a network self-explainable and save it with its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show
from pellucid.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pellucid.models.softcam import SoftCAM

NAME = "convert"
HELP = "Make a network self-explainable. Proves that its logits are unchanged, and saves it as a SoftCAM."
EXAMPLES = (
    "pellucid convert torchvision:resnet18 --weights resnet18.pth --out models/resnet18",
    "pellucid convert torchvision:densenet121 --size 320 --images scans/ --out models/densenet121",
    "pellucid convert timm:regnety_016 --features s4 --head head.fc --out models/regnety",
    "pellucid convert torchvision:vgg11 --weights vgg11.pth --kind retrain --distil photographs/ --out models/vgg11",
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
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="exact, exact_at_this_image or retrain (the head is replaced; the function changes). Default: the first of the first two that holds.",
        ),
    ] = None,
    distil: Annotated[
        str | None,
        typer.Option(
            "--distil",
            help="A folder or CSV of images, no labels needed, on which --kind retrain learns the original's answers again.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of --distil.")] = 30,
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
    if distil is not None and kind != "retrain":
        raise OptionError(
            "--distil needs --kind retrain.",
            why="Other conversions keep the logits.",
            hint="Add --kind retrain, or leave --distil out.",
        )
    softcam = convert(network, example, kind=_kind(kind), features=features, head=head, images=batch, classes=names)
    if distil is not None:
        softcam = _distilled(softcam, network, distil, size, epochs, seed, quiet)
    if dry_run:
        say("Nothing was written (--dry-run).", quiet=quiet)
    else:
        softcam.save(out)
        say(f"Wrote {out}.", quiet=quiet)
    if as_json:
        show(softcam.certificate.as_dict())
    else:
        print(softcam.certificate)


def _kind(kind: str | None) -> Any:
    from pellucid.errors import nearest
    from pellucid.models.convert import KINDS

    if kind is not None and kind not in KINDS:
        raise OptionError(f"There is no kind '{kind}' of conversion.", hint=nearest(kind, KINDS))
    return kind


def _distilled(
    softcam: SoftCAM, original: nn.Module, source: str, size: int, epochs: int, seed: int, quiet: bool
) -> SoftCAM:
    from pellucid.data import open_data
    from pellucid.networks import reading_for
    from pellucid.training.distil import distil

    def progress(epoch: int, loss: float) -> None:
        say(
            f"Epoch {epoch + 1} of {epochs}: divergence {loss:.4g}",
            quiet=quiet or (epoch + 1) % max(1, epochs // 5) > 0,
        )

    data = open_data(source, **reading_for(original, source, {"size": size}))
    return distil(softcam, original, data, epochs=epochs, seed=seed, progress=progress)


def _images(source: str, size: int, limit: int = 32) -> Tensor:
    from pellucid.data import open_data
    from pellucid.sample import collate

    data = open_data(source, size=size)
    return collate([data[i] for i in range(min(limit, len(data)))])
