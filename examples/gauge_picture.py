"""Draw two networks that answer every image alike and whose raw class maps say the opposite (run `pellucid demo` first).

The second network is the first with the same weights added to every class of the linear head.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import pellucid as pl
from pellucid.explanation import Explanation
from pellucid.models.softcam import SoftCAM
from pellucid.render import lettering
from pellucid.render.grid import grid
from pellucid.render.overlay import overlay, plain, scale
from pellucid.render.picture import png

COLUMNS = ("image", "'lesion', raw", "'healthy', raw", "lesion against healthy")


def shifted(softcam: SoftCAM, v: torch.Tensor) -> SoftCAM:
    """A copy whose head has `v` `(channels,)` added to the weights of every class."""
    twin = copy.deepcopy(softcam)
    assert twin.plan.layer is not None
    head = twin.model.get_submodule(twin.plan.layer)
    with torch.no_grad():
        head.weight += v.view(1, -1, *(1,) * (head.weight.ndim - 2))
    return twin


def explained(softcam: SoftCAM, x: torch.Tensor) -> list[Explanation]:
    """Both raw maps and their contrast."""
    raw = [pl.explain(softcam, x, name, gauge="raw") for name in ("lesion", "healthy")]
    return [*raw, pl.explain(softcam, x, "lesion against healthy")]


def row(found: list[Explanation], image: Image.Image, limit: float, label: str) -> list[Image.Image]:
    """The labelled image and its three maps at one colour scale, with the score of each."""
    maps = [
        overlay(e, image, limit=limit, width=132, title=f"score {float(e.score[0]):+.2f}", bar=e is found[-1])
        for e in found
    ]
    first = maps[0].copy()
    picture = plain(found[0], image, width=132)
    first.paste((255, 255, 255), (0, 0, *first.size))
    first.paste(picture, (0, first.height - picture.height))
    ImageDraw.Draw(first).text((0, 0), label, fill=lettering.INK, font=lettering.font(12))
    return [first, *maps]


def main(run: str = "runs/demo", out: str = "docs/images/gauge.png", index: int = 0) -> None:
    """run: the demo's folder. index: which of the diseased test images."""
    softcam = pl.load(Path(run) / "softcam")
    assert isinstance(softcam, SoftCAM)
    images = pl.open_data("lesionlab:fundus", n_images=60, size=128, split="test")
    # Minus twice the weights of 'lesion': its raw map turns into its own negative.
    head = softcam.model.get_submodule(str(softcam.plan.layer))
    twin = shifted(softcam, -2 * head.weight.detach().flatten(1)[images.classes.index("lesion")])
    x = torch.stack([s.input for s in images])
    before, after = explained(softcam, x), explained(twin, x)
    with torch.no_grad():
        p, q = softcam(x).softmax(1), twin(x).softmax(1)
    print(f"largest difference of a probability over {len(x)} images: {float((p - q).abs().max()):.1e}")
    for name, a, b in zip(COLUMNS[1:], before, after, strict=True):
        flipped = float((a.map.sign() != b.map.sign()).float().mean())
        change = float((a.map - b.map).abs().max() / a.map.abs().max())
        print(f"{name}: {flipped:.0%} of the cells change their sign; largest change {change:.1e} of the largest value")
    chosen = [i for i, s in enumerate(images) if s.label == 1][index]
    pair = [[e[chosen] for e in found] for found in (before, after)]
    limit = scale([e for found in pair for e in found])
    answer = f"p = {float(p[chosen, images.classes.index('lesion')]):.3f}"
    labels = (f"as trained: {answer}", f"plus v: {answer}")
    rows = [row(e, images[chosen].image, limit, label) for e, label in zip(pair, labels, strict=True)]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_bytes(png(grid(rows, COLUMNS)))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
