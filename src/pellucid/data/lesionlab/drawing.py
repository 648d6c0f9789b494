"""The lesions and distractors of an image, one after the other, each from a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool
from numpy import ndarray as Array

from pellucid.data.lesionlab import composition
from pellucid.data.lesionlab.background import tiles
from pellucid.data.lesionlab.frame import FRAME
from pellucid.data.lesionlab.marker import mark, variant_of
from pellucid.data.lesionlab.patches import Size
from pellucid.data.lesionlab.scene import Contents, Part, Setting
from pellucid.data.lesionlab.streams import stream

P = TypeVar("P", bound=Part)

# (generator, size, what is placed already, number) -> part
Maker = Callable[[np.random.Generator, Size, Sequence[P], int], P]


def contents(
    image: int,
    setting: Setting,
    ill: bool,
    makers: Mapping[str, Maker[P]],
    tissue: Bool[Array, "n n"],
    paint: tuple[float, ...],
    adds: bool = False,
    mirror: Callable[[P], P] | None = None,
) -> Contents:
    """All that is in the image `image` beside its anatomy.

    ill: whether its label is to be other than the first. tissue: where pieces of background may lie. paint, adds: how a
    marker is drawn. mirror: what turns a part of a right eye into one of a left eye, where eyes differ.
    """
    knobs, right = setting.knobs, bool(stream(image, "eye").random() < 0.5)
    present = composition.has_lesions(knobs, ill)
    # A device lies where the first lesion is or would be, whatever the label.
    here = lesions(image, setting, ill, makers) if present or setting.marker == "device" else ()
    others = distractors(image, setting, makers)
    if mirror is not None and not right:
        here, others = (tuple(mirror(part) for part in parts) for parts in (here, others))
    middle = here[0].centre if here else (FRAME / 2, FRAME / 2)
    return Contents(
        lesions=here if present else (),
        distractors=others,
        tiles=tiles(image, setting.size, tissue, here),
        right=right,
        mark=mark(setting.marker, variant_of(setting.marker, image, right), setting.size, paint, adds, middle),
        brightness=float(knobs.suppressor * stream(image, "suppressor").standard_normal()) if knobs.suppressor else 0.0,
    )


def lesions(root: int, setting: Setting, ill: bool, makers: Mapping[str, Maker[P]]) -> tuple[P, ...]:
    """The lesions of the image `root`, were it ill. Each keeps its number and its place when others go."""
    knobs = setting.knobs
    names = knobs.lesion_types(setting.kind) if knobs.cue == "natural" else (knobs.cue,)
    size, placed = Size.of(knobs, setting.size), list[P]()
    for k, prescribed in enumerate(composition.roster(root, setting.kind, knobs, setting.labels, ill)):
        generator = stream(root, "lesion", k)
        drawn = composition.chosen(names, int(generator.integers(len(names))), placed)
        placed.append(makers[prescribed or drawn](generator, size, placed, k))
    return tuple(placed)


def distractors(root: int, setting: Setting, makers: Mapping[str, Maker[P]]) -> tuple[P, ...]:
    """Things that are no lesions; with a cue, decoys behind them. They know nothing of label and lesions."""
    knobs, names, placed = setting.knobs, setting.knobs.distractor_kinds(setting.kind), list[P]()
    for k in range(composition.distractors(root, knobs)):
        generator = stream(root, "distractor", k)
        name = names[int(generator.integers(len(names)))]
        placed.append(makers[name](generator, Size(setting.size), (), k))
    size = Size.of(knobs, setting.size)
    for k in range(composition.decoys(root, knobs)):
        placed.append(makers[f"{knobs.cue} decoy"](stream(root, "decoy", k), size, (), k))
    return tuple(placed)
