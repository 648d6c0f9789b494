"""Options that several verbs share, and how `key=value` words and a configuration file are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.errors import BadInput, OptionError, nearest

if TYPE_CHECKING:
    import torch

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Image file, folder, CSV, DICOM, NIfTI, time series, or READER:PLACE such as lesionlab:fundus.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="More settings, of reader, method or training.", show_default=False),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="A saved model's folder, or torchvision:NAME, timm:NAME, pellucid:NAME."),
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="A checkpoint (.pth or .safetensors) for a named network.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda:0, ...")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Inputs at a time.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
MaxBad = Annotated[
    float,
    typer.Option(
        "--max-bad", min=0, max=1, help="Share of unreadable inputs that is skipped and listed before giving up."
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="A YAML file of settings; words on the command line win.")
]

_POWER_OF_TEN = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # YAML takes 5e-4, without a point, for text


def settings(words: Sequence[str] | None, config: Path | None = None) -> dict[str, Any]:
    """`key=value` words over the settings of a YAML file. Values are read as YAML: 3, 0.1, true, [a, b]."""
    found: dict[str, Any] = {} if config is None else _from_file(config)
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise OptionError(
                f"'{word}' is not understood.",
                why="After the source, settings have the form key=value.",
                hint="For example size=224.",
            )
        found[key.replace("-", "_")] = _value(word, value)
    return found


def _value(word: str, text: str) -> Any:
    import yaml

    if _POWER_OF_TEN.fullmatch(text):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(
            f"The value of '{word}' is not understood.",
            why=" ".join(str(error).split()),
            hint="Write numbers, words, or lists like [a, b].",
        ) from error


def _from_file(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"The settings {path} cannot be read.", why=str(error), hint="Check the path.", path=path
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise OptionError(
            f"{path} is not YAML.", why=why, hint="Write one `key: value` per line.", path=path
        ) from error
    if not isinstance(loaded, Mapping | None) or not all(isinstance(key, str) for key in loaded or ()):
        raise OptionError(
            f"{path} holds no settings.",
            why="Names with values are needed.",
            hint="Write one `key: value` per line.",
            path=path,
        )
    return {key.replace("-", "_"): value for key, value in (loaded or {}).items()}


def divided(given: Mapping[str, Any], source: str, own: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that the source's reader takes, and those called `own`. One that neither knows is refused."""
    from pellucid.data import options_of

    own, readers = tuple(own), options_of(source)
    for key in given:
        if key not in own and key not in readers:
            raise OptionError(
                f"There is no setting '{key}'.",
                why=f"Neither the command nor the reader of {source} knows it.",
                hint=nearest(key, dict.fromkeys([*own, *readers])),
            )
    return {k: v for k, v in given.items() if k not in own}, {k: v for k, v in given.items() if k in own}


def device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(name)
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"The device '{name}' cannot be used.", why=str(error).split("\n")[0], hint="Use --device auto or cpu."
        ) from error
    return wanted
