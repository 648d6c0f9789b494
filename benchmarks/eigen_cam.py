"""Eigen-CAM beside pytorch-grad-cam: a small symmetric problem in place of a full singular value decomposition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import pellucid
from benchmarks.protocol import compare
from benchmarks.study import PLAIN, Goal, Run, Setting, Study, Subject, installed, layer_of, plain_forward, rows, times

FACTOR = 5
OURS, PEER = "pellucid.explain", "pytorch-grad-cam"
COST = {"resnet50": 6, "vgg16": 6}


def _pellucid(model: nn.Module, x: Tensor) -> Run:
    return lambda: pellucid.explain(model, x, method="eigen_cam", centre=True).at_input_size()


def _pytorch_grad_cam(model: nn.Module, x: Tensor) -> Run:
    from pytorch_grad_cam import EigenCAM

    method = EigenCAM(model=model, target_layers=[model.get_submodule(layer_of(model))])
    return lambda: torch.as_tensor(method(input_tensor=x, targets=[]))


SUBJECTS = {
    PLAIN: Subject(plain_forward),
    OURS: Subject(_pellucid),
    PEER: Subject(_pytorch_grad_cam, "grad-cam"),
}


def run(setting: Setting) -> list[Study]:
    return [_one(each) for each in setting.each()]


def _one(setting: Setting) -> Study:
    ratios, runs = times(installed(SUBJECTS), setting, pairs=setting.fewer(COST.get(setting.network_name, 1)))
    goals, differences = [], {}
    if PEER in runs:
        differences = {PEER: _difference(setting, runs[PEER]())}
        times_faster = compare(ratios[PEER], ratios[OURS])
        goals = [
            Goal(
                f"At least {FACTOR} times faster than {PEER}.",
                f"{times_faster} times",
                times_faster.median >= FACTOR,
            ),
            Goal(
                "The same map up to sign (difference at most 1e-3).",
                f"{differences[PEER]:.1g}",
                differences[PEER] <= 1e-3,
            ),
        ]
    return Study(
        title=f"Eigen-CAM of {setting.network_name}, {setting.side} px",
        about=f"Centred, at {layer_of(setting.network())}, batch 1, at the input's size. A factor of {FACTOR} is only open where the peer's decomposition "
        "takes as long as four forward passes: with 2048 channels, not with 512.",
        rows=rows(SUBJECTS, {1: ratios}, differences=differences),
        goals=goals,
        ratios={1: ratios},
    )


def _difference(setting: Setting, theirs: Tensor) -> float:
    """From our cells, of the sign that is nearer, rectified, brought to size and scaled to 0 to 1 as the peer does."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    made = pellucid.explain(setting.network(), setting.inputs(1), method="eigen_cam", centre=True)
    size = theirs.shape[1:][::-1]

    def drawn(cells: Tensor) -> Tensor:
        scaled = scale_cam_image(cells.relu().numpy(), size)
        return torch.as_tensor(scale_cam_image(scaled))

    return min(float((drawn(sign * made.map) - theirs).abs().max()) for sign in (1, -1))
