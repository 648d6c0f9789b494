"""`python -m benchmarks`: run the benchmarks, print the tables, say which targets are met."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch

from benchmarks import protocol, results
from benchmarks.study import Setting, Study
from pellucid import files

STUDIES = (
    "softcam_forward",
    "softcam_sizes",
    "fast_softcam",
    "cams",
    "several_classes",
    "ablation_cam",
    "eigen_cam",
    "masked",
    "explanation_metrics",
    "removal",
)
QUICK = Setting("resnet18", side=64, pairs=3, batches=(1,), others=())


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--pairs", type=int, help=f"alternating pairs per subject (default {protocol.PAIRS})")
    parser.add_argument("--only", choices=STUDIES, nargs="+", default=STUDIES, help="some of the benchmarks")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test on a small network; the figures mean nothing"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="time only; memory takes a process per subject and batch size"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="with more than one, time is the clock's: run nothing else"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, the single ratios included")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables as Markdown (docs/benchmarks.md)")
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """Exit status 1 when a target is missed (never for --quick)."""
    asked = _arguments().parse_args(given)
    torch.set_num_threads(asked.threads)
    setting = QUICK if asked.quick else Setting()
    setting = replace(setting, pairs=asked.pairs or setting.pairs, batches=() if asked.no_memory else setting.batches)
    command = " ".join(["python -m benchmarks", *(given if given is not None else sys.argv[1:])])
    studies: list[Study] = []
    for name in asked.only:
        found = import_module(f"benchmarks.{name}").run(setting)
        for study in found if isinstance(found, list) else [found]:
            print(results.as_text(study, judged=not asked.quick), end="\n\n", flush=True)
            studies.append(study)
        if asked.json:  # after each, so that a run of hours that is cut off is not lost
            files.write_json(asked.json, results.as_json(studies, setting, asked.quick))
        if asked.write:
            said = results.remarks(asked.write.read_text(encoding="utf-8")) if asked.write.exists() else ""
            files.write_text(asked.write, results.as_markdown(studies, setting, command, said))
    return int(not asked.quick and any(not goal.met for study in studies for goal in study.goals))


if __name__ == "__main__":
    sys.exit(main())
