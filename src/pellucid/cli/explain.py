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

    if null:
        check_draws(null)
    torch.manual_seed(seed)  # a network without weights starts from this seed
    network = open_network(model, weights=weights, device=options.device(device))
    names = class_names(network, model, classes)
    reading = reading_for(network, source, reading)
    network.preprocessing = {**preprocessing(network), **reading}  # type: ignore[assignment]  # as they are read now
    data = open_data(source, **reading)
    if dry_run:
        say(f"{len(data)} inputs would be explained with {model} (--dry-run).")
        return
    say(random_weights(model, weights), quiet=quiet or not random_weights(model, weights))
    facts = {"model": model, "source": source, "reading": reading}
    work = _Work(network, facts, not no_convert, method, target, names, chosen, seed, regions, out, _places(data), null)
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
    """Explaining batch by batch. facts: for the index. rows: what was written; bad: what could not be read."""

    network: nn.Module
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
    null: int
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
        from pellucid.api import explain
        from pellucid.null import against_null

        how = {"method": self.method, "classes": self.names, "seed": self.seed, **self.options}
        if self.null:
            return against_null(self.network, x, self.target, draws=self.null, **how)
        return explain(self.network, x, self.target, **how)

    def _prepare(self, x: Any, quiet: bool) -> None:
        """Convert the network where that is exact, and see whether the names fit it."""
        from pellucid.call import weights_device
        from pellucid.methods import METHODS
        from pellucid.networks import check_names, check_takes, made_explainable

        check_names(self.names, check_takes(self.network, x[:1].to(weights_device(self.network))))
        keep = "" if self.convert else "--no-convert"
        if self.method is not None and "evidence" not in METHODS[self.method].needs:
            keep = f"{self.method} needs no conversion"
        self.network, self.explained_as = made_explainable(self.network, x[:1], self.facts["model"], keep=keep)
        say(self.explained_as, quiet=quiet)

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
        ledger = e.ledger(self.regions) if e.complete else None
        self.ledger = str(ledger) if ledger else ""
        row = {
            "name": sample.name, "prediction": _prediction(e), "target": e.target.describe(e.classes),
            "score": float(e.score[0]), "method": e.method, "text": e.text(), "ledger": ledger.as_dict() if ledger else None,
            "null": e.null.as_dict() if e.null else None,
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
            names += [row["picture"], *(f"{place}/{name}" for name in _NUMBERS)]
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
