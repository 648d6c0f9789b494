"""A SoftCAM with the evidence maps of all classes, against the plain forward pass of the network it was made from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import pellucid
from benchmarks.protocol import estimate
from benchmarks.study import CLASS, PLAIN, Goal, Run, Setting, Study, Subject, memories, plain_forward, rows, times

LIMIT = 1.03
MAPS = "SoftCAM, logits and all maps"


def _all_maps(model: nn.Module, x: Tensor) -> Run:
    softcam = pellucid.convert(model, x[:1])

    def run() -> Any:
        with torch.inference_mode():
            return softcam(x, return_evidence=True)

    return run


def _explained(model: nn.Module, x: Tensor) -> Run:
    softcam = pellucid.convert(model, x[:1])
    return lambda: pellucid.explain(softcam, x, CLASS)


SUBJECTS = {
    PLAIN: Subject(plain_forward),
    MAPS: Subject(_all_maps),
    "SoftCAM, pellucid.explain": Subject(_explained),
}


def run(setting: Setting) -> Study:
    ratios, runs = times(SUBJECTS, setting)
    needed = memories("softcam_forward", SUBJECTS, setting)
    logits, maps = runs[MAPS]()
    found = estimate(ratios[MAPS])
    cells = tuple(maps.shape[2:])
    return Study(
        title=f"SoftCAM of {setting.network_name}, {setting.side} px",
        about=f"Maps of all {maps.shape[1]} classes on {' x '.join(map(str, cells))} cells, from the pass that gives the logits.",
        rows=rows(SUBJECTS, {1: ratios}, needed),
        goals=[
            Goal(
                f"Logits and all evidence maps take at most {LIMIT} x the plain forward pass of the original.",
                str(found),
                found.median <= LIMIT,
            ),
            Goal(
                "The maps' means are the logits (largest difference over the largest logit at most 1e-5).",
                f"{_error(maps.flatten(2).mean(2), logits):.1g}",
                _error(maps.flatten(2).mean(2), logits) <= 1e-5,
            ),
        ],
        ratios={1: ratios},
    )


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
