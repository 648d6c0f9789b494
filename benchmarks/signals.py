"""`python -m benchmarks.signals`: a plain 1D CNN beside its SoftCAM on ECG5000 and GunPoint, and one beat of each class.

    PELLUCID_TEST_DATA=... python -m benchmarks.signals --write

Stratified five-fold cross-validation; both networks start from the same weights and see the same batches. Accuracy is
pooled out of fold. Nothing says where the evidence should be, so maps are judged by deletion and insertion against a
random control. Writes the figures into docs/signals.md and the picture docs/images/ecg.png.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from torch import nn

import pellucid as pl
from benchmarks.results import pipes
from pellucid import files
from pellucid.models import zoo
from pellucid.record import Interval, Prediction, Table, bootstrap, join
from pellucid.render.grid import grid
from pellucid.render.overlay import overlay, scale
from pellucid.sample import Dataset, Subset, collate

PAGE = Path(__file__).parents[1] / "docs" / "signals.md"
PICTURE = PAGE.parent / "images" / "ecg.png"
MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")
PLAIN, SOFTCAM = "plain 1D CNN", "SoftCAM, L1 0.1"
PENALTY = {"penalty": "l1", "strength": 0.1}
METHODS = ("evidence", "grad_cam", "saliency", "integrated_gradients", "occlusion", "random_map")
METRICS = ("deletion", "insertion")
FOLDS = 5


@dataclass(frozen=True)
class Study:
    """Where the series are, how they are read, and how long is trained."""

    files: tuple[str, ...]
    epochs: int
    reading: Mapping[str, Any] = field(default_factory=dict)

    def data(self, root: Path) -> Dataset:
        return pl.open_data([root / name for name in self.files], **self.reading)


STUDIES = {
    # Beats were cut out and stretched to 140 samples each, so their time is a share of the beat.
    "ECG5000": Study(
        ("ecg5000/ECG5000_TRAIN.txt",), 30, {"rate": 1.4, "unit": "% of the beat", "names": {1: "class 1 (normal)", **{k: f"class {k}" for k in (2, 3, 4, 5)}}},
    ),
    "GunPoint": Study(
        ("timeseries_ucr/GunPoint/GunPoint_TRAIN.ts", "timeseries_ucr/GunPoint/GunPoint_TEST.ts"), 40, {"names": {1: "gun", 2: "point"}}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What one study found. networks: the SoftCAM of every fold with the samples that it did not see."""

    data: Dataset
    table: Table
    networks: tuple[tuple[nn.Module, Subset], ...]


def run(study: Study, root: Path, epochs: int, seed: int = 0) -> Found:
    """Both networks on every fold, pooled."""
    data = study.data(root)
    tables, networks = [], []
    for k, (seen, left) in enumerate(_folds(data, seed)):
        test = Subset(data, left)
        for name, penalty in ((PLAIN, {}), (SOFTCAM, PENALTY)):
            network = trained(Subset(data, seen), epochs, penalty, seed)
            methods = METHODS if penalty else ()
            tables.append(
                pl.evaluate(
                    {name: network},
                    test,
                    methods=methods,
                    metrics=METRICS,
                    controls=(),
                    batch_size=50,
                    seed=seed,
                    fold=k,
                )
            )
        networks.append((network, test))
    return Found(data, join(tables), tuple(networks))


