"""Pieces of background that can be drawn anew: the same tissue with other grain and other noise, no different in kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import hypot
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab.frame import FRAME
from pellucid.data.lesionlab.streams import stream
from pellucid.data.lesionlab.texture import step, texture

TILES = 4
HALF = 26.0  # half a tile's side, frame pixels
_TRIES = 30


@dataclass(frozen=True)
class Tile:
    """A square that fades out at its edges. root, number: of the chance that it is drawn anew from."""

    root: int
    number: int
    n: int
    centre: tuple[float, float]

    @property
    def slices(self) -> tuple[slice, slice]:
        half = round(HALF * self.n / FRAME)
        x, y = (int(c * self.n / FRAME) for c in self.centre)
        return tuple(slice(max(0, c - half), min(self.n, c + half + 1)) for c in (y, x))  # type: ignore[return-value]

    def weight(self) -> Float32[Array, "height width"]:
        """How much of the new grain is taken: 1 in the middle, 0 beyond the edge."""
        across, down = (_window(s.stop - s.start) for s in reversed(self.slices))
        weight: Array = down[:, None] * across[None, :]
        return weight

    def mask(self, n: int) -> Bool[Array, "n n"]:
        mask = np.zeros((n, n), bool)
        mask[self.slices] = self.weight() > 0.5
        return mask

    def redrawn(self, grain: Float32[Array, "*channels n n"], beta: float | None, name: str = "") -> None:
        """Blend new grain of unit variance into the old, in place; the variance stays. beta: of 1/f^beta, None: white."""
        rows, columns = self.slices
        window, weight = grain[..., rows, columns], self.weight()
        generator = stream(self.root, f"background {name}", self.number)
        if beta is None:
            other = generator.standard_normal(window.shape, dtype=np.float32)
        else:
            other = texture(generator, (self.n, self.n), beta)[rows, columns]
        window *= np.sqrt(1 - weight * weight)
        window += weight * other


@lru_cache(maxsize=64)
def _window(length: int) -> Float32[Array, "length"]:
    at = np.abs(np.linspace(-1, 1, length, dtype=np.float32))
    faded: Array = step((np.float32(0.75) - at) * 4).astype(np.float32)
    faded.setflags(write=False)
    return faded


def tiles(root: int, n: int, tissue: Bool[Array, "n n"], lesions: Sequence[Any]) -> tuple[Tile, ...]:
    """Tiles within the tissue, off lesions and each other where that is possible. Nothing of them shows in the picture."""
    drawn = stream(root, "background places").uniform(HALF, FRAME - HALF, (TILES, _TRIES, 2))
    inside = tissue[tuple((drawn * (n / FRAME)).astype(int)[..., ::-1].transpose(2, 0, 1))]
    taken = [(*lesion.centre, lesion.radius + 1.4 * HALF + 12) for lesion in lesions]
    placed: list[Tile] = []
    for number, (places, fits) in enumerate(zip(drawn.tolist(), inside.tolist(), strict=True)):
        free = [tuple(place) for place, fit in zip(places, fits, strict=True) if fit] or [(FRAME / 2, FRAME / 2)]
        clear = (at for at in free if all(hypot(at[0] - x, at[1] - y) > far for x, y, far in taken))
        best = next(clear, free[0])
        placed.append(Tile(root, number, n, best))
        taken.append((*best, 2.4 * HALF))
    return tuple(placed)
