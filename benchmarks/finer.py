"""Finer maps: which networks have them, what they cost, how they differ. `python -m benchmarks.finer --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import protocol, results
from benchmarks.zoo.networks import build, perturb, seed_of
from pellucid import files
from pellucid.errors import ConversionError
from pellucid.models.convert import convert
from pellucid.models.finer import FinerSoftCAM
from pellucid.models.softcam import SoftCAM

FACTORS = (2, 4)
CLASSES = 14  # of the networks that are timed: evidence for 1000 classes on a fine map costs more than some trunks
COSTS = {"resnet50": (224, 512), "resnet18": (224,), "densenet121": (224,), "mobilenet_v2": (224,), "efficientnet_b0": (224,)}  # fmt: skip
FAMILIES = {
    "torchvision": (
        "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "mnasnet0_5",
        "mobilenet_v2", "mobilenet_v3_small", "r3d_18", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d",
        "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t", "vgg11",
    ),
    "timm": (
        "dla34", "edgenext_x_small", "efficientvit_b0", "fastvit_t8", "focalnet_tiny_srf", "ghostnet_100", "hrnet_w18_small", "levit_128s", "mobilevit_s",
        "nf_resnet50", "poolformer_s12", "repvit_m1", "resnest14d", "resnet50d", "tf_efficientnet_b0", "tresnet_m", "vovnet39a",
    ),
}  # fmt: skip
SIDES = {"inception_v3": 224, "swin_t": 224, "levit_128s": 224, "mobilevit_s": 128, "r3d_18": 64}
INTRODUCTION = """# Finer maps without retraining

```python
finer = softcam.finer(2)  # or 4
finer.evidence_maps(x)  # (batch, classes, 2 x rows, 2 x columns)
pl.explain(finer, x).overlay()
```

`softcam.finer(2)` takes the last stride out of the network, `finer(4)` the last two. The operation with the stride (convolution, pooling
or slice) runs with a smaller one, and its cells are dealt out to interleaved grids, one behind another on the batch axis;
every later layer runs as it is, on more rows (shift and stitch; the numbers are those of dilated convolutions). Grid 0 is the network's own computation.
So cells 0, 2, 4, ... of the finer map **are** the SoftCAM's map, the logits are the network's own, and the cells between
are true evaluations of the network, half a cell further on. `start` stays, `jump` is halved.

- **The finer map does not add up to the logit.** The logit is the mean over the network's own cells; it does not read those between, and
  the mean over all cells is only near it (measured below). `explain` therefore says `complete=False`: use the finer
  map to see where, and `pl.explain(softcam, x)` for a ledger.
- What a layer takes from all places at once (squeeze-excitation, group statistics, global pooling) is taken from the network's
  own cells for all; the gates that a head of kind `exact_at_this_image` holds are the decision's as well. Attention over tokens works within each
  grid.
- Where a side is not a whole number of strides, cells beyond the border are left out and count as zero padding, as for a dilated network.
- Inference only: no gradients, no training mode (both are refused).
- Nothing is taken on trust. `finer` compares own cells and logits in double precision, on an input of the conversion's size, and refuses above 1e-9 of the spread;
  the first call at each new input size is compared once more, in the network's own precision.
- More cells are no better optics: each still looks at the same receptive field.
"""


@dataclass(frozen=True)
class Family:
    """One network: the maps, the largest errors, or why there is none."""

    name: str
    side: int
    kind: str
    grids: tuple[str, ...]
    reason: str = ""


def _softcam(name: str, x: Tensor, **options: Any) -> SoftCAM:
    return convert(perturb(build(name, **options), seed_of(name)), x)


def _input(name: str, side: int) -> Tensor:
    video = name.endswith("r3d_18")
    return torch.randn(1, 3, *((8,) if video else ()), side, side, generator=torch.Generator().manual_seed(1))


def family(name: str) -> Family:
    """Convert, make finer by 2 and by 4, note the error that `finer` measured."""
    side = SIDES.get(name.split(":")[1], 96)
    x = _input(name, side)
    try:
        softcam = _softcam(name, x)
    except ConversionError as error:
        return Family(name, side, "not converted", (), error.message)
    cells, reason = [_by(softcam.certificate.grid)], ""
    for factor in FACTORS:
        try:
            made = softcam.finer(factor, x)
            cells.append(f"{_by(tuple(made.evidence(x).maps.shape[2:]))}, {made.error:.0e}")
        except ConversionError as error:
            cells.append("refused")
            reason = reason or f"{error.message.removeprefix('No finer map: ')} {error.why}"
    return Family(name, side, softcam.certificate.kind, tuple(cells), reason)


def _by(values: Sequence[int]) -> str:
    return " x ".join(map(str, values))


def families() -> list[list[str]]:
    """A table, one row per network."""
    rows = [["network", "side", "kind", "map", "finer(2), error", "finer(4), error", "why not"]]
    for source, names in FAMILIES.items():
        for name in names:
            found = family(f"{source}:{name}")
            print(found, flush=True)
            rows.append([f"{source}:{name}", str(found.side), found.kind, *(found.grids or ("-",) * 3), found.reason])
    return rows


def operations(run: Callable[[], Any]) -> float:
    """Multiplications and additions of one call, as PyTorch counts them."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run()
    return float(counter.get_total_flops())


