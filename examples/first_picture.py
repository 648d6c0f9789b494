"""Draw one held-out image of the demo beside what four methods and the control say about it (run `pellucid demo` first)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import pellucid as pl
from pellucid.render.grid import grid
from pellucid.render.overlay import overlay, plain, scales, unit
from pellucid.render.picture import png
from pellucid.sample import Sample

METHODS = ("evidence", "grad_cam", "saliency", "random_map")


def outlined(sample: Sample) -> Image.Image:
    """The picture with the border of the truth in white."""
    assert sample.mask is not None
    mask = sample.mask.numpy()
    padded = np.pad(mask, 2)
    near = np.any(
        [padded[2 + i : 2 + i + mask.shape[0], 2 + j : 2 + j + mask.shape[1]] for i in (-2, 0, 2) for j in (-2, 0, 2)],
        0,
    )
    picture = np.array(sample.image)
    picture[near & ~mask] = 255
    return Image.fromarray(picture)


def main(run: str = "runs/demo", out: str = "docs/images/first.png", index: int = 0) -> None:
    """run: the demo's folder. index: which of the diseased test images."""
    softcam = pl.load(Path(run) / "softcam")
    images = pl.open_data("lesionlab:fundus", n_images=60, size=128, split="test")
    sample = [s for s in images if s.label == 1][index]
    explained = [pl.explain(softcam, sample.input[None], "lesion", method=m, classes=images.classes) for m in METHODS]
    limits = scales(explained)
    row = [plain(explained[0], outlined(sample), width=190)]
    row += [overlay(e, sample.image, limit=limits[unit(e)], width=190, title="", bar=False) for e in explained]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_bytes(png(grid([row], ["image, truth outlined", *METHODS])))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
