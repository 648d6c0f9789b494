"""Help answers at once, without torch, and ends in examples that run."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from cli.kit import Run, fresh
from pellucid.cli import EXAMPLES, VERBS, app

ALL = [example for group in (EXAMPLES, *(v.EXAMPLES for v in VERBS)) for example in group]

HELP = """
import json, resource, sys
from pellucid.cli import main
seen = {}
for verb in [[], *([v] for v in sys.argv[1:])]:
    try:
        main([*verb, "--help"])
    except SystemExit as stop:
        seen[" ".join(verb)] = stop.code
heavy = [m for m in ("torch", "torchvision", "numpy", "scipy", "sklearn", "matplotlib", "rich", "yaml") if m in sys.modules]
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([seen, heavy, used.ru_utime + used.ru_stime]), file=sys.stderr)
"""


def test_no_help_loads_anything_heavy() -> None:
    import json

    verbs = [v.NAME for v in VERBS]
    ended = fresh(HELP, *verbs)
    seen, heavy, seconds = json.loads(ended.stderr)
    assert seen == dict.fromkeys(["", *verbs], 0)
    assert heavy == []
    assert seconds < 6  # of CPU, all together; torch alone would take several


def test_the_package_itself_loads_nothing_heavy() -> None:
    ended = fresh("import sys, pellucid; print([m for m in ('torch', 'numpy', 'typer') if m in sys.modules])")
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", [[], *([v.NAME] for v in VERBS)], ids=lambda v: v[0] if v else "pellucid")
def test_help_ends_in_its_examples_one_per_line(run: Run, verb: list[str]) -> None:
    ended = run(*verb, "--help")
    assert ended.code == 0
    lines = [line.strip() for line in ended.out.strip().splitlines()]
    wanted = next(v.EXAMPLES for v in VERBS if verb[0] == v.NAME) if verb else EXAMPLES
    assert lines[-len(wanted) - 1 :] == ["Examples:", *wanted]


@pytest.mark.parametrize("example", ALL)
def test_examples_are_understood(example: str) -> None:
    """Every option and argument is one that the command has, and settings are key=value."""
    name, verb, *arguments = shlex.split(example)
    assert name == "pellucid"
    command: Any = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    context = command.make_context(verb, arguments)
    words = context.params.get("words") or ()
    settings = words[1:] if verb == "audit" else words  # its first word may name data
    assert all("=" in word for word in settings)


def test_nothing_at_all_shows_the_help(run: Run) -> None:
    assert run().out == run("--help").out


def test_the_version_is_said(run: Run) -> None:
    import pellucid

    assert run("--version").out.split() == ["pellucid", pellucid.__version__]


def test_the_module_is_the_command() -> None:
    import subprocess
    import sys

    ended = subprocess.run(
        [sys.executable, "-m", "pellucid", "verify", "/no/such"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: There is no folder /no/such.")
