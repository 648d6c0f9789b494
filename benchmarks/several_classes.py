"""Grad-CAM of 14 classes at once, beside a loop over them in Captum and pytorch-grad-cam and one pass in torch-cam."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import pellucid
from benchmarks.protocol import estimate
from benchmarks.study import (
    PLAIN,
    Goal,
    Run,
    Setting,
    Study,
    Subject,
    installed,
    layer_of,
    plain_forward,
    rows,
    times,
)

CLASSES = tuple(range(14))
LIMIT = 1.1
OURS = "pellucid.explain"
COST = {"resnet50": 8, "vgg16": 15}


def _pellucid(model: nn.Module, x: Tensor) -> Run:
    return lambda: pellucid.explain(model, x, pellucid.SeveralTargets(CLASSES), method="grad_cam").map[0]


def _torch_cam(model: nn.Module, x: Tensor) -> Run:
    from torchcam.methods import GradCAM

    extractor = GradCAM(model, layer_of(model))
    extractor._relu = False  # else what speaks against a class is lost, and the maps cannot be compared

    def run() -> Tensor:
        scores = model(x)
        maps = [extractor([c], scores, normalized=False, retain_graph=c != CLASSES[-1])[0] for c in CLASSES]
        return torch.cat(maps)

    return run


def _captum(model: nn.Module, x: Tensor) -> Run:
    from captum.attr import LayerGradCam

    method = LayerGradCam(model, model.get_submodule(layer_of(model)))
    return lambda: torch.cat([method.attribute(x, target=c)[:, 0] for c in CLASSES])


def _pytorch_grad_cam(model: nn.Module, x: Tensor) -> Run:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    method = GradCAM(model=model, target_layers=[model.get_submodule(layer_of(model))])
    return lambda: [method(input_tensor=x, targets=[ClassifierOutputTarget(c)]) for c in CLASSES]


SUBJECTS = {
    PLAIN: Subject(plain_forward),
    OURS: Subject(_pellucid),
    "torch-cam, one pass": Subject(_torch_cam, "torchcam"),
    "Captum LayerGradCam, loop": Subject(_captum, "captum"),
    "pytorch-grad-cam, loop": Subject(_pytorch_grad_cam, "grad-cam"),
}


def run(setting: Setting) -> list[Study]:
    return [_one(each) for each in setting.each()]


def _one(setting: Setting) -> Study:
    ratios, runs = times(installed(SUBJECTS), setting, pairs=setting.fewer(COST.get(setting.network_name, 1)), warm=1)
    maps = {name: run().detach() for name, run in runs.items() if name not in (PLAIN, "pytorch-grad-cam, loop")}
    scale = float(maps[OURS].abs().max())
    differences = {name: float((found - maps[OURS]).abs().max()) / scale for name, found in maps.items()}
    own, worst = estimate(ratios[OURS]), max(differences.values())
    return Study(
        title=f"Grad-CAM of {len(CLASSES)} classes of {setting.network_name}, {setting.side} px",
        about=f"Signed maps at {layer_of(setting.network())}, batch 1. Difference: from ours, over the largest value. "
        "pytorch-grad-cam hands out rectified, scaled maps only, which are compared with one class.",
        rows=rows(SUBJECTS, {1: ratios}, differences=differences),
        goals=[
            Goal(f"All maps take at most {LIMIT} x a plain forward pass.", str(own), own.median <= LIMIT),
            Goal("All give the same maps (difference at most 1e-3).", f"{worst:.1g}", worst <= 1e-3),
        ],
        ratios={1: ratios},
    )
