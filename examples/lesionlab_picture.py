"""Draw what LesionLab draws: each kind of picture by preset, what is known about one, and one with a thing changed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy import ndarray as Array
from PIL import Image

from pellucid.data.lesionlab import KINDS, LESION_TYPES, PRESETS, LesionLab
from pellucid.render.grid import grid
from pellucid.sample import Sample

COLUMNS = (*PRESETS, "what is known", "without lesions", "with a tag")
COLOURS = {"distractor:": (255, 165, 0), "background:": (90, 140, 255), "lesion:": (60, 255, 60)}


def border(mask: Array) -> Array:
    """The pixels just outside of a mask."""
    padded = np.pad(mask, 1)
    near = np.any([np.roll(padded, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)], 0)
    outside: Array = near[1:-1, 1:-1] & ~mask
    return outside


def known(sample: Sample) -> Image.Image:
    """The picture with lesions outlined in green, distractors in orange, tiles of background in blue."""
    picture = np.array(shown(sample))
    for noun, colour in COLOURS.items():
        for name, zone in sample.zones.items():
            if name.startswith(noun):
                picture[border(zone.numpy())] = colour
    return Image.fromarray(picture)


def shown(sample: Sample) -> Image.Image:
    """The picture, in colour or grey."""
    return Image.fromarray(sample.image).convert("RGB")


def row(kind: str, size: int, seed: int) -> list[Image.Image]:
    """One picture with lesions per preset, and the first of them in three other ways."""
    several = {
        preset: LesionLab(
            kind, 1, size, seed, preset, marker="tag", knobs={"prevalence": 1.0, "types": LESION_TYPES[kind]}
        )
        for preset in PRESETS
    }
    plain = {preset: data[0].alternatives["without marker"]() for preset, data in several.items()}
    first = plain["easy"]
    changed = [first.alternatives[name]() for name in ("without lesions", "with marker")]
    return [*map(shown, plain.values()), known(first), *map(shown, changed)]


def main(out: str = "docs/images/lesionlab.png", size: int = 160, seed: int = 11) -> None:
    """out: where to write. size: of each picture, a multiple of 32. seed: of what is drawn."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    drawn = grid([row(kind, size, seed) for kind in KINDS], COLUMNS, size=13)
    drawn.quantize(256, Image.Quantize.MAXCOVERAGE).save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:4]))