def _folds(data: Dataset, seed: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Classes in proportion; one with fewer samples than folds is absent from some tests, never from all."""
    labels = [data.facts(i).label for i in range(len(data))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says so of ECG5000's fifth class
        made = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels))
    return [(tuple(map(int, seen)), tuple(map(int, left))) for seen, left in made]


def trained(data: Dataset, epochs: int, penalty: Mapping[str, Any], seed: int) -> nn.Module:
    """The plain network, or with a penalty its SoftCAM, from the same first weights."""
    example = collate([data[0], data[1]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = zoo.build("pellucid:s8", num_classes=len(data.classes), in_channels=example.shape[1], rank=1)
    start = pl.convert(network, example, classes=data.classes) if penalty else network
    recipe = pl.TrainingConfig(epochs=epochs, batch_size=32, lr=0.01, seed=seed, **penalty)
    return pl.train(start, data, recipe, progress=False).model


def performance(found: Found) -> str:
    rows = {(r.model, r.metric): r.interval for r in found.table.performance()}
    table = [["network", "accuracy", "balanced accuracy", "AUC"]]
    for name in (PLAIN, SOFTCAM):
        table.append([name, *(str(rows[name, m]) for m in ("accuracy", "balanced_accuracy", "auc"))])
    apart = difference(found.table)
    return f"{pipes(table)}\n\nSoftCAM minus plain, paired by series: accuracy {apart}."


def difference(table: Table) -> Interval:
    """Accuracy of the SoftCAM minus that of the plain network on the same series."""

    def right(name: str) -> dict[str, bool]:
        return {p.sample: _decided(p) == p.label for p in table.predictions if p.model == name}

    plain, softcam = right(PLAIN), right(SOFTCAM)
    apart = np.array([float(softcam[s]) - float(plain[s]) for s in sorted(plain)])
    return bootstrap(lambda rows: float(apart[rows].mean()), sorted(plain))


def _decided(p: Prediction) -> int:
    return max(range(len(p.probabilities)), key=p.probabilities.__getitem__)


def faithfulness(found: Found) -> str:
    """Deletion and insertion of every method, as probability of the true class along the curve."""
    rows = {(r.method, r.metric): str(r.interval) for r in found.table.summary() if r.part == "probability"}
    table = [["method", "deletion (lower is better)", "insertion (higher is better)"]]
    return pipes([*table, *([m, *(rows[m, metric] for metric in METRICS)] for m in METHODS)])


def recalls(found: Found) -> str:
    """How many of each class the SoftCAM finds."""
    mine = [p for p in found.table.predictions if p.model == SOFTCAM]
    counts = []
    for k, name in enumerate(found.data.classes):
        own = [p for p in mine if p.label == k]
        counts.append(f"{name} {sum(_decided(p) == k for p in own)} of {len(own)}")
    return f"Found by the SoftCAM: {', '.join(counts)}."


def picture(found: Found, reading: Mapping[str, Any]) -> Image.Image:
    """For each class the series whose probability of its class is the median one, explained by the network that did not see it."""
    chosen = [_median(found.table, k) for k in range(len(found.data.classes))]
    where = {test.facts(i).name: (network, test[i]) for network, test in found.networks for i in range(len(test))}
    explained = []
    for p in chosen:
        network, sample = where[p.sample]
        network.preprocessing = dict(reading)  # type: ignore[assignment]
        explained.append((p, pl.explain(network, collate([sample]), p.label)))
    limit = scale([e for _, e in explained])
    panels = [
        overlay(e, limit=limit, width=520, title=f"{e.target.describe(e.classes)}: {float(e.score[0]):+.2f}\nprobability {p.probabilities[p.label]:.2f} ({p.sample})")
        for p, e in explained
    ]  # fmt: skip
    return grid([panels[i : i + 2] for i in range(0, len(panels), 2)])


def _median(table: Table, label: int) -> Prediction:
    own = [p for p in table.predictions if p.model == SOFTCAM and p.label == label]
    return sorted(own, key=lambda p: (p.probabilities[label], p.sample))[len(own) // 2]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.signals", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all records")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/signals.md and draw the beats")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    root = Path(os.environ.get("PELLUCID_TEST_DATA", "../shared/data"))
    started, parts, kept = time.process_time(), [], {}
    for name, study in STUDIES.items():
        found = run(study, root, 1 if asked.quick else study.epochs)
        parts.append(f"### {name}\n\n{performance(found)} {recalls(found)}\n\n{faithfulness(found)}")
        kept[name] = found.table.as_parts()
        if name == "ECG5000" and asked.write:
            picture(found, study.reading).save(PICTURE, optimize=True)
    note = f"{time.process_time() - started:.0f} s of one core in all."
    print("\n\n".join([*parts, note]))
    if asked.json:
        files.write_json(asked.json, kept)
    if asked.write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        command = " ".join(["python -m benchmarks.signals", *(given if given is not None else sys.argv[1:])])
        text = "\n\n".join(parts)
        files.write_text(PAGE, f"{before}{MARKS[0]}\nWritten by `{command}`. {note}\n\n{text}\n\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
