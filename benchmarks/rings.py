"""`python -m benchmarks.rings`: do trainings end in rings around what decides, and does the test that needs no masks find them?

Small networks are trained from scratch on LesionLab's hard fundus images with poolings that let few cells decide. What the
masks say stands beside what `find_rings` says: the evidence at the cells on lesions and at the cells around them
whose field still reaches one, both in shares of the map's largest value.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

import pellucid as pl
from pellucid.data.lesionlab import LesionLab
from pellucid.models import zoo
from pellucid.sample import collate

POOLINGS: dict[str, dict[str, Any]] = {
    "mean": {"pooling": "mean"},
    "lse, sharpness 5": {"pooling": "lse", "pooling_sharpness": 5},
    "top_k, 2 % of the cells": {"pooling": "top_k", "pooling_k": 0.02},
}
REACH = 2  # cells around a lesion whose field of 23 samples reaches it, at a stride of 8


def around(mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which cells hold a part of the mask, and which lie around those."""
    on = F.adaptive_max_pool2d(mask.float()[None, None], grid)[0, 0] > 0
    near = F.max_pool2d(on.float()[None, None], 2 * REACH + 1, 1, REACH)[0, 0] > 0
    return on, near & ~on


def row(name: str, seed: int, images: int, epochs: int, size: int) -> str:
    train, test = (
        LesionLab(n_images=n, size=size, preset="hard", split=split) for split, n in (("train", images), ("test", 200))
    )
    torch.manual_seed(seed)
    net = zoo.build("pellucid:s8", num_classes=2)
    recipe = pl.TrainingConfig(epochs=epochs, batch_size=32, lr=3e-3, seed=seed, device="cpu", augment=("hflip", "vflip"), **POOLINGS[name])  # fmt: skip
    model = pl.train(net, train, recipe, progress=False).model
    samples = [test[i] for i in range(len(test))]
    x = collate(samples)
    found = pl.explain(model, x, pl.ContrastTarget(1, 0))
    area = roc_auc_score([s.label for s in samples], found.score.tolist())
    on, near = [], []
    for cells, sample in zip(found.map, samples, strict=True):
        if sample.mask is not None and bool(sample.mask.any()):
            here, there = around(sample.mask, (cells.shape[0], cells.shape[1]))
            top = float(cells.abs().max()) or 1.0
            on.append(float(cells[here].max()) / top)
            near.append(float(cells[there].max()) / top)
    rings = pl.find_rings(model, x, groups=[s.group for s in samples])
    return f"| {name} | {seed} | {area:.3f} | {mean(on):.2f} | {mean(near):.2f} | {rings} |"


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rings", description=__doc__)
    parser.add_argument("--trainings", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke test; the figures mean nothing")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    images, epochs, size = (32, 1, 64) if asked.quick else (800, 12, 128)
    print("| pooling | training | AUC | at lesions | around them | without masks |\n|---|---|---|---|---|---|")
    for name in POOLINGS:
        for seed in range(1 if asked.quick else asked.trainings):
            print(row(name, seed, images, epochs, size), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
