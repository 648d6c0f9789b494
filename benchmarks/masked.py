"""Score-CAM, RISE and occlusion, which run an input in many versions, beside peers and plain loops, and on a fast backend.

All subjects of a study run the same number of passes. What a graph costs to build is not in its times: it is built
once for a network and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import pellucid
from benchmarks.protocol import compare
from benchmarks.study import (
    CLASS,
    PLAIN,
    Goal,
    Run,
    Setting,
    Study,
    Subject,
    fastest,
    installed,
    plain_forward,
    resized,
    rows,
    times,
    unit,
)

FACTOR = 1.5
OWN, FAST = "pellucid", "pellucid, onnxruntime"
MASKS = 32
ROWS = 16  # the peers' own default, where they have one


@dataclass(frozen=True)
class Comparison:
    """One method at one network. options: ours. others: subjects that do the same passes. same: those whose map is ours."""

    method: str
    setting: Setting
    options: Mapping[str, Any]
    others: Mapping[str, Subject]
    same: tuple[str, ...]
    about: str
    pairs: int


def _pellucid(options: Mapping[str, Any], model: nn.Module, x: Tensor) -> Run:
    return lambda: pellucid.explain(model, x, CLASS, **options).at_input_size()


def _captum(windows: int, per_pass: int, model: nn.Module, x: Tensor) -> Run:
    from captum.attr import Occlusion

    side = x.shape[2] // windows
    method, window = Occlusion(model), (x.shape[1], side, side)
    return lambda: method.attribute(
        x, window, strides=window, target=CLASS, perturbations_per_eval=per_pass, baselines=0
    )[:, 0]


def _torch_cam(layer: str, model: nn.Module, x: Tensor) -> Run:
    from torchcam.methods import ScoreCAM

    extractor = ScoreCAM(model, layer, batch_size=ROWS, input_shape=tuple(x.shape[1:]))

    def run() -> Tensor:
        with torch.no_grad():
            scores = model(x)
        return resized(extractor([CLASS], scores, normalized=False)[0], x)

    return run


def _pytorch_grad_cam(layer: str, model: nn.Module, x: Tensor) -> Run:
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    method = ScoreCAM(model=model, target_layers=[model.get_submodule(layer)])
    method.batch_size = ROWS
    return lambda: torch.as_tensor(method(input_tensor=x, targets=[ClassifierOutputTarget(CLASS)]))


def _score_cam_loop(layer: str, model: nn.Module, x: Tensor) -> Run:
    """The paper's algorithm on batches of masks, nothing shared with ours."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        kept.append(output)

    @torch.no_grad()
    def run() -> Tensor:
        handle = model.get_submodule(layer).register_forward_hook(keep)
        model(x)
        handle.remove()
        cells = kept.pop()
        masks = torch.nn.functional.interpolate(cells, x.shape[2:], mode="bilinear")[0]
        low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
        masks = (masks - low) / torch.where(high > low, high - low, 1)
        scores = torch.cat([model(x * part[:, None])[:, CLASS] for part in masks.split(ROWS)])
        return resized(torch.einsum("k,kij->ij", scores.softmax(0), cells[0])[None], x)

    return run


def _rise_loop(masks: int, model: nn.Module, x: Tensor) -> Run:
    """Equation 6 with batches of the same masks, made beforehand as the authors' code does, less the mean score."""
    from pellucid.methods.rise import _drawn, _enlarged

    size = x.shape[2:]
    grids, shifts = _drawn(size, masks, 7, 0.5, torch.Generator().manual_seed(0))
    made = _enlarged(grids, shifts, size, 7).float()

    @torch.no_grad()
    def run() -> Tensor:
        scores = torch.cat([model(x * part[:, None])[:, CLASS] for part in made.split(ROWS)])
        return torch.einsum("k,kij->ij", scores - scores.mean(), made)[None] / (0.5 * masks)

    return run


