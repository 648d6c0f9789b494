"""`python -m benchmarks.training`: what a training step costs beside a plain PyTorch loop, and what reading data costs.

Steps: `pellucid.train` of a SoftCAM and a plain loop of the same network (MobileNetV2, same optimiser, same batches, channels
last, float32) run in one process and take turns, step by step: the data set lets the plain loop take a step while the
other reads a batch. So both meet the same machine. Time is CPU time on one thread; each of our steps
is divided by the mean of the two plain ones beside it. The step includes reading the samples, figures, progress and log.

Data: photographs (JPEG) are read from disk anew in every epoch, with and without a thread that reads ahead, and from the
cache. Utilisation is the time of an epoch from the cache over that of an epoch from disk: 1 where reading costs no time.
Wall-clock time is meant here, so a machine that does other work as well says little.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import pellucid as pl
from benchmarks.protocol import PAIRS, Ratio, estimate
from pellucid import files
from pellucid.data import open_data
from pellucid.models import zoo
from pellucid.sample import Facts, Sample

LIMIT = 1.03
BATCH, SIDE, CLASSES = 32, 128, 2
RECIPES: dict[str, dict[str, Any]] = {
    "no penalty": {},
    "entropy of the contrast": {"penalty": "entropy", "strength": 0.1, "penalty_classes": "contrast"},
}


@dataclass
class Turns:
    """Noise, read by `train`; while it reads a batch, `plain` takes a step. ours, theirs: CPU seconds of the steps."""

    batches: int
    plain: Callable[[], None]
    fingerprint: str = "noise"
    classes: tuple[str, ...] = ("a", "b")
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    reads: int = 0
    since: float = 0.0

    def __len__(self) -> int:
        return self.batches * BATCH

    def facts(self, index: int) -> Facts:
        return Facts(str(index), index % CLASSES, str(index))

    def __getitem__(self, index: int) -> Sample:
        if self.reads % BATCH == 0:  # once in the reading of every batch
            now = time.process_time()
            self.ours.append(now - self.since)
            self.plain()
            self.since = time.process_time()
            self.theirs.append(self.since - now)
        self.reads += 1
        return Sample(input=noise(index), label=index % CLASSES, name=str(index), group=str(index))


def noise(index: int) -> Tensor:
    return torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index))


def network() -> nn.Module:
    torch.manual_seed(0)
    return zoo.build("torchvision:mobilenet_v2", num_classes=CLASSES)


def plain_loop(batches: int) -> Callable[[], None]:
    """One step of an ordinary training loop per call."""
    model = network().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    order = iter(torch.randperm(batches * BATCH).tolist() * 2)

    def step() -> None:
        rows = [next(order) for _ in range(BATCH)]
        x = torch.stack([noise(i) for i in rows]).contiguous(memory_format=torch.channels_last)
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), torch.tensor([i % CLASSES for i in rows])).backward()
        optimiser.step()

    return step


def steps(recipe: dict[str, Any], pairs: int) -> Ratio:
    """Our steps over the plain ones; what comes before the third warms up."""
    batches = pairs + 4
    data = Turns(batches, plain_loop(batches))
    model = pl.convert(network(), torch.zeros(1, 3, SIDE, SIDE))
    config = pl.TrainingConfig(epochs=1, batch_size=BATCH, precision="32", cache_mib=0, device="cpu", **recipe)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        pl.train(model, data, config, folder=folder)
    return estimate(
        [2 * ours / sum(data.theirs[k : k + 2]) for k, ours in enumerate(data.ours[1:]) if k >= 2 and k + 1 < len(data.theirs)]
    )  # fmt: skip


def photographs(root: Path, count: int) -> Path:
    """JPEG files of 512 x 512 pixels."""
    for k in range(count):
        place = root / "ab"[k % CLASSES] / f"{k}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        coarse = (torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(k)) * 255).byte().numpy()
        Image.fromarray(coarse).resize((512, 512), Image.Resampling.BICUBIC).save(place, quality=90)
    return root


def epochs(count: int = 3, images: int = 128) -> dict[str, tuple[float, float]]:
    """Seconds and CPU seconds of an epoch after the first, by how the data are read; the quickest of its kind."""
    found = {}
    ways = {
        "from disk": {"cache_mib": 0},
        "from disk, read ahead": {"cache_mib": 0, "workers": 1},
        "from the cache": {"cache_mib": 1024},
    }
    with tempfile.TemporaryDirectory() as place:
        data = open_data(photographs(Path(place) / "photographs", images), size=SIDE)
        for name, reading in ways.items():
            folder = Path(place) / name
            config = pl.TrainingConfig(epochs=count, batch_size=BATCH, precision="32", device="cpu", **reading)
            pl.train(network(), data, config, folder=folder, progress=False)
            lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
            later = [line for line in lines if line["event"] == "epoch"][1:]
            found[name] = (min(e["seconds"] for e in later), min(e["cpu_seconds"] for e in later))
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Exit status 1 when the limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    ratios = {}
    for name, recipe in RECIPES.items():
        ratios[name] = steps(recipe, asked.pairs)
        print(f"step, {name}: {ratios[name]} of a plain one, {ratios[name].pairs} pairs", flush=True)
    read = epochs()
    best = read["from the cache"]
    for name, (seconds, cpu) in read.items():
        print(f"epoch {name}: {seconds:.2f} s, {cpu:.2f} CPU s, utilisation {best[0] / seconds:.2f}", flush=True)
    if asked.json:
        files.write_json(asked.json, {"steps": {k: vars(v) for k, v in ratios.items()}, "epochs": read})
    return int(any(ratio.median > LIMIT for ratio in ratios.values()))


if __name__ == "__main__":
    sys.exit(main())
