"""How to train on a data set, decided from what it holds: written down, printed, obeyed, and for the user to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pellucid import files
from pellucid.data import READERS, open_data, options_of, reader_for
from pellucid.data.overview import Overview, overview
from pellucid.data.splits import groups_of_rarest
from pellucid.errors import BadInput, OptionError, PellucidError
from pellucid.sample import Dataset

FORMAT = "pellucid-plan-1"
FOLDS = 5
RARE = 10  # samples
UNEQUAL = 2.0  # largest over smallest class, from where on classes are weighed
ENOUGH = 0.05  # of the training part, in a validation part
STEPS = 300  # of training, at least, where the data are few
SIDES = {2: 224, 3: 64}  # largest input that is proposed, by number of axes
LOOKED_AT = 300  # samples opened for a plan that is made on the way


@dataclass(frozen=True)
class Plan:
    """What a training would do, and why.

    source, reader, reading: the data and the reader's settings. data: their fingerprint. classes: name -> samples.
    parts: of a published split. model: network. folds: 0: one network on the training part. validation: the part that
    chooses the epoch that is kept. recipe: training settings that
    are not the defaults. reasons: one line per decision. warnings: what the user should know. bad: (name, reason).
    """

    source: str
    reader: str
    reading: Mapping[str, Any]
    data: str
    samples: int
    classes: Mapping[str, int]
    groups: int
    task: str
    inputs: Sequence[int]
    parts: Mapping[str, int]
    model: str
    folds: int
    recipe: Mapping[str, Any]
    reasons: Sequence[str] = ()
    warnings: Sequence[str] = ()
    bad: Sequence[Sequence[str]] = field(default=())
    validation: str | None = None

    def rows(self) -> list[tuple[str, str]]:
        """What is printed, as pairs of words."""
        given = [f"{k}={v}" for k, v in {**self.reading, **self.recipe}.items()]
        return [
            ("network", f"{self.model} for inputs of {' x '.join(map(str, self.inputs))}"),
            ("task", f"{self.task}, {len(self.classes)} classes"),
            ("split", f"{self.folds} folds" if self.folds else "as published"),
            *([("validation", f"the part '{self.validation}'")] if self.validation else []),
            ("settings", " ".join(given)),
            *(("because", reason) for reason in self.reasons),
            *(("warning", warning) for warning in self.warnings),
        ]

    def as_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def command(self, path: Path | None = None) -> str:
        """What trains by this plan."""
        return f"pellucid train {self.source}" + (f" --plan {path}" if path is not None else "")

    def write(self, path: str | Path) -> Path:
        """Write the plan as JSON. A file that is no plan is not replaced: `OptionError`."""
        path = Path(path)
        if path.exists() and not _is_plan(path):
            raise OptionError(
                f"{path} exists and is no plan.", why="It would be lost.", hint="Choose another --plan.", path=path
            )
        return files.write_json(path, self.as_dict())

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """A plan written before, perhaps changed by hand. Raises `BadInput` for what is none."""
        value = files.read_json(path)
        try:
            if value.pop("format") != FORMAT:
                raise KeyError("format")
            return cls(**value)
        except (AttributeError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path} is no plan.", why=f"{type(error).__name__}: {error}", hint="Write one: pellucid inspect DATA.", path=path
            ) from error  # fmt: skip

    def check(self, source: str, reading: Mapping[str, Any]) -> None:
        """Raise `BadInput` where the plan was made for other data than the source holds now.

        reading: what the user asks for besides; data read in another way than planned are not compared.
        """
        same = all(self.reading.get(key) == value for key, value in files.plain(dict(reading)).items())
        if source != self.source or (same and open_data(source, **self.reading).fingerprint != self.data):
            raise BadInput(
                f"The plan was made for other data than {source} holds now.",
                why=f"It speaks of {self.source}, {self.samples} samples.",
                hint="Make it again: pellucid inspect DATA.",
                path=source,
            )


def _is_plan(path: Path) -> bool:
    try:
        found = files.read_json(path)
    except PellucidError:
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def plan_for(
    source: str, reading: Mapping[str, Any], *, progress: Callable[[int, int], None] | None = None
) -> Plan:  # fmt: skip
    """The plan for a source read with these settings, after opening some of its samples.

    Raises `BadInput` for data without at least two classes: there is nothing to learn.
    """
    return planned(source, reading, overview(opened_whole(source, reading), limit=LOOKED_AT, progress=progress))


def opened_whole(source: str, reading: Mapping[str, Any]) -> Dataset:
    """The data with all parts of their published split, where they have one and none was chosen."""
    parts = READERS[reader_for(source)].parts
    return open_data(source, **({"split": "all"} if parts and "split" not in reading else {}), **reading)


def planned(source: str, reading: Mapping[str, Any], found: Overview) -> Plan:
    """The plan for data that were looked at, all parts of them."""
    reasons: list[str] = []
    if not found.inputs:
        raise BadInput(f"{source} holds no sample that can be read.", why=f"{len(found.bad)} were tried.", path=source)
    chosen, inputs = _reading(source, reading, found, reasons)
    dataset = open_data(source, **chosen)
    if len(dataset.classes) < 2:
        raise BadInput(
            f"{source} has no classes to learn.",
            why=f"It has {len(dataset.classes)}.",
            hint="Give a folder per class, or a CSV with labels.",
            path=source,
        )
    counts = _counts(dataset, found)
    least = groups_of_rarest(dataset)
    folds = _folds(found, least, reasons)
    validation = _validation(found, folds, reading, len(dataset))
    recipe = _recipe(len(dataset), counts, found.task, least, validation, reasons)
    warnings = tuple(_warnings(dataset, found, counts, inputs))
    return Plan(
        source=source, reader=reader_for(source), reading=files.plain(chosen), data=dataset.fingerprint, samples=len(dataset), classes=counts,
        groups=found.groups, task=found.task, inputs=inputs, parts=found.parts, model="pellucid:s8", folds=folds, recipe=recipe,
        reasons=tuple(reasons), warnings=warnings, bad=found.bad, validation=validation,
    )  # fmt: skip


def _counts(dataset: Dataset, found: Overview) -> dict[str, int]:
    """Class -> samples to learn from; of several classes at once, as far as they were opened."""
    if found.task == "multilabel":
        return dict(found.classes)
    labels = Counter(dataset.facts(i).label for i in range(len(dataset)))
    return {name: labels[k] for k, name in enumerate(dataset.classes)}


def _folds(found: Overview, least: int, reasons: list[str]) -> int:
    if "test" in found.parts:
        reasons.append("no folds: the data come with a test part, which training leaves alone")
        return 0
    if found.task == "multiclass" and least < 2:
        reasons.append("no folds: a class is found in one group only")
        return 0
    folds = min(FOLDS, least) if found.task == "multiclass" else FOLDS
    reasons.append(f"{folds} folds, no group in two: every sample is scored by a network that never saw it")
    return folds


def _validation(found: Overview, folds: int, reading: Mapping[str, Any], samples: int) -> str | None:
    """The published part that chooses the weights, unless it is so small that chance would choose."""
    return "val" if not folds and "split" not in reading and found.parts.get("val", 0) >= ENOUGH * samples else None


def _reading(
    source: str, reading: Mapping[str, Any], found: Overview, reasons: list[str]
) -> tuple[dict[str, Any], list[int]]:
    """The reader's settings with a size, and with one channel for pictures without colour; and the inputs they make."""
    channels, *sides = (int(n) for n in next(iter(found.inputs)).split(" x "))
    known, chosen = options_of(source), dict(reading)
    most = SIDES.get(len(sides))
    if "size" in known and "size" not in reading and most is not None:
        shorter = sorted(min(int(n) for n in size.split(" x ")) for size, n in found.sizes.items() for _ in range(n))
        usual = shorter[len(shorter) // 2]
        chosen["size"] = max(32, min(most, round(usual / 32) * 32))
        sides = [chosen["size"]] * len(sides)
        reasons.append(
            f"size {chosen['size']}: the files' shorter side is {usual} as a rule, and {most} is bearable on a CPU"
        )
    if "grey" in known and "grey" not in reading and found.grey == found.read - len(found.bad):
        chosen["grey"], channels = True, 1
        reasons.append("grey: no picture has colour")
    return chosen, [channels, *sides]


def _recipe(
    samples: int, counts: Mapping[str, int], task: str, least: int, validation: str | None, reasons: list[str]
) -> dict[str, Any]:  # fmt: skip
    batch = 8 if samples < 200 else 16 if samples < 1000 else 32
    made: dict[str, Any] = {"batch_size": batch, "epochs": min(60, max(10, round(STEPS * batch / samples)))}
    if task == "multiclass" and min(counts.values()) > 0 and max(counts.values()) >= UNEQUAL * min(counts.values()):
        made["class_weights"] = "balanced"
        reasons.append(f"balanced classes: they have from {min(counts.values())} to {max(counts.values())} samples")
    if validation is not None:
        made["keep_best"] = "val_loss"
        reasons.append(f"the part '{validation}' of the published split chooses the epoch that is kept")
    elif least >= 2 * FOLDS:
        made |= {"val_fraction": 0.15, "keep_best": "val_loss"}
        reasons.append("15 % of the groups choose the epoch that is kept")
    return made


def _warnings(
    dataset: Dataset, found: Overview, counts: Mapping[str, int], inputs: Sequence[int]
) -> Iterator[str]:  # fmt: skip
    if getattr(dataset, "laterality", False):
        yield "the classes are sides: augment=hflip and turns would exchange them"
    if not found.groups:
        yield "patients are not known: pictures of one may be on both sides of a split"
    if found.conflicts:
        yield f"{len(found.conflicts)} inputs occur with two labels, {found.conflicts[0][0]} among them"
    if len(found.duplicates) > len(found.conflicts):
        yield f"{len(found.duplicates)} inputs occur more than once, {found.duplicates[0][0]} among them"
    for pair, n in found.shared.items():
        if n["groups"] or n["inputs"]:
            yield f"{pair} share {n['groups']} groups and {n['inputs']} inputs: a network is flattered by what it has seen"
    if found.bad:
        yield f"{len(found.bad)} of {found.read} samples cannot be read and are skipped, {found.bad[0][0]} among them"
    if found.unlabelled:
        yield f"{found.unlabelled} samples have no label and are skipped"
    rare = [name for name, n in counts.items() if n < RARE]
    if rare:
        yield f"{len(rare)} of the classes have fewer than {RARE} samples, {rare[0]} among them"
    usual = min(int(n) for n in next(iter(found.sizes)).split(" x "))
    if len(inputs) > 2 and usual >= 2 * min(inputs[1:]):
        yield f"the files are {usual // min(inputs[1:])} times as large as the inputs: small findings may vanish (size=...)"
    yield "the network starts at random: with weights of ImageNet, pictures need fewer samples (--model, --weights)"
