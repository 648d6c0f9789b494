"""The layers of one patient's retina in a section through the fovea, and how lesions lift them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32
from numpy import ndarray as Array

from pellucid.data.lesionlab.frame import FRAME, grid
from pellucid.data.lesionlab.streams import stream
from pellucid.data.lesionlab.texture import step, texture

THICKNESS = (22.0, 34.0, 26.0, 24.0, 46.0, 20.0, 16.0)  # from the vitreous to the choroid, frame pixels
REFLECTIVITY = (0.62, 0.42, 0.28, 0.42, 0.20, 0.62, 0.80)
VITREOUS, CHOROID = 0.06, 0.42
# The first boundaries of the layers that can hold cysts, of the photoreceptors, and of the epithelium.
INNER, PHOTORECEPTORS, EPITHELIUM = 2, 5, 6
_OUTER_EDGE, _PIT, _DIP = 0.71 * FRAME, 45.0, 38.0
_THINNEST = 3.0


@dataclass(frozen=True)
class Layers:
    """boundaries: y of the upper edge of each layer and of the lower edge of the last, frame pixels. choroid: the grey below.

    Arrays are shared: do not write to them.
    """

    boundaries: Float32[Array, "8 n"]
    choroid: Float32[Array, "n n"]
    fovea: float

    def torn(self, columns: slice, pixels: int) -> Layers:
        """The layers with some columns moved down by whole pixels."""
        n = self.boundaries.shape[1]
        boundaries, choroid = self.boundaries.copy(), self.choroid.copy()
        boundaries[:, columns] += np.float32(pixels * FRAME / n)
        choroid[:, columns] = self.choroid[np.clip(np.arange(n) - pixels, 0, n - 1), columns]
        return Layers(boundaries, choroid, self.fovea)


@lru_cache(maxsize=8)
def layers(root: int, n: int) -> Layers:
    """The retina of the patient `root`, `n` pixels wide."""
    generator = stream(root, "layers")
    x, fovea = grid(n)[0][0], 256 + float(generator.normal(0, 14))
    pit = np.exp(-0.5 * np.square((x - fovea) / np.float32(_PIT)))
    thickness = [t * (1 + 0.06 * _waves(generator, x)) for t in THICKNESS]
    inner = sum(thickness[:4])
    thickness[4] = thickness[4] + pit * (0.85 * inner - _DIP)  # what the pit takes and the surface does not show
    thickness[:4] = [t * (1 - 0.85 * pit) for t in thickness[:4]]
    bowl = generator.uniform(-4, 22) * np.square((x - 256) / 256) - generator.normal(0, 10) * (x - 256) / 256
    edge = _OUTER_EDGE + 5 * _waves(generator, x) - bowl
    below = np.cumsum([np.zeros_like(x), *reversed(thickness)], axis=0)[::-1]
    boundaries = (edge - below).astype(np.float32)
    choroid = _choroid(generator, boundaries[-1], n)
    for array in (boundaries, choroid):
        array.setflags(write=False)
    return Layers(boundaries, choroid, fovea)


def _waves(generator: np.random.Generator, x: Array) -> Array:
    """Three low-frequency sines of unit deviation together."""
    phases, sizes = generator.uniform(0, 2 * np.pi, 3), generator.uniform(0.6, 1.0, 3) * np.sqrt(2 / 3)
    waves: Array = sum(
        s * np.sin(2 * np.pi * (k + 1) * x / FRAME + p) for k, (s, p) in enumerate(zip(sizes, phases, strict=True))
    )
    return waves


def _choroid(generator: np.random.Generator, edge: Array, n: int) -> Float32[Array, "n n"]:
    depth = np.maximum(grid(n)[1] - edge, 0)
    vessels = np.clip(1 + 0.3 * texture(generator, (n, n), 1.8), 0.3, 1.8)
    grey: Array = (0.03 + CHOROID * np.exp(-depth / np.float32(70)) * vessels).astype(np.float32)
    return grey


def softness(n: int) -> float:
    """Half the width of an edge, frame pixels."""
    return max(2.5, 0.6 * FRAME / n)


@dataclass
class Lifts:
    """How far the epithelium (7) and the photoreceptors (6) are lifted, per column, and what is beneath them."""

    heights: dict[int, Float32[Array, "n"]]
    fills: dict[int, Float32[Array, "n"]]

    @classmethod
    def none(cls, n: int) -> Lifts:
        return cls({k: np.zeros(n, np.float32) for k in (6, 7)}, {k: np.zeros(n, np.float32) for k in (6, 7)})

    def add(self, level: int, columns: slice, height: Float32[Array, "width"], fill: float) -> None:
        self.heights[level][columns] += height
        self.fills[level][columns] = fill

    def edges(self, boundaries: Float32[Array, "8 n"], columns: slice) -> Float32[Array, "10 width"]:
        """All edges from the vitreous down: six above the photoreceptors' lower edge, that, and those of the epithelium and of
        what lies beneath it. Layers above are pushed up where they would be thinner than they can be.
        """
        still = boundaries[:, columns]
        low, high = self.heights[7][columns], self.heights[6][columns]
        edges = np.empty((10, still.shape[1]), np.float32)
        edges[9] = still[7]
        edges[8], edges[7] = still[7] - low, still[6] - low
        edges[6], edges[5] = edges[7] - high, still[5] - low - high
        for k in range(4, -1, -1):
            edges[k] = np.minimum(still[k], edges[k + 1] - np.float32(_THINNEST))
        return edges

    def rows(self, boundaries: Float32[Array, "8 n"], columns: slice) -> slice:
        """The rows in which these columns have any edge."""
        edges, n = self.edges(boundaries, columns), boundaries.shape[1]
        margin = softness(n)
        return slice(
            max(0, int((edges[0].min() - margin) * n / FRAME)), int((edges[-1].max() + margin) * n / FRAME) + 1
        )

    def section(self, of: Layers, columns: slice, rows: slice = slice(None)) -> Float32[Array, "height width"]:
        """The grey of these columns and rows."""
        n = of.boundaries.shape[1]
        y, half = grid(n)[1][rows], np.float32(softness(n))
        edges = self.edges(of.boundaries, columns)
        choroid = of.choroid[rows, columns]
        below = [*REFLECTIVITY[:6], self.fills[6][columns], REFLECTIVITY[6], self.fills[7][columns], choroid]
        grey = np.full(choroid.shape, VITREOUS, np.float32)
        for edge, value in zip(edges, below, strict=True):
            # Mixed, not added up: beyond an edge its layer is there to the bit, whatever lies above.
            share = step((y - edge) / half)
            grey *= 1 - share
            grey += share * np.asarray(value, np.float32)
        return grey


@lru_cache(maxsize=8)
def section(root: int, n: int) -> Float32[Array, "n n"]:
    """The lesion-free picture of the patient `root`. The array is shared: do not write to it."""
    grey = Lifts.none(n).section(layers(root, n), slice(0, n))
    grey.setflags(write=False)
    return grey
