"""`pellucid audit`: what a network does wrong, held to a policy, on record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import check_free, progress, say, show
from pellucid.errors import OptionError

NAME = "audit"
HELP = (
    "Audit a run on samples that it did not see: performance by subgroup, shortcuts, leakage, errors, decisions on record. "
    "Exit code 4 when a limit of the policy is not met."
)
EXAMPLES = (
    "pellucid audit runs/eyes --policy policy.yaml",
    "pellucid audit runs/s8 lesionlab:fundus --zone sample:marker --out runs/s8-audit n_images=300 split=test marker=letter rho=0.8",
    "pellucid audit runs/chest --subgroup view --subgroup age --zone corners:0.25",
    "pellucid audit runs/chest --policy policy.yaml --since audits/spring/audit.json --out audits/autumn",
    "pellucid audit runs/eyes --mend corners --out audits/mended",
)

BATCH, BAD = 32, 0.1


def run(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run made by `train`, or a saved model (then name data).", show_default=False
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA] KEY=VALUE",
            help="Data that it did not see, where the run has no folds; settings of their reader.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A YAML file: purpose, zones, subgroups, limits.")
    ] = None,
    zone: Annotated[
        list[str] | None,
        typer.Option(
            "--zone",
            help="Where no reason should lie: corners:SHARE, border:SHARE, box:X0,Y0,X1,Y1, sample:NAME; may be repeated.",
        ),
    ] = None,
    subgroup: Annotated[
        list[str] | None, typer.Option("--subgroup", help="A column of the samples' notes; may be repeated.")
    ] = None,
    since: Annotated[Path | None, typer.Option("--since", help="The audit.json of an earlier audit.")] = None,
    mend: Annotated[
        str | None, typer.Option("--mend", help="Train anew so that this zone tells nothing, and compare.")
    ] = None,
    how: Annotated[
        str,
        typer.Option("--how", help="Of --mend: exchange (zones of other samples) or penalty (a price on evidence)."),
    ] = "exchange",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; by default RUN/audit.")] = None,
    batch_size: options.BatchSize = BATCH,
    max_bad: options.MaxBad = BAD,
    config: options.Config = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    from pellucid.audit.policy import Policy, read_policy

    source, words = _source(words)
    given = options.settings(words, config)
    reading = options.divided(given, source, ())[0] if source is not None else _no_settings(given)
    held, lines = (Policy(), {}) if policy is None else read_policy(policy)
    held = held.changed(zones=(*held.zones, *(zone or ())), subgroups=(*held.subgroups, *(subgroup or ())))
    place = out or folder / "audit"
    if dry_run:
        say(f"Would write {place}/ (--dry-run).")
        return
    from pellucid.audit.audit import KIND, Order, audit, refuse_failed

    check_free(place, KIND)
    order = Order(
        folder, place, source, reading, held, lines, None if policy is None else policy.read_text(encoding="utf-8"), since, mend, how, batch_size, max_bad, seed,
        str(options.device(device)), _command(folder, source, words, place, {"policy": policy, "since": since, "mend": mend, "how": how if mend else None, "zone": zone, "subgroup": subgroup, "config": config, "seed": seed or None, "batch-size": None if batch_size == BATCH else batch_size, "max-bad": None if max_bad == BAD else max_bad}),
    )  # fmt: skip
    with progress("samples", quiet=quiet) as tick:
        page = audit(order, tick=tick, say=lambda text: say(text, quiet=quiet))
    if as_json and not page.failed:
        show({"folder": str(place), "summary": page.summary, "limits": [vars(line) for line in page.limits]})
    elif not as_json:
        print("\n".join(page.summary))
        for line in page.limits:
            print(f"{'met    ' if line.met else 'NOT MET'}  {line.key} {line.asked}. {line.words}")
        say(f"Wrote {place}/audit.html, audit.json, model-card.md and decisions.jsonl.", quiet=quiet)
    refuse_failed(page, policy)


def _source(words: list[str] | None) -> tuple[str | None, list[str]]:
    """The data, where the first word names them, and the settings."""
    words = list(words or ())
    return (words.pop(0), words) if words and "=" not in words[0] else (None, words)


def _no_settings(given: dict[str, object]) -> dict[str, object]:
    if given:
        raise OptionError(
            f"There is no setting '{min(given)}' for a run.",
            why="It is judged by its own folds, read as in training.",
            hint="Leave it out, or name data before it.",
        )
    return given


def _command(folder: Path, source: str | None, words: Sequence[str], out: Path, given: Mapping[str, object]) -> str:
    """What repeats the audit: everything that decides a number in it."""
    named = [
        (f"--{name}", one)
        for name, value in {**given, "out": out}.items()
        if value is not None
        for one in (value if isinstance(value, list) else [value])
    ]
    return shlex.join(
        [
            "pellucid",
            "audit",
            str(folder),
            *([source] if source else []),
            *(str(part) for pair in named for part in pair),
            *words,
        ]
    )
