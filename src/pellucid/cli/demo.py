"""`pellucid demo`: everything once, on synthetic images, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import say, show

NAME = "demo"
HELP = (
    "Everything once, on synthetic images. "
    "Trains a black box and its SoftCAM, scores every explanation, and writes a report."
)
EXAMPLES = (
    "pellucid demo",
    "pellucid demo --tiny",
    "pellucid demo --serve",
    "pellucid demo --out runs/second --seed 1",
)


def run(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/demo"),
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A minute's check of the installation; it learns nothing worth reading.")
    ] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Open the networks in the browser afterwards.")] = False,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Trainings at a time.")] = 2,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    import torch

    from pellucid.demo import Plan
    from pellucid.demo import run as run_demo

    torch.set_num_threads(1)  # small networks are many times slower on two threads of a busy machine
    plan = Plan.tiny(seed) if tiny else Plan(seed=seed)
    demo = run_demo(out, plan, say=lambda text: say(text, quiet=quiet), processes=processes)
    if as_json:
        show(
            {
                "performance": [r.as_dict() for r in demo.table.performance()],
                "scores": [r.as_dict() for r in demo.table.summary()],
            }
        )
        return
    for row in demo.table.performance():
        print(f"{row.model:<10}  {row.metric:<18}  {row.interval}")
    print(f"\n{demo.table}\n")
    for shortcut in demo.shortcuts:
        print(
            f"letter at rho {shortcut.rho:.1f}: showing it changes the log-odds by {shortcut.effect.change}; evidence in its zone, with against without it: {shortcut.effect.contrast}"
        )
    print(f"\nOpen {out / 'report.html'}")
    if serve:
        from pellucid.cli.serve import run as run_service

        run_service([str(out)], data="lesionlab:fundus", quiet=quiet)
