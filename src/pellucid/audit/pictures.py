"""What an auditor should have seen: the most confident errors with their evidence, and the drawings that were found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from pellucid import targets
from pellucid.api import explain
from pellucid.audit.observe import Drawing, Part, Reading
from pellucid.call import has_evidence
from pellucid.explanation import Explanation
from pellucid.render import picture
from pellucid.render.overlay import overlay, plain, scales, unit, usual_width
from pellucid.reporting.report import Picture
from pellucid.sample import Sample, collate

ERRORS = 4
AROUND = 0.5  # of a drawing's side, shown around it
MAGNIFIED = 150  # pixels


def of_errors(parts: Sequence[Part], readings: Sequence[Reading]) -> Iterator[tuple[Picture, ...]]:
    """The most confident errors: input and evidence of the answer given, all at one colour scale."""
    network = {part.name: part for part in parts}
    wrong = [r for r in readings if r.answer != r.label and has_evidence(network[r.part].network)]
    chosen = sorted(wrong, key=lambda r: -max(r.probabilities))[:ERRORS]
    samples = [network[r.part].dataset[r.index] for r in chosen]
    explained = [_explained(network[r.part].network, sample) for r, sample in zip(chosen, samples, strict=True)]
    limits = scales(explained)
    for r, sample, e in zip(chosen, samples, explained, strict=True):
        names, width = network[r.part].dataset.classes, usual_width(e, 2 / 3)
        label = f"{r.sample}: {names[r.label]}, answered {names[r.answer]} with {max(r.probabilities):.3f}"
        shown = overlay(e, sample.image, limit=limits[unit(e)], width=width, title="")
        yield (
            Picture(label, picture.jpeg(plain(e, sample.image, width=width)), f"the input {r.sample}"),
            Picture(f"evidence for {names[r.answer]}", picture.jpeg(shown), f"evidence in {r.sample}"),
        )


def _explained(network: nn.Module, sample: Sample) -> Explanation:
    x = collate([sample])
    first = explain(network, x, method="evidence")
    target = targets.gauge_free(first.target, first.logits, getattr(network, "task", None))
    return explain(network, x, target, method="evidence")


def of_drawings(parts: Sequence[Part], drawings: Sequence[Drawing]) -> Iterator[tuple[Picture, ...]]:
    """Each drawing where it is, and the same place in a sample without it, magnified."""
    for drawing in drawings:
        found = [(words, _first(parts, drawing, words == "shown")) for words in ("shown", "not shown")]
        strip = [
            Picture(f"{drawing.zone.name}, {words} ({sample.name})", picture.png(_magnified(sample.image, mask)), f"the place of {drawing.zone.name}, {words}")
            for words, sample in found
            if sample is not None and isinstance(sample.image, np.ndarray) and (mask := drawing.zone.of(sample)) is not None
        ]  # fmt: skip
        if strip:
            yield tuple(strip)


def _first(parts: Sequence[Part], drawing: Drawing, there: bool) -> Sample | None:
    for part in parts:
        for i in range(len(part.dataset)):
            if (part.dataset.facts(i).name in drawing.shown_in) == there:
                return part.dataset[i]
    return None


def _magnified(image: np.ndarray, mask: torch.Tensor) -> Image.Image:
    """The surroundings of a mask, cut out of the picture."""
    picture_height, picture_width = image.shape[:2]
    scale = np.array([picture_height, picture_width]) / np.array(mask.shape)
    inside = torch.nonzero(mask).numpy()
    low, high = inside.min(0), inside.max(0) + 1
    margin = AROUND * (high - low).max()
    top, left = np.maximum((low - margin) * scale, 0).astype(int)
    bottom, right = np.minimum((high + margin) * scale, (picture_height, picture_width)).astype(int)
    cut = Image.fromarray(image[top:bottom, left:right])
    factor = MAGNIFIED / max(cut.size)
    return cut.resize((round(cut.width * factor), round(cut.height * factor)), Image.Resampling.NEAREST)
