"""Grad-CAM, Grad-CAM++, Layer-CAM and HiRes-CAM of one class beside pytorch-grad-cam, torch-cam and Captum.

All work at the same layer and end with the rectified map at the input's size, so that the same work is compared; how far
the maps are apart is measured beforehand. What can be kept between calls (hooks, extractors) is made beforehand, and
every subject has a copy of the network of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import pellucid
from benchmarks.protocol import compare, estimate
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
    layer_of,
    memories,
    plain_forward,
    rectified,
    resized,
    rows,
    times,
    unit,
)

LIMIT = 1.1
METHODS = {
    "Grad-CAM": "grad_cam",
    "Grad-CAM++": "grad_cam_plus_plus",
    "Layer-CAM": "layer_cam",
    "HiRes-CAM": "hires_cam",
}
SAME = ("Grad-CAM", "Layer-CAM", "HiRes-CAM")  # three formulas go by the name of Grad-CAM++
OWN = "pellucid"
COST = {"resnet50": 4, "vgg16": 8}  # how many times fewer pairs than for a plain pass
# Eight at a time take long, so the slow peers are left out; and a library keeps one graph whichever map it is asked for.
_SLOW = (", pytorch-grad-cam", ", Captum")
_LEAN = "Grad-CAM, "


def _pellucid(method: str, model: nn.Module, x: Tensor) -> Run:
    return lambda: rectified(pellucid.explain(model, x, CLASS, method=method))


def _torch_cam(name: str, model: nn.Module, x: Tensor) -> Run:
    from torchcam import methods

    extractor = getattr(methods, name)(model, layer_of(model))
    classes = [CLASS] * len(x)
    return lambda: resized(extractor(classes, model(x), normalized=False)[0], x)


def _captum(model: nn.Module, x: Tensor) -> Run:
    from captum.attr import LayerAttribution, LayerGradCam

    method = LayerGradCam(model, model.get_submodule(layer_of(model)))

    def run() -> Any:
        cells = method.attribute(x, target=CLASS, relu_attributions=True)
        return LayerAttribution.interpolate(cells, tuple(x.shape[2:]), interpolate_mode="bilinear")[:, 0]

    return run


def _pytorch_grad_cam(name: str, model: nn.Module, x: Tensor) -> Run:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    method = getattr(pytorch_grad_cam, name)(model=model, target_layers=[model.get_submodule(layer_of(model))])
    wanted = [ClassifierOutputTarget(CLASS)] * len(x)
    return lambda: torch.as_tensor(method(input_tensor=x, targets=wanted))


def _peers(kind: str) -> dict[str, tuple[Callable[[nn.Module, Tensor], Run], str]]:
    """Of each library its own version, where it has one. pytorch-grad-cam takes three passes whichever it is asked for."""
    in_torch_cam = {"Grad-CAM": "GradCAM", "Grad-CAM++": "GradCAMpp", "Layer-CAM": "LayerCAM"}
    in_pytorch_grad_cam = {"Grad-CAM": "GradCAM", "HiRes-CAM": "HiResCAM"}
    found: dict[str, tuple[Callable[[nn.Module, Tensor], Run], str]] = {}
    if kind in in_torch_cam:
        found["torch-cam"] = (partial(_torch_cam, in_torch_cam[kind]), "torchcam")
    if kind == "Grad-CAM":
        found["Captum"] = (_captum, "captum")
    if kind in in_pytorch_grad_cam:
        found["pytorch-grad-cam"] = (partial(_pytorch_grad_cam, in_pytorch_grad_cam[kind]), "grad-cam")
    return found


SUBJECTS = {PLAIN: Subject(plain_forward)}
for _kind, _method in METHODS.items():
    SUBJECTS[f"{_kind}, {OWN}"] = Subject(partial(_pellucid, _method))
    SUBJECTS |= {f"{_kind}, {peer}": Subject(make, package) for peer, (make, package) in _peers(_kind).items()}


def run(setting: Setting) -> list[Study]:
    return [_one(each) for each in setting.each()]


def _one(setting: Setting) -> Study:
    present = installed(SUBJECTS)
    ratios: dict[int, dict[str, list[float]]] = {}
    differences: dict[str, float] = {}
    for batch in setting.batches or (1,):
        some = {n: s for n, s in present.items() if batch == 1 or not n.endswith(_SLOW)}
        cost = COST.get(setting.network_name, 1) * (1 if batch == 1 else 5)
        ratios[batch], runs = times(some, setting, batch, setting.fewer(cost), warm=1)
        if batch == 1:
            differences = _differences(runs)
    asked = {n: s for n, s in present.items() if n.startswith(_LEAN) or n.endswith(f", {OWN}") or n == PLAIN}
    needed = memories("cams", asked, setting)
    return Study(
        title=f"Class activation maps of one class of {setting.network_name}, {setting.side} px",
        about=f"`pellucid.explain` at {layer_of(setting.network())}, the map rectified and at the input's size. Ours keeps a graph of the layers after "
        "the map alone, the peers one of the whole network. Difference: from our map, both scaled to 0 to 1, at its largest.",
        rows=rows(SUBJECTS, ratios, needed, differences),
        goals=[goal for kind in METHODS for goal in (*_speed(kind, ratios), *_memory(kind, needed))]
        + [_agreement(differences)],
        ratios=ratios,
    )


def _differences(runs: dict[str, Run]) -> dict[str, float]:
    found = {}
    for kind in METHODS:
        maps = {name: unit(made()) for name, made in runs.items() if name.startswith(f"{kind}, ")}
        found |= {name: float((m - maps[f"{kind}, {OWN}"]).abs().max()) for name, m in maps.items()}
    return found


def _speed(kind: str, ratios: dict[int, dict[str, list[float]]]) -> list[Goal]:
    goals = []
    for batch, found in ratios.items():
        mine, own = found[f"{kind}, {OWN}"], estimate(found[f"{kind}, {OWN}"])
        what = f"{kind} takes at most {LIMIT} x a plain forward pass, batch {batch}."
        goals.append(Goal(what, str(own), own.median <= LIMIT))
        peer = fastest(found, (f"{kind}, {name}" for name in _peers(kind)))
        if peer is not None:
            against = compare(mine, found[peer])
            what = f"{kind} is not slower than the fastest peer ({peer}) beyond the noise, batch {batch}."
            goals.append(Goal(what, str(against), against.low <= 1))
    return goals


def _memory(kind: str, needed: dict[str, dict[int, float | None]]) -> list[Goal]:
    """Against the leanest peer, measured at Grad-CAM."""
    goals = []
    for batch, mine in needed[f"{kind}, {OWN}"].items():
        theirs = {n: needed[n][batch] for n in (f"{_LEAN}{peer}" for peer in _peers("Grad-CAM")) if n in needed}
        known = {name: amount for name, amount in theirs.items() if amount is not None}
        if mine is not None and known:
            peer = min(known, key=lambda name: known[name])
            what = f"{kind} needs at most half of the extra memory of the leanest peer ({peer}), batch {batch}."
            goals.append(
                Goal(
                    what,
                    f"{mine / known[peer]:.2f} ({mine:.0f} of {known[peer]:.0f} MiB)",
                    mine <= known[peer] / 2,
                )
            )
    return goals


def _agreement(differences: dict[str, float]) -> Goal:
    worst = max(value for name, value in differences.items() if name.startswith(tuple(f"{kind}, " for kind in SAME)))
    kinds = ", ".join(SAME)
    return Goal(f"{kinds}: all give the same map (difference at most 1e-3).", f"{worst:.1g}", worst <= 1e-3)
