"""`pellucid VERB [SOURCE] [options] [key=value ...]`: reads arguments, calls one verb, shows the result.

Nothing here imports torch; each command does so when it runs, so `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pellucid import __version__
from pellucid.cli import (
    audit,
    benchmark,
    convert,
    demo,
    describe,
    doctor,
    evaluate,
    explain,
    export,
    inspect,
    look,
    report,
    serve,
    train,
    verify,
)
from pellucid.cli.failure import exit_code

VERBS = (
    doctor, inspect, convert, train, explain, look, evaluate, audit, describe, report, serve, export, verify, demo, benchmark,
)  # fmt: skip
EXAMPLES = (
    "pellucid doctor",
    "pellucid demo",
    "pellucid explain photo.jpg --model torchvision:resnet18 --weights resnet18.pth",
)


def _epilog(examples: Sequence[str]) -> str:
    """One example per line; the mark keeps the parser from filling them into a paragraph."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


app = typer.Typer(
    name="pellucid",
    help="Convolutional networks that explain themselves, and numbers that say whether to trust the explanation.",
    epilog=_epilog(EXAMPLES),
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in VERBS:
    app.command(module.NAME, help=module.HELP, epilog=_epilog(module.EXAMPLES))(module.run)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"pellucid {__version__}")
        raise typer.Exit


@app.callback()
def _pellucid(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0, 1, 2, 3, 4, 5, 6 or 130 (see `pellucid.errors`)."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = typer.main.get_command(app).main(args=given, prog_name="pellucid", standalone_mode=False)
        if code == 130:  # newer parsers turn Ctrl-C into this code, older ones raise
            raise KeyboardInterrupt
    except BaseException as error:
        code = exit_code(error, given)
    raise SystemExit(int(code or 0))
