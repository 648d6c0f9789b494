"""How much of a VGG's answers survives a new head: before and after distillation, warm-started and from random weights.

    PELLUCID_TEST_DATA=... python -m benchmarks.retrain

Trains VGG-11 (batch normalisation) on chest X-rays, converts it with kind="retrain", and counts equal answers on patients
that neither the training nor the distillation has seen. The control has the same head with random weights, as the authors
of SoftCAM start it.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import pellucid as pl
from pellucid.data.splits import split
from pellucid.models import zoo
from pellucid.performance import auc
from pellucid.sample import Subset, collate
from pellucid.training.distil import distil


def study(source: Path, side: int, epochs: int, distil_epochs: int) -> dict[str, Any]:
    data = _radiographs(source, side)
    parts = split(data, {"rest": 0.7, "test": 0.3}, seed=0).parts
    rest, test = parts["rest"], parts["test"]
    torch.manual_seed(0)
    network = zoo.build("torchvision:vgg11_bn", num_classes=2)
    recipe = pl.TrainingConfig(epochs=epochs, batch_size=16, lr=3e-4, seed=0, val_fraction=0.0)
    network = pl.train(network, Subset(data, rest), recipe, progress=False).model.eval()
    images = collate([data[i] for i in test])
    labels = np.asarray([data[i].label for i in test])
    with torch.no_grad():
        wanted = torch.cat([network(b) for b in images.split(16)])
    rows: dict[str, Any] = {
        "images": (len(rest), len(test)),
        "AUC of the original": auc((wanted[:, 1] - wanted[:, 0]).numpy(), labels),
    }
    held = pl.convert(network, images[:2], images=images)
    rows["exact_at_this_image"] = {
        "kind": held.certificate.kind,
        "flips": held.certificate.flips,
        "constant_share": held.certificate.constant_share,
        "cells_share": held.certificate.cells_share,
    }
    warm = pl.convert(network, images[:2], kind="retrain", images=images)
    cold = _shuffled_head(warm)
    for name, start in (("warm start", warm), ("random head", cold)):
        taught = distil(start, network, Subset(data, rest), epochs=distil_epochs, seed=0)
        rows[name] = {
            "before": _figures(start, images, wanted, labels),
            "after": _figures(taught, images, wanted, labels),
        }
    return rows


def _radiographs(source: Path, side: int) -> Any:
    """Every radiograph with its label "Pneumonia" or "No_findings" and its patient."""
    with (source / "index.csv").open() as table, tempfile.TemporaryDirectory() as folder:
        rows = [
            (source.resolve() / "images_256" / r["file"], r["nih_label"], r["patient"]) for r in csv.DictReader(table)
        ]
        listed = Path(folder) / "radiographs.csv"
        listed.write_text("path,label,group\n" + "".join(f"{p},{label},{group}\n" for p, label, group in rows))
        return pl.open_data(listed, size=side, crop="resize")


def _shuffled_head(softcam: Any) -> Any:
    fresh = copy.deepcopy(softcam)
    torch.manual_seed(0)
    for layer in fresh.model.head.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return fresh


def _figures(softcam: Any, images: torch.Tensor, wanted: torch.Tensor, labels: list[Any]) -> dict[str, float]:
    with torch.no_grad():
        logits = torch.cat([softcam.eval()(b) for b in images.split(16)])
    divergence = (wanted.softmax(1) * (wanted.log_softmax(1) - logits.log_softmax(1))).sum(1).mean()
    return {
        "equal answers": float((logits.argmax(1) == wanted.argmax(1)).float().mean()),
        "divergence in nats": float(divergence),
        "AUC": auc((logits[:, 1] - logits[:, 0]).numpy(), labels),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--distil-epochs", type=int, default=30)
    given = parser.parse_args()
    folder = Path(os.environ.get("PELLUCID_TEST_DATA", "../shared/data")) / "chest_xray_nih_rsna"
    for key, value in study(folder, given.side, given.epochs, given.distil_epochs).items():
        print(f"{key}: {value}")
