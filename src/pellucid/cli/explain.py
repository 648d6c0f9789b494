"""`pellucid explain`: why did the network decide so, for one input or a folder of them?"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli import options
from pellucid.cli.beside import FURTHER, Beside, check_classes, check_together, opened_like
from pellucid.cli.output import check_free, progress, say, show
from pellucid.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from pellucid.explanation import Explanation
    from pellucid.sample import Dataset, Sample

NAME = "explain"
HELP = (
    "Explain a network's decisions on images or signals. Writes a picture, the numbers, and a ledger that adds up to the logit; "
    "a plain network is converted first where that is exact."
)
EXAMPLES = (
    "pellucid explain photo.jpg --model torchvision:mobilenet_v2 --weights mobilenet_v2.pth",
    "pellucid explain scans/ --model runs/demo/softcam --out explained",
    "pellucid explain scan.png --model runs/demo/softcam --target 'lesion against healthy'",
    "pellucid explain photo.jpg --model torchvision:vgg16 --weights vgg16.pth --method grad_cam layer=features",
    "pellucid explain beats.txt --model runs/beats/fold-0 rate=250",
    "pellucid explain scan.png --model runs/demo/softcam --erase --text short --language de",
    "pellucid explain scan.png --model runs/demo/softcam --augment --like lesionlab:fundus",
    "pellucid explain scan.png --model runs/a/seed-0/fold-0 --ensemble runs/a/seed-1/fold-0 --ensemble runs/a/seed-2/fold-0",
)


def run(
    source: options.Source,
    model: options.Model,
    words: options.Settings = None,
    weights: options.Weights = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="See pellucid.METHODS; by default evidence where the network has it, else grad_cam."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="Class number or name, 'A against B' or 'A against the rest'; by default what the network predicts.",
        ),
    ] = None,
    classes: Annotated[Path | None, typer.Option("--classes", help="A text file with one class name per line.")] = None,
    no_convert: Annotated[
        bool, typer.Option("--no-convert", help="Keep the black box, even where conversion is exact.")
    ] = False,
    null: Annotated[
        int,
        typer.Option(
            "--null",
            metavar="N",
            help="Compare each map's size with those of N random-phase inputs of the same spectrum (99 is usual; 0: none).",
        ),
    ] = 0,
    augment: Annotated[
        bool,
        typer.Option("--augment", help="Explain mirrored and shifted views too, and colour only what they agree on."),
    ] = False,
    ensemble: Annotated[
        list[str] | None,
        typer.Option(
            "--ensemble",
            metavar="MODEL",
            help="A further network trained alike; may be repeated. Their mean is explained, coloured where they agree.",
        ),
    ] = None,
    erase: Annotated[
        bool, typer.Option("--erase", help="Measure what the network answers without the strongest region.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(
            "--like", metavar="DATA", help="Show the places of these samples that look most like the strongest region."
        ),
    ] = None,
    audience: Annotated[
        str, typer.Option("--text", help="Words for whom: technical, professional or short.")
    ] = "technical",
    language: Annotated[str, typer.Option("--language", help="Of these words: en or de.")] = "en",
    regions: Annotated[int, typer.Option("--regions", min=1, help="Regions in the ledger.")] = 5,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("explained"),
    batch_size: options.BatchSize = 8,
    max_bad: options.MaxBad = 0.1,
    config: options.Config = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    given = options.settings(words, config)
    reading, chosen = options.divided(given, source, _method_options(method))
    check_free(out, _KIND)
    import torch

    from pellucid import files
    from pellucid.data import open_data
    from pellucid.networks import class_names, open_network, preprocessing, random_weights, reading_for
    from pellucid.null import check_draws
    from pellucid.render.words import check_form

    if null:
        check_draws(null)
    check_form(audience, language)
    check_together(ensemble, null=bool(null), like=like is not None)
    torch.manual_seed(seed)  # a network without weights starts from this seed
    network = open_network(model, weights=weights, device=options.device(device))
    others = [open_network(name, weights=None, device=options.device(device)) for name in ensemble or ()]
    names = class_names(network, model, classes)
    check_classes(model, network, dict(zip(ensemble or (), others, strict=True)))
    beside = Beside(null, augment, erase, opened_like(model, network, like))
    reading = reading_for(network, source, reading)
    network.preprocessing = {**preprocessing(network), **reading}  # type: ignore[assignment]  # as they are read now
    data = open_data(source, **reading)
    if dry_run:
        say(f"{len(data)} inputs would be explained with {model} (--dry-run).")
        return
    say(random_weights(model, weights), quiet=quiet or not random_weights(model, weights))
    facts = {"model": model, "source": source, "reading": reading, **({"ensemble": ensemble} if ensemble else {})}
    work = _Work([network, *others], facts, not no_convert, method, target, names, chosen, seed, regions, out, _places(data), beside, (audience, language))  # fmt: skip
    files.remove(out / "manifest.json")  # it speaks of what is about to be replaced
    with progress("explained", quiet=quiet or len(data) == 1) as tick:
        for start in range(0, len(data), batch_size):
            work.batch(data, range(start, min(start + batch_size, len(data))), max_bad, quiet)
            tick(min(start + batch_size, len(data)), len(data))
    work.close()
    if as_json:
        show(work.index())
        return
    for row in work.rows:
        print(f"{row['name']}  {row['prediction']}  {row['text']}")
    if len(work.rows) == 1 and work.ledger:
        print(f"\n{work.ledger}")
    for error in work.bad:
        say(f"skipped {error['name']}: {error['message']}")
    say(f"Wrote {out}/ ({len(work.rows)} explained, {len(work.bad)} skipped).", quiet=quiet)


def _method_options(method: str | None) -> list[str]:
    """The options of the method, or of those that are taken when none is named."""
    from pellucid.api import option_names
    from pellucid.methods import METHODS
    from pellucid.registry import look_up

    names = ("evidence", "grad_cam") if method is None else (method,)
    return [option for name in names for option in option_names(look_up(METHODS, name, "method").load())]


_KIND = "explanations"


def _places(data: Dataset) -> list[str]:
    """A file name for every input: readable, safe on any file system, no two alike, none with another's picture."""
    taken = {"index.json", "manifest.json"}
    places = []
    for i in range(len(data)):
        plain = re.sub(r"[^\w.\-]+", "_", data.facts(i).name.replace("/", "__"))[-100:].lstrip(".") or "input"
        place, copy = plain, 1
        while taken & {place.casefold(), f"{place}.png".casefold()}:
            copy += 1
            place = f"{plain}-{copy}"
        taken |= {place.casefold(), f"{place}.png".casefold()}
        places.append(place)
    return places


