"""Ablation-CAM beside pytorch-grad-cam, which runs the whole network once for every channel.

On the large networks the peer is timed on the first 32 channels, since every channel costs it the same; its time for all
is that times the number of channels over 32. That the maps are equal is checked on a small network, on all channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
    installed,
    layer_of,
    plain_forward,
    rectified,
    rows,
    times,
    unit,
)

FACTOR, TIMED = 50, 32  # the peer runs 32 channels at a time
OURS, PEER = "pellucid.explain", "pytorch-grad-cam"
CHANNELS = {"resnet50": 2048, "vgg16": 512}


def _pellucid(model: nn.Module, x: Tensor) -> Run:
    return lambda: rectified(pellucid.explain(model, x, CLASS, method="ablation_cam"))


def _pytorch_grad_cam(channels: int | None) -> Callable[[nn.Module, Tensor], Run]:
    def prepare(model: nn.Module, x: Tensor) -> Run:
        import numpy as np
        from pytorch_grad_cam import AblationCAM
        from pytorch_grad_cam.ablation_layer import AblationLayer
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        class First(AblationLayer):
            def activations_to_be_ablated(
                self, activations: np.ndarray, ratio_channels_to_ablate: float = 1.0
            ) -> object:
                self.indices = np.arange(len(activations))[:channels]
                return self.indices

        method = AblationCAM(model=model, target_layers=[model.get_submodule(layer_of(model))], ablation_layer=First())
        wanted = [ClassifierOutputTarget(CLASS)]
        return lambda: torch.as_tensor(method(input_tensor=x, targets=wanted))

    return prepare


SUBJECTS = {
    PLAIN: Subject(plain_forward),
    OURS: Subject(_pellucid),
    PEER: Subject(_pytorch_grad_cam(None), "grad-cam"),
}
FIRST = {**SUBJECTS, PEER: Subject(_pytorch_grad_cam(TIMED), "grad-cam")}


def run(setting: Setting) -> list[Study]:
    small = replace(setting, network_name="resnet18", side=min(setting.side, 112))
    return [_whole(small), *(_part(each) for each in setting.each() if setting.full)]


def _whole(setting: Setting) -> Study:
    """All channels in both, so the maps can be compared."""
    ratios, runs = times(installed(SUBJECTS), setting, pairs=setting.fewer(10), warm=1)
    goals, differences = [], {}
    if PEER in runs:
        differences = {PEER: float((unit(runs[PEER]()) - unit(runs[OURS]())).abs().max())}
        worst = differences[PEER]
        goals = [_faster(ratios, 1), Goal("The same map (difference at most 1e-3).", f"{worst:.1g}", worst <= 1e-3)]
    return Study(
        title=f"Ablation-CAM of {setting.network_name}, {setting.side} px",
        about=f"Rectified map at {layer_of(setting.network())}, at the input's size, batch 1.",
        rows=rows(SUBJECTS, {1: ratios}, differences=differences),
        goals=goals,
        ratios={1: ratios},
    )


def _part(setting: Setting) -> Study:
    channels = CHANNELS[setting.network_name]
    ratios, _ = times(installed(FIRST), setting, pairs=2, warm=1)
    named = {name if name != PEER else f"{PEER}, {TIMED} of {channels} channels": s for name, s in FIRST.items()}
    shown = dict(zip(named, (ratios.get(name) for name in FIRST), strict=True))
    return Study(
        title=f"Ablation-CAM of {setting.network_name}, {setting.side} px",
        about=f"The peer is timed on {TIMED} of {channels} channels; its time for all is {channels // TIMED} times that.",
        rows=rows(named, {1: {name: values for name, values in shown.items() if values is not None}}),
        goals=[_faster(ratios, channels / TIMED)] if PEER in ratios else [],
        ratios={1: ratios},
    )


def _faster(ratios: dict[str, list[float]], share: float) -> Goal:
    found = compare([share * r for r in ratios[PEER]], ratios[OURS])
    return Goal(f"At least {FACTOR} times faster than {PEER}.", f"{found} times", found.median >= FACTOR)
