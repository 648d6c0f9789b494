"""A data set on one page: how many samples of which class, how large, and which cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pellucid.errors import BadInput
from pellucid.sample import Dataset

SHOWN = 12  # classes and bad files that the table lists one by one


@dataclass(frozen=True)
class Overview:
    """What a data set holds.

    samples: in the whole set. read: how many were opened, of which `bad` could not be read (name, reason). classes: name ->
    samples with that label. unlabelled: samples without a class. groups: patients, 0 where nothing is known of them.
    sizes: of the files where they are known, else of the inputs, first axis first -> samples. inputs: shapes
    `(channels, *spatial)` as a network gets them -> samples. masks: samples with truth for localisation.
    """

    samples: int
    read: int
    classes: dict[str, int]
    unlabelled: int
    groups: int
    sizes: dict[str, int]
    inputs: dict[str, int]
    masks: int
    bad: tuple[tuple[str, str], ...]

    def rows(self) -> list[tuple[str, str]]:
        """What the table shows, as pairs of words."""
        some = f" (of the {self.read} that were read)" if self.read < self.samples else ""
        named = [(f"  {name}", str(n)) for name, n in list(self.classes.items())[:SHOWN]]
        more = len(self.classes) - SHOWN
        return [
            ("samples", str(self.samples)),
            ("classes", str(len(self.classes)) if self.classes else "none: the samples have no labels"),
            *named,
            *([("", f"and {more} more classes")] if more > 0 else []),
            *([("without label", str(self.unlabelled))] if self.classes and self.unlabelled else []),
            ("groups (patients)", str(self.groups) if self.groups else "not known: every sample counts as one"),
            (f"sizes{some}", _counted(self.sizes)),
            ("inputs", _counted(self.inputs)),
            ("with masks", str(self.masks)),
            ("cannot be read", str(len(self.bad))),
            *((f"  {name}", why) for name, why in self.bad[:SHOWN]),
        ]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "bad": [{"name": name, "message": why} for name, why in self.bad]}


def overview(
    dataset: Dataset, *, limit: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Overview:
    """Count labels and groups of all samples, and open them (the first `limit`) for sizes, masks and damage."""
    facts = [dataset.facts(i) for i in range(len(dataset))]
    labels = Counter(f.label for f in facts)
    classes = {name: labels[k] for k, name in enumerate(dataset.classes)}
    count = len(facts) if limit is None else min(limit, len(facts))
    sizes: Counter[str] = Counter()
    inputs: Counter[str] = Counter()
    masks, bad = 0, []
    for i in range(count):
        try:
            sample = dataset[i]
        except BadInput as error:
            bad.append((facts[i].name, error.message))
        else:
            width_first = sample.meta.get("file_size")
            size = tuple(reversed(width_first)) if width_first else tuple(sample.input.shape[1:])
            sizes[_axes(size)] += 1
            inputs[_axes(tuple(sample.input.shape))] += 1
            masks += sample.mask is not None
        if progress is not None:
            progress(i + 1, count)
    groups = {f.group for f in facts} - {""}
    unlabelled = len(facts) - sum(classes.values())
    return Overview(
        len(facts), count, classes, unlabelled, len(groups), dict(sizes.most_common()), dict(inputs.most_common()), masks, tuple(bad)
    )  # fmt: skip


def _axes(values: tuple[int, ...]) -> str:
    return " x ".join(map(str, values))


def _counted(found: dict[str, int]) -> str:
    """The most frequent ones with their counts."""
    shown = ", ".join(f"{name} ({n})" for name, n in list(found.items())[:3])
    more = len(found) - 3
    return (shown + (f" and {more} more" if more > 0 else "")) or "none"