@dataclass
class _Work:
    """Explaining batch by batch. networks: the mean of all is explained. facts: for the index. form: audience and language.

    rows: what was written; bad: what could not be read.
    """

    networks: list[nn.Module]
    facts: dict[str, Any]
    convert: bool
    method: str | None
    target: str | None
    names: Sequence[str] | None
    options: dict[str, Any]
    seed: int
    regions: int
    folder: Path
    places: Sequence[str]
    beside: Beside
    form: tuple[Any, Any]
    explained_as: str = ""
    ledger: str = ""

    def __post_init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.bad: list[dict[str, str | None]] = []

    def batch(self, data: Dataset, rows: range, max_bad: float, quiet: bool) -> None:
        """Explain what can be read of these inputs, and note the rest. Raises `BadInput` when that is too much."""
        good: list[tuple[int, Sample]] = []
        for i in rows:
            try:
                good.append((i, data[i]))
            except BadInput as error:
                self.bad.append({"name": data.facts(i).name, **error.as_dict(), "message": error.message})
                if len(self.bad) > max_bad * len(data):
                    raise self._unusable(error, len(data)) from error
        if not good:
            return
        from pellucid.sample import collate

        x = collate([sample for _, sample in good])
        if not self.explained_as:
            self._prepare(x, quiet)
        e = self._explained(x)
        for k, (i, sample) in enumerate(good):
            self.rows.append(self._written(e[k], sample, self.places[i]))

    def _explained(self, x: Any) -> Explanation:
        how = {"method": self.method, "classes": self.names, "seed": self.seed, **self.options}
        return self.beside.explained(self.networks, x, self.target, **how)

    def _prepare(self, x: Any, quiet: bool) -> None:
        """Convert the network where that is exact, and see whether the names fit it."""
        from pellucid.call import weights_device
        from pellucid.methods import METHODS
        from pellucid.networks import check_names, check_takes, made_explainable

        for network in self.networks:
            check_names(self.names, check_takes(network, x[:1].to(weights_device(network))))
        keep = "" if self.convert else "--no-convert"
        if self.method is not None and "evidence" not in METHODS[self.method].needs:
            keep = f"{self.method} needs no conversion"
        made = [made_explainable(network, x[:1], self.facts["model"], keep=keep) for network in self.networks]
        self.networks, self.explained_as = [network for network, _ in made], made[0][1]
        say(self.explained_as, quiet=quiet)
        self.beside.read_known(self.networks[0], quiet=quiet)

    def _unusable(self, error: BadInput, total: int) -> BadInput:
        if total == 1:
            return error
        return BadInput(
            f"{len(self.bad)} of {total} inputs cannot be read, the last being {self.bad[-1]['name']}: {error.message}",
            why=f"{error.why} More are bad than --max-bad allows.".strip(),
            hint="Mend them, or raise --max-bad.",
            path=error.path,
        )

    def _written(self, e: Explanation, sample: Sample, place: str) -> dict[str, Any]:
        """PLACE.png, and PLACE/ with the numbers."""
        from pellucid import files

        stream = io.BytesIO()
        e.overlay(sample.image).save(stream, format="PNG")
        files.write_bytes(self.folder / f"{place}.png", stream.getvalue())
        e.save(self.folder / place)
        found = self.beside.found(self.networks, e, sample, self.folder / place)
        ledger = e.ledger(self.regions) if e.complete else None
        self.ledger = str(ledger) if ledger else ""
        row = {
            "name": sample.name, "prediction": _prediction(e), "target": e.target.describe(e.classes),
            "score": float(e.score[0]), "method": e.method, "text": e.text(*self.form), "ledger": ledger.as_dict() if ledger else None,
            "null": e.null.as_dict() if e.null else None, **found,
            "picture": f"{place}.png", "numbers": f"{place}/explanation.npz",
        }  # fmt: skip
        files.write_json(self.folder / place / "ledger.json", row)
        return row

    def index(self) -> dict[str, Any]:
        return {**self.facts, "explained_as": self.explained_as, "explained": self.rows, "skipped": self.bad}

    def close(self) -> None:
        """The index, and last the manifest: with it the folder is whole. Raises `BadInput` where nothing was explained."""
        from pellucid import files
        from pellucid.models import storage

        if not self.rows:
            first = self.bad[0]
            raise BadInput(
                f"None of {len(self.bad)} inputs can be read, the first being {first['name']}: {first['message']}",
                hint="Give readable inputs.",
                path=first["path"],
            )
        files.write_json(self.folder / "index.json", self.index())
        names = ["index.json"]
        for row in self.rows:
            place = row["picture"].removesuffix(".png")
            further = [name for name in FURTHER if (self.folder / place / name).exists()]
            names += [row["picture"], *(f"{place}/{name}" for name in (*_NUMBERS, *further))]
        storage.write_manifest(self.folder, names, kind=_KIND)


_NUMBERS = ("explanation.json", "explanation.npz", "ledger.json")


def _prediction(e: Explanation) -> str:
    """What the network answers, where that is a class."""
    from pellucid.errors import TargetError
    from pellucid.targets import parse

    try:
        return parse(None, task=e.provenance["task"], classes=e.classes).resolve(e.logits).describe(e.classes)
    except TargetError:  # an output that only a target of its own can read
        return ""