def _comparisons(setting: Setting) -> list[Comparison]:
    """The small network has room for the usual numbers of passes, the large ones for what a pass costs."""
    small = replace(setting, network_name="resnet18", side=min(setting.side, 112))
    if not setting.full:
        return [_score_cam(small, "maxpool", 2), _rise(small, MASKS, 2), _occlusion(small, 2, 4)]
    found = [
        _score_cam(small, "layer4", 2),
        _rise(small, 200, setting.fewer(8)),
        _occlusion(small, setting.fewer(8), 8),
    ]
    found += [_score_cam(setting, "maxpool", 2), _rise(setting, MASKS, 2), _occlusion(setting, 2, 4)]
    return found + [_occlusion(replace(setting, network_name=name), 2, 4) for name in setting.others]


def _score_cam(setting: Setting, layer: str, pairs: int) -> Comparison:
    others = {
        "plain loop": Subject(partial(_score_cam_loop, layer)),
        "torch-cam": Subject(partial(_torch_cam, layer), "torchcam"),
    }
    if layer == "layer4":
        others["pytorch-grad-cam"] = Subject(partial(_pytorch_grad_cam, layer), "grad-cam")
    about = (
        f"A masked input for every channel of {layer}. The paper says how masks are made; torch-cam scales them before they are enlarged, pytorch-grad-cam "
        "enlarges them from corner to corner, so only the plain loop gives the same map."
    )
    return Comparison("score_cam", setting, {"layer": layer}, others, ("plain loop",), about, pairs)


def _rise(setting: Setting, masks: int, pairs: int) -> Comparison:
    others = {"plain loop": Subject(partial(_rise_loop, masks))}
    about = f"{masks} masks; no peer here has it, so it stands beside a loop over batches of masks made beforehand."
    return Comparison("rise", setting, {"masks": masks}, others, ("plain loop",), about, pairs)


def _occlusion(setting: Setting, pairs: int, windows: int) -> Comparison:
    counts = (1, 4, ROWS) if setting.network_name == "resnet18" else (4, ROWS)
    others = {f"Captum, {n} at a time": Subject(partial(_captum, windows, n), "captum") for n in counts}
    about = f"{windows} x {windows} windows side by side."
    return Comparison("occlusion", setting, {"window": setting.side // windows}, others, tuple(others), about, pairs)


def run(setting: Setting) -> list[Study]:
    return [_one(comparison) for comparison in _comparisons(setting)]


def _one(comparison: Comparison) -> Study:
    setting, options = comparison.setting, {"method": comparison.method, **comparison.options}
    subjects = {
        PLAIN: Subject(plain_forward),
        OWN: Subject(partial(_pellucid, options)),
        FAST: Subject(partial(_pellucid, {**options, "backend": "onnxruntime"}), "onnxruntime"),
        **comparison.others,
    }
    ratios, runs = times(installed(subjects), setting, pairs=comparison.pairs, warm=1)
    expected = unit(runs[OWN]())
    differences = {n: float((unit(r()) - expected).abs().max()) for n, r in runs.items() if n not in (PLAIN, OWN)}
    return Study(
        title=f"{comparison.method} of {setting.network_name}, {setting.side} px",
        about=f"{comparison.about} Batch 1. Difference: from our map, both scaled to 0 to 1, at its largest.",
        rows=rows(subjects, {1: ratios}, differences=differences),
        goals=_goals(comparison, ratios, differences),
        ratios={1: ratios},
    )


def _goals(comparison: Comparison, ratios: dict[str, list[float]], differences: dict[str, float]) -> list[Goal]:
    equal = {n: d for n, d in differences.items() if n in (*comparison.same, FAST)}
    goals = [
        Goal(f"{name} gives the same map (difference at most 1e-3).", f"{away:.1g}", away <= 1e-3)
        for name, away in equal.items()
    ]
    peer = fastest(ratios, comparison.others)
    if peer is not None:
        against = compare(ratios[OWN], ratios[peer])
        goals.append(Goal(f"Not slower than {peer} beyond the noise.", str(against), against.low <= 1))
    if peer is not None and FAST in ratios:
        gain = compare(ratios[peer], ratios[FAST])
        what = f"At least {FACTOR} times faster than {peer} with onnxruntime."
        goals.append(Goal(what, f"{gain} times", gain.median >= FACTOR))
    return goals
