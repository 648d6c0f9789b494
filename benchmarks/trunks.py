"""`python -m benchmarks.trunks`: what another pooling, or evidence at several scales, does where lesions are small.

LesionLab fundus images with one lesion or none. A small network with mean pooling is trained; from its weights every
variant is trained on for as many steps with the same order of images, the mean among them. All are scored on the same
held-out images. Small and synthetic: it shows in which direction things go, and no more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import pellucid as pl
from pellucid import files
from pellucid.data.lesionlab import LesionLab
from pellucid.models import zoo
from pellucid.models.multi_scale import multi_scale, with_pooling
from pellucid.record import Table, t_interval
from pellucid.sample import Dataset, Facts, Sample

PAGE = Path(__file__).parents[1] / "docs" / "trunks.md"
MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")
FIGURES = {
    "AUC": ("performance", "auc", ""),
    "pointing game": ("summary", "pointing_game", ""),
    "relevance mass": ("summary", "relevance_mass", ""),
    "mass over area": ("summary", "relevance_mass", "over_area"),
    "completeness residual": ("summary", "completeness_residual", ""),
}
Variant = Callable[[nn.Module, torch.Tensor], nn.Module]
VARIANTS: Mapping[str, Variant] = {
    "mean": lambda net, x: with_pooling(net, x, "mean"),
    "lse, sharpness 1": lambda net, x: with_pooling(net, x, "lse", sharpness=1),
    "lse, sharpness 5": lambda net, x: with_pooling(net, x, "lse", sharpness=5),
    "top_k, 10 % of the cells": lambda net, x: with_pooling(net, x, "top_k", k=0.1),
    "gated_attention": lambda net, x: with_pooling(net, x, "gated_attention"),
    "mean at strides 4 and 8": lambda net, x: multi_scale(net, x, ("features.2",)),
}


@dataclass(frozen=True)
class Setting:
    """How much of everything."""

    images: int = 600
    test_images: int = 200
    size: int = 128
    epochs: int = 6
    more_epochs: int = 5
    trainings: int = 5

    def data(self, split: str, count: int) -> Rendered:
        return Rendered(LesionLab(n_images=count, size=self.size, knobs={"lesions": (1, 1)}, split=split))


class Rendered:
    """A data set whose samples are drawn once."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.classes, self.fingerprint = data, data.classes, data.fingerprint
        self.samples = [data[i] for i in range(len(data))]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def facts(self, index: int) -> Facts:
        return self.data.facts(index)


def recipe(epochs: int, lr: float, seed: int) -> pl.TrainingConfig:
    return pl.TrainingConfig(epochs=epochs, batch_size=32, lr=lr, seed=seed, augment=("hflip", "vflip", "transpose"))


def trained(setting: Setting, data: Rendered, seed: int) -> dict[str, nn.Module]:
    """All variants of one training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = zoo.build("pellucid:s8", local=True)
        first = pl.train(start, data, recipe(setting.epochs, 5e-3, seed), progress=False).model
        example = torch.stack([data[i].input for i in range(4)])
        made = {name: make(first, example) for name, make in VARIANTS.items()}
    more = recipe(setting.more_epochs, 2e-3, seed)
    return {name: pl.train(net, data, more, progress=False).model for name, net in made.items()}


def scores(table: Table) -> dict[str, float]:
    """The figures of one network."""
    found = {("performance", row.metric, ""): row.interval.mean for row in table.performance(resamples=2)}
    found |= {("summary", row.metric, row.part): row.interval.mean for row in table.summary(resamples=2)}
    return {name: found[key] for name, key in FIGURES.items()}


def run(setting: Setting) -> dict[str, list[dict[str, float]]]:
    """Per variant the figures of every training."""
    data, held = setting.data("train", setting.images), setting.data("test", setting.test_images)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for seed in range(setting.trainings):
        for name, network in trained(setting, data, seed).items():
            table = pl.evaluate(
                network, held, methods=["evidence"], metrics=["pointing_game", "relevance_mass", "completeness_residual"],
                options={"pointing_game": {"tolerance": 15 * setting.size / 500}}, batch_size=50,
            )  # fmt: skip
            found[name].append(scores(table))
            print(f"training {seed}  {name:<26}", {k: round(v, 3) for k, v in found[name][-1].items()}, flush=True)
    return found


def tables(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Means over trainings, and differences to mean pooling in the same training, with Student's t intervals."""
    shown = [name for name in FIGURES if name != "completeness residual"]
    lines = [f"| pooling | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(str(t_interval([r[f] for r in rows])) for f in shown)} |"
        for name, rows in found.items()
    ]
    base = found["mean"]
    lines += ["", "Difference to mean pooling, paired by training:", "", lines[0], lines[1]]
    for name, rows in found.items():
        if rows is not base:
            apart = [t_interval([r[f] - b[f] for r, b in zip(rows, base, strict=True)]) for f in shown]
            lines.append(f"| {name} | {' | '.join(str(a) for a in apart)} |")
    worst = max(r["completeness residual"] for rows in found.values() for r in rows)
    return "\n".join(
        [*lines, "", f"Largest mean completeness residual of any of these networks: {worst:.1g} of the score."]
    )


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trunks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test; the figures mean nothing")
    parser.add_argument("--trainings", type=int, help="how many trainings (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/trunks.md")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    setting = Setting(images=32, test_images=16, size=64, epochs=1, more_epochs=1, trainings=2) if asked.quick else Setting()  # fmt: skip
    setting = Setting(**{**vars(setting), "trainings": asked.trainings or setting.trainings})
    started = time.process_time()
    found = run(setting)
    text = tables(found)
    note = f"{setting.trainings} trainings of every variant, {time.process_time() - started:.0f} s of one core in all."
    print(f"{text}\n\n{note}")
    if asked.json:
        files.write_json(asked.json, {"setting": vars(setting), "found": found})
    if asked.write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        command = " ".join(["python -m benchmarks.trunks", *(given if given is not None else sys.argv[1:])])
        files.write_text(PAGE, f"{before}{MARKS[0]}\nWritten by `{command}`. {note}\n\n{text}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
