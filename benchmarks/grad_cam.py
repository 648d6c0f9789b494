"""Grad-CAM of one class beside pytorch-grad-cam, torch-cam and Captum.

All work at the same layer and end with the rectified map at the input's size, so that the same work is compared; that
the maps are the same is checked before anything is timed. What can be kept between calls (hooks, extractors) is made
beforehand, and every subject has a copy of the network of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from benchmarks.protocol import compare, estimate
from benchmarks.study import (
    CLASS,
    PLAIN,
    Goal,
    Row,
    Run,
    Setting,
    Study,
    Subject,
    installed,
    memories,
    plain_forward,
    times,
)

LAYER = "layer4"
LIMIT = 1.1
VERB = "pellucid.explain"
METHOD = "pellucid, the method alone"
OURS = (VERB, METHOD)


def _verb(model: nn.Module, x: Tensor) -> Run:
    return lambda: pellucid.explain(model, x, CLASS, rectify=True).at_input_size()


def _method(model: nn.Module, x: Tensor) -> Run:
    from pellucid.call import Call
    from pellucid.methods.grad_cam import grad_cam
    from pellucid.spatial import upsample
    from pellucid.targets import ClassTarget

    def run() -> Tensor:
        found = grad_cam(Call(model), x, ClassTarget(CLASS), layer=LAYER, rectify=True)
        return upsample(found.map, found.geometry)

    return run


def _torch_cam(model: nn.Module, x: Tensor) -> Run:
    from torchcam.methods import GradCAM

    extractor = GradCAM(model, LAYER)
    classes = [CLASS] * len(x)
    return lambda: _resized(extractor(classes, model(x), normalized=False)[0], x)


def _captum(model: nn.Module, x: Tensor) -> Run:
    from captum.attr import LayerAttribution, LayerGradCam

    method = LayerGradCam(model, model.get_submodule(LAYER))

    def run() -> Any:
        cells = method.attribute(x, target=CLASS, relu_attributions=True)
        return LayerAttribution.interpolate(cells, tuple(x.shape[2:]), interpolate_mode="bilinear")[:, 0]

    return run


def _pytorch_grad_cam(model: nn.Module, x: Tensor) -> Run:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    method = GradCAM(model=model, target_layers=[model.get_submodule(LAYER)])
    wanted = [ClassifierOutputTarget(CLASS)] * len(x)
    return lambda: torch.as_tensor(method(input_tensor=x, targets=wanted))


def _resized(cells: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(cells[:, None], size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


SUBJECTS = {
    PLAIN: Subject(plain_forward),
    VERB: Subject(_verb),
    METHOD: Subject(_method),
    "torch-cam": Subject(_torch_cam, "torchcam"),
    "Captum LayerGradCam": Subject(_captum, "captum"),
    "pytorch-grad-cam": Subject(_pytorch_grad_cam, "grad-cam"),
}


def run(setting: Setting) -> Study:
    present = installed(SUBJECTS)
    ratios, runs = times(present, setting)
    needed = memories("grad_cam", present, setting)
    found = {name: estimate(values) for name, values in ratios.items()}
    expected = unit(runs[METHOD]())
    differences = {name: float((unit(made()) - expected).abs().max()) for name, made in runs.items() if name != PLAIN}

    def row(name: str) -> Row:
        version = f"torch {torch.__version__}" if name == PLAIN else SUBJECTS[name].version()
        return Row(name, version, found.get(name), needed.get(name, {}), differences.get(name))

    return Study(
        title=f"Grad-CAM of one class at {LAYER} of {setting.network_name}, {setting.side} px",
        about="Rectified map at the input's size. Ours keeps a graph of the layers after the map alone, the peers one of the whole "
        "network. Difference: from our map, both scaled to 0 to 1, at its largest.",
        rows=[row(name) for name in SUBJECTS],
        goals=[*_speed(ratios), *_memory(ratios, needed), _agreement(differences)],
        ratios=ratios,
    )


def unit(maps: Tensor) -> Tensor:
    """Each map moved and scaled to 0 to 1, as pytorch-grad-cam hands it out."""
    flat = maps.detach().flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return (flat - low) / (high - low)


def _peers(ratios: dict[str, list[float]]) -> list[str]:
    """Those that are installed, the fastest first."""
    return sorted((n for n in ratios if n not in (*OURS, PLAIN)), key=lambda n: estimate(ratios[n]).median)


def _speed(ratios: dict[str, list[float]]) -> list[Goal]:
    goals = []
    for name in OURS:
        own = estimate(ratios[name])
        goals.append(Goal(f"{name} takes at most {LIMIT} x a plain forward pass.", str(own), own.median <= LIMIT))
        for peer in _peers(ratios)[:1]:
            against = compare(ratios[name], ratios[peer])
            goals.append(
                Goal(
                    f"{name} is not slower than the fastest peer ({peer}) beyond the noise.",
                    str(against),
                    against.low <= 1,
                )
            )
    return goals


def _memory(ratios: dict[str, list[float]], needed: dict[str, dict[int, float | None]]) -> list[Goal]:
    goals = []
    for name in OURS:
        for peer in _peers(ratios)[:1]:
            for batch, theirs in needed[peer].items():
                mine = needed[name][batch]
                if mine is not None and theirs is not None:
                    what = f"{name} needs at most half of the extra memory of the fastest peer ({peer}), batch {batch}."
                    goals.append(
                        Goal(what, f"{mine / theirs:.2f} ({mine:.0f} of {theirs:.0f} MiB)", mine <= theirs / 2)
                    )
    return goals


def _agreement(differences: dict[str, float]) -> Goal:
    worst = max(differences.values())
    return Goal("All give the same map (largest difference at most 1e-3 of its range).", f"{worst:.1g}", worst <= 1e-3)
