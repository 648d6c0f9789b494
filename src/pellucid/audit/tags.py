"""Tags, letters and rulers: drawings that come back unchanged at the same place in some of the images, and not in others.

Nothing is known of what they look like. An edge of a drawing is a step between neighbouring pixels that has the same
size wherever the drawing is. So pairs of images vote for the steps that they share: a drawing shown in a share q of the
images gets q^2 of the votes at all of its edges, anatomy (which varies) next to none. The candidates are then looked at
one by one: in each image nearly all of a drawing's steps are there, or nearly none are. What is a bit like that everywhere
(the edge of the field of view) is no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

SIDE = 128  # pixels per side that are looked at
PAIRS = 2000
STEP = 0.5  # of the stack's standard deviation: a smaller step is no edge of a drawing
SAME = 0.25  # of the step: steps that differ by less are the same
ALIKE = 0.75  # of the step: more, and there is no such step
USUAL = 0.85  # share of the images: a step found in more of them is the anatomy's, or tells nothing
VOTES = 0.004  # of the pairs
PRESENT, ABSENT = 0.8, 0.4  # shares of a drawing's steps
DOUBTFUL = 0.1  # share of images that may lie between the two
FEWEST = 5  # images
STEPS = 8  # that a drawing has at least
TRIED = 100  # images as models of a form


Steps = NDArray[np.float64]


@dataclass(frozen=True)
class Tag:
    """A drawing. mask: where it is, at the resolution that was looked at. steps: its edges `(axes, *size)`, 0 where there
    is none, in units of `deviation`. share: of the images that show it.
    """

    mask: Bool[Tensor, "*size"]
    steps: Steps
    deviation: float
    share: float

    def shown_in(self, stack: Float[Tensor, "batch *size"]) -> list[bool]:
        """Which images show it."""
        edges = self.steps != 0
        near = _near(self.steps[edges], _steps(stack.double())[:, edges] / self.deviation, SAME)
        shown: list[bool] = (near.mean(1) >= PRESENT).tolist()
        return shown

    def at(self, size: Sequence[int]) -> Bool[Tensor, "*spatial"]:
        """The mask at another resolution."""
        whole: Tensor = torch.nn.functional.interpolate(self.mask[None, None].float(), tuple(size))[0, 0]
        return whole > 0.5


def looked_at(x: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch *small"]:
    """What `find_tags` looks at: the mean over channels, by areas where the sides are longer than `SIDE`."""
    return by_areas(x.mean(1, keepdim=True), SIDE)[:, 0]


def by_areas(x: Float[Tensor, "batch channels *size"], side: int) -> Float[Tensor, "batch channels *small"]:
    """The same with no side longer than `side`: means over areas."""
    small: Tensor = torch.nn.functional.interpolate(x, tuple(min(n, side) for n in x.shape[2:]), mode="area")
    return small


def find_tags(stack: Float[Tensor, "batch *size"], *, seed: int = 0) -> list[Tag]:
    """The drawings in a stack of images, most frequent first."""
    from scipy import ndimage

    if len(stack) < 2 * FEWEST:
        return []
    deviation = float(stack.double().std())
    if deviation == 0:
        return []
    steps = _steps(stack.double()) / deviation
    often = _votes(steps, np.random.default_rng(seed)) >= VOTES
    often &= (np.abs(steps) > STEP / 2).mean(0) < USUAL
    near = ndimage.binary_dilation(often.any(0), iterations=2)
    labels, count = ndimage.label(near, structure=np.ones((3,) * near.ndim))
    found = [tag for k in range(1, count + 1) for tag in _forms(steps, often & (labels == k), deviation)]
    return sorted(found, key=lambda tag: -tag.share)


def _steps(stack: Tensor) -> Steps:
    """The steps to the next pixel along every axis, `(batch, axes, *size)`; 0 at the last one."""
    along = []
    for axis in range(1, stack.ndim):
        last = stack.narrow(axis, stack.shape[axis] - 1, 1)
        along.append(stack.diff(dim=axis, append=last))
    return torch.stack(along, 1).numpy()


def _votes(steps: Steps, generator: np.random.Generator) -> NDArray[np.float64]:
    """For every step the share of pairs of images that have it alike."""
    votes = np.zeros(steps.shape[1:])
    for _ in range(PAIRS):
        a, b = generator.choice(len(steps), 2, replace=False)
        votes += (np.abs(steps[a]) > STEP) & _near(steps[a], steps[b], SAME)
    return votes / PAIRS


def _near(step: Steps, others: Steps, tolerance: float) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.abs(others - step) < tolerance * np.abs(step)
    return near


def _forms(steps: Steps, where: NDArray[np.bool_], deviation: float) -> list[Tag]:
    """The drawings at one place (L in some images, R in others), each with the images that show it."""
    own = steps[:, where]  # (images, steps)
    left, forms = np.ones(len(own), bool), []
    while own.shape[1] >= STEPS and left.sum() >= FEWEST:
        shown, edges = _best(own, left)
        if shown.sum() < FEWEST:
            break
        left &= ~shown
        forms.append((shown, edges))
    found = []
    for shown, edges in forms:
        form = np.median(own[shown], 0)
        like = _near(form[edges], own[:, edges], ALIKE).mean(1)
        doubtful = int((left & (like > ABSENT)).sum())
        if doubtful <= DOUBTFUL * len(own) and len(own) - shown.sum() >= FEWEST:
            drawn = np.zeros(where.shape)
            drawn[where] = np.where(np.abs(form) > STEP, form, 0)
            found.append(Tag(_filled((drawn != 0).any(0)), drawn, deviation, float(shown.mean())))
    return found


def _best(own: Steps, left: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of some images that are left, the one most others are like: which are like it, and which of its steps are edges."""
    best = np.zeros(len(own), bool), np.zeros(own.shape[1], bool)
    for image in own[left][:TRIED]:
        edges = np.abs(image) > STEP
        if edges.sum() >= STEPS:
            shown = left & (_near(image[edges], own[:, edges], SAME).mean(1) >= PRESENT)
            best = (shown, edges) if shown.sum() > best[0].sum() else best
    return best


def _filled(edges: NDArray[np.bool_]) -> Tensor:
    """The drawing's pixels: its edges, what they enclose, and a pixel around."""
    from scipy import ndimage

    return torch.from_numpy(ndimage.binary_fill_holes(ndimage.binary_dilation(edges)))
