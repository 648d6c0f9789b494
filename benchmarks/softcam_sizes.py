"""What all evidence maps cost beside the plain forward pass: sizes and numbers of classes of a ResNet-50, and other networks."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

import pellucid
from benchmarks import protocol
from benchmarks.protocol import estimate
from benchmarks.softcam_forward import LIMIT, _all_maps
from benchmarks.study import Goal, Row, Setting, Study, plain_forward

SIDES, CLASSES = (224, 512), (2, 14, 1000)
OTHERS = ("densenet121", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "mobilenet_v3_large", "vgg16")


@dataclass(frozen=True)
class _Sized(Setting):
    classes: int = 1000

    def network(self) -> nn.Module:
        from torchvision import models

        torch.manual_seed(0)
        model: nn.Module = models.get_model(self.network_name, weights=None, num_classes=self.classes)
        return model.eval()


def run(setting: Setting) -> Study:
    own = [
        _Sized(setting.network_name, side, setting.fewer(3 if side == 224 else 6), classes=n)
        for side in _sides(setting)
        for n in CLASSES
    ]
    others = [_Sized(name, 224, setting.fewer(10)) for name in OTHERS] if setting.full else []
    rows, ratios = [], {}
    for one in [*own, *others]:
        model, x = one.network(), one.inputs(1)
        maps = _all_maps(copy.deepcopy(model), x)
        label = f"{one.network_name}, {one.side} px, {one.classes} classes"
        kind = pellucid.convert(model, x).certificate.kind
        ratios[label] = protocol.alternate(plain_forward(model, x), {label: maps}, one.pairs)[label]
        rows.append(Row(label, kind, {1: estimate(ratios[label])}))
    worst = max(rows[: len(own)], key=lambda r: r.times[1].median)
    return Study(
        title=f"All evidence maps: sizes and classes of {setting.network_name}, other networks",
        about="Logits and the maps of all classes from one pass; the version column says which kind of conversion.",
        rows=rows,
        goals=[
            Goal(
                f"Every size and number of classes of {setting.network_name} takes at most {LIMIT} x the plain forward pass.",
                f"{worst.subject}: {worst.times[1]}",
                worst.times[1].median <= LIMIT,
            )
        ],
        ratios={1: ratios},
    )


def _sides(setting: Setting) -> tuple[int, ...]:
    return SIDES if setting.full else (setting.side,)
