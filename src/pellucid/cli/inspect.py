"""`pellucid inspect`: what a model's evidence is worth, or what a data source or a run holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pellucid.cli import options
from pellucid.cli.output import listed, progress, say, show
from pellucid.errors import BadInput, OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pellucid.models.softcam import SoftCAM
    from pellucid.sample import Sample

NAME = "inspect"
HELP = (
    "Say what is in a model, data source or run. Of a model: how exactly its evidence adds up on your images, how far a "
    "cell really sees, and what else reaches it."
)
EXAMPLES = (
    "pellucid inspect models/resnet18 --images scans/ --write",
    "pellucid inspect torchvision:mobilenet_v2 --weights mobilenet_v2.pth --images photographs/ --size 448",
    "pellucid inspect index.csv path=file mask_values=1",
    "pellucid inspect scans/ --plan scans-plan.json",
    "pellucid inspect runs/eyes",
)
_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors", ".bin")


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA|MODEL|RUN",
            help="A saved model's folder, torchvision:NAME, timm:NAME or pellucid:NAME; images as folder, CSV or file; a run.",
            show_default=False,
        ),
    ],
    words: options.Settings = None,
    weights: options.Weights = None,
    images: Annotated[
        str | None, typer.Option("--images", help="A folder or CSV of images on which the model is measured.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="How many images to read; by default 32, of data all.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option("--num-classes", min=1, help="Number of classes of a fresh head.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=8, help="Side of the inputs; by default the model's own, or 224.")
    ] = None,
    channels: Annotated[int, typer.Option("--channels", min=1, help="Channels of the inputs.")] = 3,
    features: Annotated[
        str | None, typer.Option("--features", help="Name of the last spatial layer, where tracing fails.")
    ] = None,
    head: Annotated[str | None, typer.Option("--head", help="Name of the classifier, where tracing fails.")] = None,
    plan: Annotated[Path, typer.Option("--plan", help="Of data: where to write what a training would do.")] = Path(
        "plan.json"
    ),
    write: Annotated[bool, typer.Option("--write", help="Store what was found in the model's folder.")] = False,
    batch_size: options.BatchSize = 8,
    max_bad: options.MaxBad = 0.1,
    config: options.Config = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    given = options.settings(words, config)
    what = _what(source)
    if write and (what != "model" or images is None or not (Path(source) / "model.json").is_file()):
        raise OptionError(
            "There is nothing to write.",
            why="--write stores what was measured on --images in a saved SoftCAM's folder.",
            hint="Save the model first: pellucid convert MODEL --out FOLDER.",
        )
    if what == "data":
        _inspect_data(source, given, limit, max_bad, plan, as_json, quiet)
        return
    if what == "run":
        _inspect_run(source, given, as_json)
        return
    import torch

    torch.manual_seed(seed)  # a network without weights starts from this seed
    asked = _Asked(source, weights, num_classes, size, channels, features, head, seed)
    softcam = _opened(asked, options.device(device), quiet)
    skipped: list[dict[str, str]] = []
    if images is None:
        _refuse_words(given, "Only the reader of --images takes settings.")
        say("Nothing was measured: give --images.", quiet=quiet)
    else:
        from pellucid.models.inspection import inspect

        x, skipped = _read(softcam, images, given, asked, limit or 32, max_bad)
        say(f"Measuring on {len(x)} images of {images} ...", quiet=quiet)
        softcam.certificate = inspect(softcam, x, batch_size=batch_size, seed=seed)
    if write:
        _store(Path(source), softcam)
        say(f"Wrote {source}/model.json.", quiet=quiet)
    if as_json:
        show({"what": "model", "name": source, "images": images, "certificate": softcam.certificate.as_dict(), "skipped": skipped})  # fmt: skip
        return
    print(softcam.certificate)
    for bad in skipped:
        say(f"skipped {bad['name']}: {bad['message']}")


def _what(source: str) -> str:
    """Whether a source is a model, a run or data, by its name and by what lies in it."""
    from pellucid.data import READERS

    folder = Path(source)
    if ":" in source and source.partition(":")[0] not in READERS and not folder.exists():
        return "model"
    if (folder / "model.json").is_file() or (folder.is_file() and folder.suffix.lower() in _CHECKPOINTS):
        return "model"
    return "run" if (folder / "study.json").is_file() or next(folder.glob("*/model.json"), None) else "data"


def _refuse_words(given: dict[str, Any], why: str) -> None:
    if given:
        raise OptionError(f"There is no setting '{min(given)}' here.", why=why, hint="Leave it out.")


@dataclass(frozen=True)
class _Asked:
    """Which model, and how a plain one is converted."""

    source: str
    weights: Path | None
    num_classes: int | None
    size: int | None
    channels: int
    features: str | None
    head: str | None
    seed: int


def _opened(asked: _Asked, device: torch.device, quiet: bool) -> SoftCAM:
    """The SoftCAM in a folder, or what conversion makes of a plain network."""
    import torch

    from pellucid.call import has_evidence
    from pellucid.models.convert import convert
    from pellucid.models.inspection import with_context
    from pellucid.networks import open_network, preprocessing, random_weights

    network = open_network(asked.source, weights=asked.weights, device=device, num_classes=asked.num_classes)
    if has_evidence(network):
        return cast("SoftCAM", network)
    warning = random_weights(asked.source, asked.weights)
    say(warning, quiet=quiet or not warning)
    own = asked.size or preprocessing(network).get("size", 224)
    sides = (own, own) if isinstance(own, int) else tuple(own)
    example = torch.randn(2, asked.channels, *sides, generator=torch.Generator().manual_seed(asked.seed)).to(device)
    softcam = convert(network, example, features=asked.features, head=asked.head)
    softcam.certificate = with_context(softcam, example[:1])
    say(f"{asked.source} was converted to be looked into; nothing was saved.", quiet=quiet)
    return softcam


def _read(
    softcam: SoftCAM, source: str, given: dict[str, Any], asked: _Asked, limit: int, max_bad: float
) -> tuple[Tensor, list[dict[str, str]]]:
    """The first images that can be read, ready for the network, and those before them that cannot."""
    from pellucid.call import weights_device
    from pellucid.data import open_data
    from pellucid.networks import check_takes, reading_for
    from pellucid.sample import collate

    reading, _ = options.divided({**_shape_for(softcam, source, asked), **given}, source, ())
    data = open_data(source, **reading_for(softcam, source, reading))
    good: list[Sample] = []
    bad = []
    for i in range(len(data)):
        if len(good) == limit:
            break
        try:
            good.append(data[i])
        except BadInput as error:
            bad.append({"name": data.facts(i).name, "message": error.message})
    _refuse_if_mostly_bad(len(good), bad, max_bad, source)
    x = collate(good)
    check_takes(softcam, x[:1].to(weights_device(softcam)))
    return x, bad


def _shape_for(softcam: SoftCAM, source: str, asked: _Asked) -> dict[str, Any]:
    """What the reader of a source has to be told so that inputs have the shape of use."""
    from pellucid.data import options_of
    from pellucid.networks import preprocessing

    told: dict[str, Any] = {"grey": True} if asked.channels == 1 else {}
    sides = softcam.certificate.input_size
    if asked.size is not None:
        told["size"] = asked.size
    elif "size" not in preprocessing(softcam):
        told["size"] = sides[0] if len(set(sides)) == 1 else sides
    return {k: v for k, v in told.items() if k in options_of(source)}


def _refuse_if_mostly_bad(good: int, bad: list[dict[str, str]], max_bad: float, source: str) -> None:
    if good and len(bad) <= max_bad * (good + len(bad)):
        return
    last = f" The last is {bad[-1]['name']}: {bad[-1]['message']}" if bad else ""
    raise BadInput(
        f"{len(bad)} of {good + len(bad)} images in {source} cannot be read.{last}",
        why="That is more than --max-bad allows." if good else "None is left to look at.",
        hint="Mend them, or raise --max-bad." if good else "Give readable inputs.",
        path=source,
    )


def _store(folder: Path, softcam: SoftCAM) -> None:
    """The new certificate into the folder, and the digest of its manifest into that of the run around it."""
    from pellucid import study
    from pellucid.models import storage

    storage.write_certificate(folder, softcam.certificate)
    if study.is_study(folder.parent):
        study.seal(folder.parent)


def _inspect_data(
    source: str, given: dict[str, Any], limit: int | None, max_bad: float, path: Path, as_json: bool, quiet: bool
) -> None:
    reading, _ = options.divided(given, source, ())
    from pellucid.data import reader_for
    from pellucid.data.overview import overview
    from pellucid.plan import opened_whole, planned

    data = opened_whole(source, reading)
    with progress("read", quiet=quiet) as tick:
        found = overview(data, limit=limit, progress=tick)
    if not as_json:
        print(listed([("source", f"{source} ({reader_for(source)})"), *found.rows()]))
    told = found.as_dict()
    _refuse_if_mostly_bad(found.read - len(found.bad), told["bad"], max_bad, source)
    plan = planned(source, reading, found) if len(data.classes) > 1 else None
    if plan is not None:
        if not as_json:
            print("\n" + listed(plan.rows()))
        plan.write(path)
        say(f"Wrote {path}.  Next: {plan.command(path)}", quiet=quiet)
    if as_json:
        show({"what": "data", "name": source, "reader": reader_for(source), "fingerprint": data.fingerprint, "plan": None if plan is None else plan.as_dict(), **told})  # fmt: skip


def _inspect_run(source: str, given: dict[str, Any], as_json: bool) -> None:
    """A run's study, the networks in it, and what became of them."""
    _refuse_words(given, f"{source} is a run; it is shown as it was made.")
    from pellucid.models import storage
    from pellucid.study import Study, is_study

    folder = Path(source)
    study = Study.load(folder).as_dict() if is_study(folder) else {}
    networks = {p.parent.name: storage.read_description(p.parent) for p in sorted(folder.glob("*/model.json"))}
    kinds = {name: _kind(described) for name, described in networks.items()}
    done = {"scored": folder / "evaluate" / "scores.json", "report": folder / "report.html"}
    found = {name: path.is_file() for name, path in done.items()}
    if as_json:
        show({"what": "run", "name": source, "study": study, "networks": kinds, **found})
        return
    recipe = study.pop("recipe", {})
    rows = [("run", source), *((k, str(v)) for k, v in study.items() if v not in (None, False, {}))]
    rows += [(f"  {k}", str(v)) for k, v in recipe.items() if v is not None]
    rows += [(f"network {name}", kind) for name, kind in kinds.items()]
    rows += [(name, "yes" if there else "no") for name, there in found.items()]
    print(listed(rows))
    if kinds:
        say(f"Look into one of its networks: pellucid inspect {folder / next(iter(kinds))}")


def _kind(described: dict[str, Any]) -> str:
    """What a saved network is, in a word or two."""
    if described["kind"] != "softcam":
        return f"{described['kind']} ({described['network']})"
    return f"SoftCAM of a {described['network']}, {described['certificate']['kind']}"
