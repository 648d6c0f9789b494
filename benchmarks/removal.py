"""Deletion and insertion: what a step costs beside a plain forward of its batch, with a fast backend, and beside Quantus.

Every subject follows the same curve with the same passes: the whole input, then each step of the batch. Quantus' curve
begins after the first step, so the whole input is given to the network beforehand; it flips single values, so the three of
a place are made to follow each other (and its check that steps divide the places, not the values, is left out). Times are per pass. That the areas are the same is checked as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.protocol import compare, estimate
from benchmarks.study import CLASS, Goal, Run, Setting, Study, Subject, installed, memories, rows, times
from pellucid.backends import Backend
from pellucid.call import Call
from pellucid.metrics.deletion import deletion
from pellucid.metrics.insertion import insertion
from pellucid.targets import ClassTarget

BATCH, STEPS = 4, 16
PASSES = STEPS + 1
LIMIT, FAST = 1.05, 1.5
DELETION, INSERTION, ONNX, QUANTUS = "deletion", "insertion", "deletion, onnxruntime", "Quantus PixelFlipping"


def _map(x: Tensor) -> Tensor:
    """A map without ties, so that every library takes the same order."""
    generator = torch.Generator().manual_seed(2)
    places = torch.stack([torch.randperm(x[0, 0].numel(), generator=generator) for _ in x])
    return places.double().view(len(x), *x.shape[2:])


def _deletion(backend: Backend | None = None) -> Any:
    def prepare(model: nn.Module, x: Tensor) -> Run:
        pixels = _map(x)
        return lambda: deletion(
            Call(model), x, ClassTarget(CLASS), pixels, steps=STEPS, batch_size=BATCH, backend=backend
        )["probability"]

    return prepare


def _insertion(model: nn.Module, x: Tensor) -> Run:
    pixels = _map(x)
    return lambda: insertion(Call(model), x, ClassTarget(CLASS), pixels, steps=STEPS, batch_size=BATCH)["probability"]


def _quantus(model: nn.Module, x: Tensor) -> Run:
    import quantus
    from quantus.helpers import asserts

    asserts.assert_features_in_step = lambda **_: None
    values = (3 * _map(x)[:, None] + torch.arange(3.0).view(1, 3, 1, 1)).numpy()
    step = x[0].numel() // STEPS
    metric = quantus.PixelFlipping(
        features_in_step=step, perturb_baseline=0.0, normalise=False, disable_warnings=True, display_progressbar=False
    )
    labels, given = np.full(len(x), CLASS), x.numpy()

    def run() -> Tensor:
        with torch.no_grad():
            first = model(x).softmax(1)[:, CLASS]
        # Copies, because it works on the caller's arrays.
        points = metric(model, given.copy(), labels, values.copy(), device="cpu", softmax=True, batch_size=BATCH)
        curve = torch.cat([first[:, None].double(), torch.tensor(np.array(points)).double()], 1)
        return torch.trapezoid(curve, dx=1 / STEPS, dim=1)

    return run


SUBJECTS = {
    DELETION: Subject(_deletion()),
    INSERTION: Subject(_insertion),
    ONNX: Subject(_deletion("onnxruntime"), "onnxruntime"),
    QUANTUS: Subject(_quantus, "quantus"),
}


def run(setting: Setting) -> Study:
    present = installed(SUBJECTS)
    found, runs = times(present, setting, BATCH, setting.fewer(PASSES), warm=1)
    ratios = {name: [ratio / PASSES for ratio in values] for name, values in found.items()}
    areas = {name: run() for name, run in runs.items() if name != INSERTION}
    differences = {n: float(((a - areas[DELETION]) / areas[DELETION]).abs().max()) for n, a in areas.items()}
    return Study(
        title=f"A step of deletion and insertion, {setting.network_name}, {setting.side} px",
        about=f"Time of a whole curve of {STEPS} steps over its {PASSES} passes of {BATCH} inputs. Difference: of the area from "
        "deletion's, relative. Memory: of a call with that many inputs.",
        rows=rows(SUBJECTS, {BATCH: ratios}, memories("removal", present, setting), differences),
        goals=[*_steps(ratios), *_beside(ratios, differences)],
        ratios={BATCH: ratios},
    )


def _steps(ratios: dict[str, list[float]]) -> list[Goal]:
    own = {name: estimate(ratios[name]) for name in (DELETION, INSERTION)}
    return [
        Goal(f"A step of {name} takes at most {LIMIT} x a plain forward of its batch.", str(r), r.median <= LIMIT)
        for name, r in own.items()
    ]


def _beside(ratios: dict[str, list[float]], differences: dict[str, float]) -> list[Goal]:
    goals = []
    if ONNX in ratios:
        gain = compare(ratios[DELETION], ratios[ONNX])
        what = f"Deletion is at least {FAST} times as fast with a fast backend (onnxruntime)."
        goals.append(Goal(what, str(gain), gain.median >= FAST))
    if QUANTUS in ratios:
        against = compare(ratios[DELETION], ratios[QUANTUS])
        what = "Deletion is not slower than Quantus at the same curve and passes, beyond the noise."
        goals.append(Goal(what, str(against), against.low <= 1))
    worst = max(differences.values())
    return [*goals, Goal("All give the same area (within 1e-3).", f"{worst:.1g}", worst <= 1e-3)]
