"""Train, score, judge, write. What is finished is used again, so a killed run goes on where it stopped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pellucid import __version__, files
from pellucid.benchmark import networks, output, results
from pellucid.benchmark.plan import GRADED, Plan
from pellucid.benchmark.scoring import LADDER, REPEATED, STUDIES, Unit
from pellucid.errors import OptionError
from pellucid.models import storage
from pellucid.record import Table, join
from pellucid.workers import Job, work

Progress = Callable[[int, int], None]


def run(
    out: str | Path, plan: Plan, *, device: str = "cpu", processes: int = 1, progress: Progress | None = None
) -> results.Results:
    """The whole benchmark into `out`. Its results have no time in them: equal plans give equal bytes on one machine.

    device: where networks are trained and scored. processes: networks at a time. progress: called with (jobs done, jobs).
    Raises `OptionError` for a folder that holds another benchmark.
    """
    out = Path(out)
    _same_plan(out, plan)
    steps = list(_steps(out, plan, device))
    total, done = sum(map(len, steps)), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for jobs in steps:
        work(jobs, processes, tick)
    tables = _tables(out, plan)
    found = results.judged(plan, tables)
    storage.write_manifest(out, output.write(out, found, tables), kind="benchmark")
    return found


def _same_plan(out: Path, plan: Plan) -> None:
    """Parts of another plan would be mixed up with this one's."""
    path, described = out / "plan.json", files.plain({**vars(plan), "pellucid": __version__})
    if path.exists() and files.read_json(path) != described:
        raise OptionError(
            f"{out} holds another benchmark.",
            why="Its plan.json differs from what was asked for.",
            hint="Choose another --out, or delete the folder.",
            path=out,
        )
    files.write_json(path, described)


def units(out: Path, plan: Plan, device: str = "cpu") -> list[Unit]:
    """Every kind of pictures with every training; the kind with lesions for every class is always among them."""
    kinds = dict.fromkeys((*plan.kinds, GRADED))
    return [Unit(out, plan, kind, k, device) for kind in kinds for k in range(plan.trainings)]


def studies(unit: Unit) -> list[str]:
    """What is asked of one unit: of a kind that was not asked for only what needs its classes."""
    ladder = unit.training < unit.plan.ladders
    several_classes = ["gauges"] if ladder and unit.kind == GRADED else []
    if unit.kind not in unit.plan.kinds:
        return several_classes
    return [*REPEATED, *(LADDER if ladder else ()), *several_classes]


def _steps(out: Path, plan: Plan, device: str) -> Iterator[Sequence[Job]]:
    """Jobs that may run side by side; each step needs the one before."""
    every = units(out, plan, device)
    asked = [u for u in every if u.kind in plan.kinds]

    def training(unit: Unit, name: str) -> Job:
        return networks.train_network, (out, plan, unit.kind, unit.training, name, device)

    graded = [training(u, "graded") for u in every if "gauges" in studies(u)]
    yield [training(u, name) for u in asked for name in networks.trained(plan, u.training)] + graded
    yield [training(u, "sparse") for u in asked]
    yield [(_scored, (u, name)) for u in every for name in studies(u)]


def _scored(unit: Unit, study: str) -> None:
    STUDIES[study](unit)


def _tables(out: Path, plan: Plan) -> dict[str, dict[str, Table]]:
    """Kind -> study -> the table over all trainings, read from the finished parts."""
    found: dict[str, dict[str, list[Table]]] = defaultdict(lambda: defaultdict(list))
    for unit in units(out, plan):
        for name in studies(unit):
            found[unit.kind][name].append(unit.stored(name))
    return {kind: {name: join(tables) for name, tables in by.items()} for kind, by in found.items()}
