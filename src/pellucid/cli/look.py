"""`pellucid look`: what is inside a network?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli import options
from pellucid.cli.output import check_free, progress, say, show
from pellucid.errors import LayerError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from pellucid.sample import Sample

NAME = "look"
HELP = (
    "Look inside a network: the filters of a layer; with --input what a layer answers and which channels make up the "
    "decision; with --maximise what excites a class or channel. Writes pictures and the numbers behind them."
)
EXAMPLES = (
    "pellucid look torchvision:mobilenet_v2 --weights mobilenet_v2.pth",
    "pellucid look torchvision:mobilenet_v2 --weights mobilenet_v2.pth --input photo.jpg --target tabby",
    "pellucid look torchvision:mobilenet_v2 --weights mobilenet_v2.pth --maximise flamingo,tiger,daisy",
    "pellucid look torchvision:vgg16 --weights vgg16.pth --layer features.10 --maximise 3,17 steps=128",
    "pellucid look runs/demo/softcam --input scan.png --target 'lesion against healthy'",
)

_KIND = "looks"


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A saved model's folder, or torchvision:NAME, timm:NAME, pellucid:NAME.",
            show_default=False,
        ),
    ],
    words: options.Settings = None,
    weights: options.Weights = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            "-l",
            help="Its name; by default the first convolution for filters, the last before pooling for responses, the output for --maximise.",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--input", "-i", help="One input (of a set the first) to see the responses to.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", help="Whose channels are ranked: as for explain; by default what the network predicts."
        ),
    ] = None,
    maximise: Annotated[
        str | None,
        typer.Option("--maximise", help="Classes (numbers or names) or, with --layer, channels, separated by commas."),
    ] = None,
    view: Annotated[
        str | None, typer.Option("--view", help="One of pellucid.VIEWS alone; by default all that was asked for.")
    ] = None,
    classes: Annotated[Path | None, typer.Option("--classes", help="A text file with one class name per line.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to; by default runs/look/NAME.")
    ] = None,
    config: options.Config = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    given = options.settings(words, config)
    views = _views(view, source, target, maximise)
    folder = out or Path("runs/look") / _plain(model)
    check_free(folder, _KIND)
    reading, chosen = _divided(given, source, views)
    import torch

    from pellucid import hooks
    from pellucid.networks import class_names, open_network, random_weights

    torch.manual_seed(seed)  # a network without weights starts from this seed
    network = open_network(model, weights=weights, device=options.device(device))
    names = class_names(network, model, classes)
    if layer is not None:
        hooks.find_layer(network, layer)
    sample = None if source is None else _read(network, source, reading, quiet)
    if dry_run:
        say(f"{', '.join(f'{name}.png' for name in views)} would be written to {folder}/ (--dry-run).")
        return
    warning = random_weights(model, weights)
    say(warning, quiet=quiet or not warning)
    look = _Look(network, names, layer, sample, target, maximise, chosen, seed, quiet)
    found = look.all(views)
    facts = {"model": model, "layer": layer, "input": source, "seed": seed, "settings": given}
    told = {**facts, "views": {name: numbers.as_dict() for name, (numbers, _) in found.items()}}
    _write(folder, found, told)
    if as_json:
        show(told)
        return
    print("\n\n".join(str(numbers) for numbers, _ in found.values()))
    say(f"Wrote {folder}/ ({', '.join(f'{name}.png' for name in found)}, look.json).", quiet=quiet)


def _views(view: str | None, source: str | None, target: str | None, maximise: str | None) -> list[str]:
    """The views that were asked for. Raises `OptionError` where one lacks what it needs."""
    from pellucid.registry import look_up
    from pellucid.views import VIEWS

    needs = {"feature_maps": ("--input", source), "activation_maximisation": ("--maximise", maximise)}
    if target is not None and source is None:
        raise OptionError(
            "--target asks for what an input says for it.",
            why="There is no --input.",
            hint="Give one: --input photo.jpg.",
        )
    if view is None:
        return [name for name in VIEWS if name not in needs or needs[name][1] is not None]
    look_up(VIEWS, view, "view")
    option, value = needs.get(view, ("", "none is needed"))
    if value is None:
        raise OptionError(f"The view '{view}' needs {option}.", hint=f"Add {option}; see: pellucid look --help")
    return [view]


def _plain(model: str) -> str:
    """A folder's name for a network's."""
    name = Path(model).resolve().name if Path(model).exists() else model
    return re.sub(r"[^\w.\-]+", "-", name).strip("-.") or "network"


_GIVEN = ("layer", "bounds", "colour", "task", "classes", "progress")  # options of views that have other ways in


def _divided(given: dict[str, Any], source: str | None, views: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the input's reader, and those of the ascent."""
    from pellucid.api import option_names
    from pellucid.errors import nearest
    from pellucid.views import VIEWS

    own = [
        option for name in views for option in option_names(VIEWS[name].load()) if option not in _GIVEN
    ]  # of the views so far only the ascent has any
    if source is not None:
        return options.divided(given, source, own)
    own += ["size"] if "activation_maximisation" in views else []
    for key in given:
        if key not in own:
            raise OptionError(f"There is no setting '{key}' here.", hint=nearest(key, own))
    return {}, dict(given)