def costs(pairs: int) -> list[list[str]]:
    """A table of time and operations over those of the plain forward pass."""
    rows = [["network", "side", "map", "operations", "time (95 %)"]]
    for name, sides in COSTS.items():
        for side in sides:
            x = _input(name, side)
            softcam = _softcam(f"torchvision:{name}", x, num_classes=CLASSES)
            finer = {f: softcam.finer(f) for f in FACTORS}
            with torch.inference_mode():
                subjects = {f"finer({f})": partial(made.evidence, x) for f, made in finer.items()}
                grids = {key: _by(run().geometry.grid) for key, run in subjects.items()}
                counted = {
                    key: operations(run) / operations(partial(softcam.model, x)) for key, run in subjects.items()
                }
                ratios = protocol.alternate(partial(softcam.model, x), subjects, pairs)
            for key, times in ratios.items():
                rows.append(
                    [f"{name}, {key}", str(side), grids[key], f"{counted[key]:.2f}", str(protocol.estimate(times))]
                )
                print(rows[-1], flush=True)
    return rows


def photographs(folder: Path, weights: Path) -> list[list[str]]:
    """MobileNetV2 with real weights on real photographs: how far the mean over all cells is from the logit."""
    from torchvision import models

    model = models.mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    softcam = convert(model.eval(), torch.randn(2, 3, 224, 224))
    rows = [
        [
            "MobileNetV2",
            "photographs",
            "answers changed",
            "own cells differ by",
            "mean of all cells off, median",
            "95th percentile",
        ]
    ]
    for factor in FACTORS:
        finer = softcam.finer(factor)
        seen = [_difference(softcam, finer, x) for x in _pictures(folder)]
        changed, own, off = (torch.tensor(v, dtype=torch.float64) for v in zip(*seen, strict=True))
        rows.append(
            [
                f"finer({factor})",
                str(len(seen)),
                str(int(changed.sum())),
                f"{float(own.max()):.0e}",
                f"{float(off.median()):.1%}",
                f"{float(off.quantile(0.95)):.1%}",
            ]
        )
    return rows


def _pictures(folder: Path) -> Iterator[Tensor]:
    from PIL import Image
    from torchvision.models import MobileNet_V2_Weights

    prepare = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        with Image.open(path) as picture:
            yield prepare(picture.convert("RGB"))[None]


@torch.no_grad()
def _difference(softcam: SoftCAM, finer: FinerSoftCAM, x: Tensor) -> tuple[bool, float, float]:
    """Whether the answer changed; the common cells' difference over the map's spread; the top logit's over its size."""
    found, own = finer.evidence(x), softcam.evidence(x)
    top = int(own.logits.argmax())
    cells = found.maps[:, :, :: finer.factor, :: finer.factor]
    off = float(found.maps[0, top].mean() + found.bias[top] - own.logits[0, top]) / float(own.logits[0, top])
    return int(found.logits.argmax()) != top, float((cells - own.maps).abs().max() / own.maps.std()), abs(off)


def page(
    command: str, families: list[list[str]], costs: list[list[str]], pictures: list[list[str]] | None, pairs: int
) -> str:
    """The page docs/finer.md."""
    facts = "\n".join(f"- {name}: {value}" for name, value in results.environment().items())
    exact = sum(all(c != "refused" for c in row[4:6]) and row[2] != "not converted" for row in families[1:])
    parts = [
        INTRODUCTION.strip(),
        "Everything below was measured by this command; do not edit it by hand.",
        f"```\n{command}\n```",
        facts,
        "## Which networks",
        f"{exact} of {len(families) - 1} networks have both maps. Random weights with perturbed statistics, one input. Error: the largest difference of own cells and of "
        "logits from the SoftCAM's, over their spread, in double precision.",
        results.pipes(families),
        "## What it costs",
        f"One finer evidence pass over one plain forward pass, {CLASSES} classes, batch 1, one thread. Operations: multiplications and additions as PyTorch counts them, "
        "what it costs in theory. Time: CPU time between two plain passes, "
        f"median of {pairs} ratios with a 95 % bootstrap interval (`benchmarks/protocol.py`). Following the cells costs about 0.1 ms per operation of the network, "
        "which shows in small networks of many layers; the first call at a new size takes one pass more.",
        results.pipes(costs),
    ]
    if pictures:
        parts += [
            "## How far the mean over all cells is from the logit",
            "torchvision's MobileNetV2 (IMAGENET1K_V1) on the photographs of `$PELLUCID_TEST_DATA/photographs_imagenet` at 224: the top class's mean over all cells "
            "plus bias, against its logit, over the logit.",
            results.pipes(pictures),
        ]
    return "\n\n".join(parts) + "\n"


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finer", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="alternating pairs per map (default 7)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page (docs/finer.md)")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    data = os.environ.get("PELLUCID_TEST_DATA")
    pictures = (
        photographs(Path(data) / "photographs_imagenet", Path(data) / "weights" / "mobilenet_v2-b0353104.pth")
        if data
        else None
    )
    command = " ".join(["python -m benchmarks.finer", *(given if given is not None else sys.argv[1:])])
    text = page(command, families(), costs(asked.pairs), pictures, asked.pairs)
    if asked.write:
        files.write_text(asked.write, text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
