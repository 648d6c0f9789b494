"""A data set on one page: how many samples of which class, how large, which repeat, and which cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import combinations
from typing import Any

from torch import Tensor

from pellucid.errors import BadInput
from pellucid.sample import Dataset, Facts, Sample

SHOWN = 12  # classes and bad files that the table lists one by one


@dataclass(frozen=True)
class Overview:
    """What a data set holds.

    samples: in the whole set. read: how many were opened, of which `bad` could not be read (name, reason). classes: name ->
    samples with that label. unlabelled: samples without a class. groups: patients, 0 where nothing is known of them.
    sizes: of the files where they are known, else of the inputs, first axis first -> samples. inputs: shapes
    `(channels, *spatial)` as a network gets them -> samples. masks: samples with truth for localisation. grey: pictures
    without colour. parts: of a published split -> samples. task: "multiclass", "multilabel" (a sample counts in several
    classes) or "none".
    duplicates: pairs of samples whose inputs are the same; conflicts: those of them with different labels.
    shared: two parts of the split -> how many groups, and how many same inputs, they have in common.
    left_out: files of the source that hold no picture, and why.
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
    grey: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    task: str = "multiclass"
    duplicates: tuple[tuple[str, str], ...] = ()
    conflicts: tuple[tuple[str, str], ...] = ()
    shared: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """What the table shows, as pairs of words."""
        some = f" (of the {self.read} that were read)" if self.read < self.samples else ""
        named = [(f"  {name}", str(n)) for name, n in list(self.classes.items())[:SHOWN]]
        more = len(self.classes) - SHOWN
        several = ", a sample may have several" if self.task == "multilabel" else ""
        return [
            ("samples", str(self.samples)),
            *((f"  {part}", str(n)) for part, n in self.parts.items()),
            ("classes", f"{len(self.classes)}{several}" if self.classes else "none: the samples have no labels"),
            *named,
            *([("", f"and {more} more classes")] if more > 0 else []),
            *([("without label", str(self.unlabelled))] if self.classes and self.unlabelled else []),
            ("groups (patients)", str(self.groups) if self.groups else "not known: every sample counts as one"),
            (f"sizes{some}", _counted(self.sizes)),
            ("inputs", _counted(self.inputs)),
            *([("without colour", str(self.grey))] if self.grey else []),
            ("with masks", str(self.masks)),
            ("duplicates", f"{len(self.duplicates)}" + (f", {len(self.conflicts)} of them with two labels" if self.conflicts else "")),
            *((f"  {a}", f"is the same as {b}") for a, b in (*self.conflicts, *self.duplicates)[:3]),
            *((f"shared by {pair}", f"{n['groups']} groups, {n['inputs']} same inputs") for pair, n in self.shared.items()),
            *([("left out", f"{len(self.left_out)} files, {self.left_out[0][0]}: {self.left_out[0][1]}")] if self.left_out else []),
            ("cannot be read", str(len(self.bad))),
            *((f"  {name}", why) for name, why in self.bad[:SHOWN]),
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        told = {**asdict(self), "bad": [{"name": name, "message": why} for name, why in self.bad]}
        return {**told, "left_out": [{"name": name, "message": why} for name, why in self.left_out]}


def overview(
    dataset: Dataset, *, limit: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Overview:
    """Count labels and groups of all samples, and open them (`limit`, evenly spread) for sizes, masks, repeats and damage."""
    facts = [dataset.facts(i) for i in range(len(dataset))]
    count = len(facts) if limit is None else min(limit, len(facts))
    seen = _Seen()
    for i in _spread(len(facts), count):
        try:
            seen.add(i, dataset[i], facts[i])
        except BadInput as error:
            seen.bad.append((facts[i].name, error.message))
        if progress is not None:
            progress(len(seen.bad) + len(seen.digests), count)
    known: Any = dataset
    several = [label for label in seen.labels if isinstance(label, tuple)]
    labels = Counter(k for label in several for k in label) if several else Counter(f.label for f in facts)
    classes = {name: labels[k] for k, name in enumerate(dataset.classes)}
    groups = {f.group for f in facts} - {""}
    parts: Mapping[str, Sequence[int]] = getattr(known, "parts", {})
    return Overview(
        samples=len(facts), read=count, classes=classes, unlabelled=0 if several else len(facts) - sum(classes.values()), groups=len(groups),
        sizes=dict(seen.sizes.most_common()), inputs=dict(seen.inputs.most_common()), masks=seen.masks, bad=tuple(seen.bad), grey=seen.grey,
        parts={part: len(of) for part, of in parts.items()}, task="multilabel" if several else "multiclass" if classes else "none",
        duplicates=tuple(seen.duplicates), conflicts=tuple(seen.conflicts), shared=_shared(parts, facts, seen.digests),
        left_out=tuple(getattr(known, "left_out", {}).items()),
    )  # fmt: skip


@dataclass
class _Seen:
    """What was found in the samples that were opened. digests: index -> digest of its input."""

    sizes: Counter[str] = field(default_factory=Counter)
    inputs: Counter[str] = field(default_factory=Counter)
    labels: list[Any] = field(default_factory=list)
    digests: dict[int, bytes] = field(default_factory=dict)
    first: dict[bytes, tuple[str, Any]] = field(default_factory=dict)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    masks: int = 0
    grey: int = 0

    def add(self, index: int, sample: Sample, facts: Facts) -> None:
        width_first = sample.meta.get("file_size")
        size = tuple(reversed(width_first)) if width_first else tuple(sample.input.shape[1:])
        self.sizes[_axes(size)] += 1
        self.inputs[_axes(tuple(sample.input.shape))] += 1
        self.masks += sample.mask is not None
        self.grey += _without_colour(sample.image)
        label = sample.label
        plain = tuple(k for k, v in enumerate(label.tolist()) if v) if isinstance(label, Tensor) else label
        self.labels.append(plain)
        digest = self.digests[index] = blake2b(sample.input.numpy().tobytes(), digest_size=16).digest()
        before, other = self.first.setdefault(digest, (facts.name, plain))
        if before != facts.name:
            self.duplicates.append((facts.name, before))
            if other != plain:
                self.conflicts.append((facts.name, before))


def _without_colour(image: Any) -> bool:
    return image is not None and (image.ndim == 2 or bool((image[..., :1] == image).all()))


def _spread(total: int, count: int) -> list[int]:
    """`count` of the samples, evenly spread: classes and parts often stand one behind the other."""
    return [k * total // count for k in range(count)]


def _shared(
    parts: Mapping[str, Sequence[int]], facts: Sequence[Facts], digests: Mapping[int, bytes]
) -> dict[str, dict[str, int]]:
    """For every two parts what they have in common."""
    groups = {part: {facts[i].group for i in of} - {""} for part, of in parts.items()}
    inputs = {part: {digests[i] for i in of if i in digests} for part, of in parts.items()}
    return {
        f"{a} and {b}": {"groups": len(groups[a] & groups[b]), "inputs": len(inputs[a] & inputs[b])}
        for a, b in combinations(parts, 2)
    }


def _axes(values: tuple[int, ...]) -> str:
    return " x ".join(map(str, values))


def _counted(found: dict[str, int]) -> str:
    """The most frequent ones with their counts."""
    shown = ", ".join(f"{name} ({n})" for name, n in list(found.items())[:3])
    more = len(found) - 3
    return (shown + (f" and {more} more" if more > 0 else "")) or "none"