def _read(network: nn.Module, source: str, reading: dict[str, Any], quiet: bool) -> Sample:
    """The first input of the source, read as the network wants it."""
    from pellucid.call import weights_device
    from pellucid.data import open_data
    from pellucid.networks import check_takes, preprocessing, reading_for

    reading = reading_for(network, source, reading)
    network.preprocessing = {**preprocessing(network), **reading}  # type: ignore[assignment]  # as it is read now
    data = open_data(source, **reading)
    say(f"{source} holds {len(data)} inputs; the first is looked at.", quiet=quiet or len(data) == 1)
    sample = data[0]
    check_takes(network, sample.input[None].to(weights_device(network)))
    return sample


def _write(folder: Path, found: dict[str, tuple[Any, Image]], told: dict[str, Any]) -> None:
    """A picture per view, the numbers, and last the manifest: with it the folder is whole."""
    from pellucid import files
    from pellucid.models import storage
    from pellucid.render.picture import png
    from pellucid.views import VIEWS

    for name in ("manifest.json", *(f"{name}.png" for name in VIEWS)):
        files.remove(folder / name)  # of an earlier look
    for name, (_, picture) in found.items():
        files.write_bytes(folder / f"{name}.png", png(picture))
    files.write_json(folder / "look.json", told)
    storage.write_manifest(folder, ["look.json", *(f"{name}.png" for name in found)], kind=_KIND)


@dataclass(frozen=True)
class _Look:
    """One network, and what is asked of it. Each view gives its numbers and their picture."""

    network: nn.Module
    names: Sequence[str] | None
    layer: str | None
    sample: Sample | None
    target: str | None
    maximise: str | None
    options: dict[str, Any]
    seed: int
    quiet: bool

    def all(self, views: Sequence[str]) -> dict[str, tuple[Any, Image]]:
        found = {}
        for name in views:
            try:
                found[name] = getattr(self, name)()
            except LayerError as error:
                if name != "filters" or len(views) == 1:
                    raise  # but a layer that was named for its responses may have no filters
                say(f"No filters: {error.message}", quiet=self.quiet)
        return found

    def filters(self) -> tuple[Any, Image]:
        from pellucid.render.sheet import of_filters
        from pellucid.views import VIEWS

        found = VIEWS["filters"](self.network, layer=self.layer)
        return found, of_filters(found)

    def feature_maps(self) -> tuple[Any, Image]:
        from pellucid.render.sheet import of_feature_maps
        from pellucid.views import VIEWS

        assert self.sample is not None
        x = self.sample.input[None]
        found = VIEWS["feature_maps"](self.network, x, self.target, layer=self.layer, classes=self.names)
        return found, of_feature_maps(found, self.sample.image)

    def activation_maximisation(self) -> tuple[Any, Image]:
        import torch

        from pellucid.render.sheet import of_maximised
        from pellucid.views import VIEWS

        assert self.maximise is not None
        chosen = {k: v for k, v in self.options.items() if k != "size"}
        like = _like(self.network, self.sample, self.options.get("size"))
        with progress("steps", quiet=self.quiet) as tick:
            found = VIEWS["activation_maximisation"](
                self.network, like, _wanted(self.maximise, self.names), layer=self.layer, classes=self.names,
                generator=torch.Generator().manual_seed(self.seed), progress=tick, **_as_pictures(self.network, like), **chosen,
            )  # fmt: skip
        return found, of_maximised(found)


def _wanted(text: str, names: Sequence[str] | None) -> list[str]:
    """What lies between commas; a class whose own name holds one is that class."""
    if names is not None and text in names:
        return [text]
    return [part.strip() for part in text.split(",") if part.strip()]


def _like(network: nn.Module, sample: Sample | None, size: int | list[int] | None) -> Tensor:
    """Something of the shape of the network's inputs: the given one's, else as it was converted, or 224 for pictures."""
    import torch
    from torch.nn.modules.conv import _ConvNd

    from pellucid.networks import preprocessing

    if sample is not None:
        return sample.input[None]
    first = next((m for m in network.modules() if isinstance(m, _ConvNd)), None)
    certificate = getattr(network, "certificate", None)
    known = size or preprocessing(network).get("size") or (certificate.input_size if certificate else None)
    if first is None or (known is None and not isinstance(first, torch.nn.Conv2d)):
        raise OptionError(
            "The size of the network's inputs is not known.", hint="Give it, for example size=140, or give an --input."
        )
    axes = first.weight.ndim - 2
    sides = [known or 224] * axes if isinstance(known, int | None) else list(known)
    return torch.zeros(1, first.in_channels, *sides)


def _as_pictures(network: nn.Module, like: Tensor) -> dict[str, Any]:
    """For pictures in colour or grey the values that a file can have, as the network's reader scales them."""
    from pellucid.data.image_file import Preparation
    from pellucid.networks import preprocessing

    if like.ndim != 4 or like.shape[1] not in (1, 3):
        return {}
    saved = preprocessing(network)
    known: dict[str, Any] = {k: tuple(saved[k]) for k in ("mean", "std") if saved.get(k) is not None}
    usual = Preparation(grey=like.shape[1] == 1, **known)
    assert usual.mean is not None
    assert usual.std is not None
    pairs = list(zip(usual.mean, usual.std, strict=True))
    return {"bounds": ([-m / s for m, s in pairs], [(1 - m) / s for m, s in pairs]), "colour": like.shape[1] == 3}
