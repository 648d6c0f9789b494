"""`pellucid benchmark`: do scores of explanations tell good maps from bad ones where the truth is known?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import check_free, progress, say, show
from pellucid.errors import OptionError

NAME = "benchmark"
HELP = (
    "Test the scores themselves on pictures with known truth. "
    "Trains networks on LesionLab, scores every method and control, and says which scores hold and what each remedy is worth."
)
EXAMPLES = (
    "pellucid benchmark lesionlab --preset small",
    "pellucid benchmark lesionlab --preset small --modality xray --seeds 3 --out runs/xray",
    "pellucid benchmark lesionlab --preset full --device cuda --processes 1",
)


def run(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="lesionlab.")],
    preset: Annotated[str, typer.Option("--preset", help="small (minutes on 2 cores) or full (for a GPU).")] = "small",
    modality: Annotated[
        str | None, typer.Option("--modality", help="fundus, oct, xray or all; by default the preset's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Trainings of every network; by default the preset's.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/benchmark"),
    processes: Annotated[int, typer.Option("--processes", min=1, help="Networks at a time.")] = 2,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    debug: options.Debug = False,
) -> None:
    if source != "lesionlab":
        raise OptionError(
            f"There is no benchmark on '{source}'.",
            why="Scores can be tested only where the truth is known.",
            hint="Use: pellucid benchmark lesionlab. For your own data: pellucid evaluate.",
        )
    from pellucid.benchmark.plan import planned

    plan = planned(preset, modality, seeds, seed)
    check_free(out, "benchmark")
    if dry_run:
        say(f"Would train {plan.networks} networks of {', '.join(plan.kinds)} pictures into {out}/ (--dry-run).")
        return
    from pellucid.benchmark.page import terminal
    from pellucid.benchmark.running import run as run_benchmark

    with progress("done", quiet=quiet) as tick:
        found = run_benchmark(out, plan, device=str(options.device(device)), processes=processes, progress=tick)
    if as_json:
        from pellucid import files

        show(files.read_json(out / "results.json"))
    else:
        print(terminal(found))
    say(f"Wrote {out}/results.md, results.json, scores.csv and figures/.", quiet=quiet)
