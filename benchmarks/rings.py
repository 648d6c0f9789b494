"""`python -m benchmarks.rings`: do trainings end in rings around what decides, and does the test that needs no masks find them?

Small networks are trained from scratch on LesionLab's hard fundus images with poolings that let few cells decide. What the
masks say stands beside what `find_rings` says: the mean evidence of the cells whose centre lies on a lesion or within half a stride
of one, and of those further away whose field still reaches one, in shares of the map's largest value; of lesions that were found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import pellucid as pl
from pellucid.data.lesionlab import LesionLab
from pellucid.models import zoo
from pellucid.sample import collate
from pellucid.spatial import Geometry

POOLINGS: dict[str, dict[str, Any]] = {
    "mean": {"pooling": "mean"},
    "lse, sharpness 1": {"pooling": "lse", "pooling_sharpness": 1},
    "top_k, 2 % of the cells": {"pooling": "top_k", "pooling_k": 0.02},
}
REACH = 11  # samples: half the field of a cell


def away(mask: Tensor, geometry: Geometry) -> Tensor:
    """How far every cell's centre is from the mask, the larger of both axes, in samples."""
    places = mask.nonzero().double()
    centres = torch.cartesian_prod(*geometry.centres())
    far = (centres[:, None] - places[None]).abs().amax(2).amin(1)
    return far.view(geometry.grid)


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
    for cells, score, sample in zip(found.map, found.score.tolist(), samples, strict=True):
        if sample.mask is not None and bool(sample.mask.any()) and score > 0:
            far, top = away(sample.mask, found.geometry), float(cells.max())
            on.append(float(cells[far <= found.geometry.jump[0] / 2].mean()) / top)
            near.append(float(cells[(far > found.geometry.jump[0] / 2) & (far <= REACH)].mean()) / top)
    rings = pl.find_rings(model, x, groups=[s.group for s in samples])
    return f"| {name} | {seed} | {area:.3f} | {np.nanmean(on):.2f} | {np.nanmean(near):.2f} | {rings} |"


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
