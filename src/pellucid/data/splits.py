"""Folds and splits that keep a patient's images together and the classes in proportion, on disk as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid import files
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Dataset, Facts, Subset

_FINEST = 40  # folds that a split is put together from


@dataclass(frozen=True)
class Split:
    """Named parts of a data set, each a tuple of indices. Samples are written down by name, so that a split outlives reordering."""

    parts: Mapping[str, tuple[int, ...]]
    names: tuple[str, ...]
    fingerprint: str
    seed: int

    def subset(self, dataset: Dataset, part: str) -> Subset:
        return Subset(dataset, self.parts[part])

    def write(self, path: str | Path) -> Path:
        parts = {part: [self.names[i] for i in indices] for part, indices in self.parts.items()}
        return files.write_json(
            path,
            {"schema": 1, "seed": self.seed, "fingerprint": self.fingerprint, "order": list(parts), "parts": parts},
        )

    @classmethod
    def read(cls, path: str | Path, dataset: Dataset) -> Split:
        """A split written before, for the same samples. Raises `BadInput` where names are missing, new or in two parts."""
        value = files.read_json(path)
        names = tuple(dataset.facts(i).name for i in range(len(dataset)))
        index = {name: i for i, name in enumerate(names)}
        try:
            listed = {str(part): tuple(map(str, value["parts"][part])) for part in value["order"]}
            fingerprint, seed = str(value["fingerprint"]), int(value["seed"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{path} is not a split.", why=f"{type(error).__name__}: {error}", hint="Write it again.", path=path
            ) from error
        flat = [name for part in listed.values() for name in part]
        wrong = sorted(set(flat) ^ set(names)) or sorted(
            {n for n in flat if flat.count(n) > 1} if len(set(flat)) < len(flat) else ()
        )
        if wrong:
            raise BadInput(
                f"{path} does not fit the data set.",
                why=f"{len(wrong)} samples are not in both exactly once, '{wrong[0]}' among them.",
                hint="Split the data again.",
                path=path,
            )
        return cls(
            {part: tuple(index[n] for n in members) for part, members in listed.items()}, names, fingerprint, seed
        )


def folds(dataset: Dataset, k: int = 5, *, seed: int = 0) -> Split:
    """`k` parts "0" to "k-1" of about equal size, classes in proportion, no group in two of them.

    Raises `BadInput` where a class has fewer than `k` groups.
    """
    if k < 2:
        raise OptionError(f"{k} folds were asked for.", why="At least 2 are needed.", hint="Give k=5, for example.")
    facts = _facts(dataset)
    _enough(dataset, facts, k)
    return _made(dataset, facts, {str(j): fold for j, fold in enumerate(_folds(facts, k, seed))}, seed)


def split(dataset: Dataset, fractions: Mapping[str, float] | None = None, *, seed: int = 0) -> Split:
    """Parts of the wanted relative size (default: train .7, val .1, test .2), classes in proportion, no group in two.

    Raises `OptionError` for impossible fractions, `BadInput` where a class has too few groups to be in every part.
    """
    wanted = dict(fractions or {"train": 0.7, "val": 0.1, "test": 0.2})
    if len(wanted) < 2 or min(wanted.values()) <= 0 or abs(sum(wanted.values()) - 1) > 1e-6:
        raise OptionError(
            f"The fractions are {wanted}.",
            why="Two or more positive ones that add up to 1 are needed.",
            hint="Give train=.7, val=.1, test=.2.",
        )
    facts = _facts(dataset)
    most = _enough(dataset, facts, len(wanted))
    shares = _shares(tuple(wanted.values()), min(most, _FINEST))
    pieces = iter(_folds(facts, sum(shares), seed))
    parts = {
        name: sorted(i for _ in range(share) for i in next(pieces)) for name, share in zip(wanted, shares, strict=True)
    }
    return _made(dataset, facts, parts, seed)


def groups_of_rarest(dataset: Dataset) -> int:
    """In how many groups (patients) the class is found that is found in fewest: no more parts can have all classes."""
    return _enough(dataset, _facts(dataset), 1)


def _facts(dataset: Dataset) -> list[Facts]:
    return [dataset.facts(i) for i in range(len(dataset))]


def _groups(facts: Sequence[Facts]) -> list[str]:
    """A sample of unknown group is a group of its own."""
    return [f"group {f.group}" if f.group else f"sample {i}" for i, f in enumerate(facts)]


def _strata(facts: Sequence[Facts]) -> list[int]:
    """Class indices; one stratum where there are no classes. A sample that lacks its class goes with the largest one."""
    labels = [f.label for f in facts]
    known = [label for label in labels if isinstance(label, int)]
    if not known or any(isinstance(label, float) for label in labels):
        return [0] * len(labels)
    largest = Counter(known).most_common(1)[0][0]
    return [label if isinstance(label, int) else largest for label in labels]


def _enough(dataset: Dataset, facts: Sequence[Facts], parts: int) -> int:
    """The number of groups of the class that has fewest; refused where they cannot fill the parts."""
    members: dict[int, set[str]] = {}
    for stratum, group in zip(_strata(facts), _groups(facts), strict=True):
        members.setdefault(stratum, set()).add(group)
    if not members:
        raise BadInput("The data set is empty.", hint="Check the source.")
    rarest = min(members, key=lambda s: len(members[s]))
    if len(members[rarest]) < parts:
        name = dataset.classes[rarest] if rarest < len(dataset.classes) else str(rarest)
        raise BadInput(
            f"The data set cannot be split into {parts} parts.",
            why=f"The class '{name}' has samples of {len(members[rarest])} group(s) (patients) only.",
            hint="Ask for fewer parts, or add data.",
        )
    return len(members[rarest])


def _folds(facts: Sequence[Facts], k: int, seed: int) -> list[list[int]]:
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    strata: Any = _strata(facts)
    return [[int(i) for i in test] for _, test in splitter.split(strata, strata, _groups(facts))]


def _shares(fractions: Sequence[float], most: int) -> list[int]:
    """How many of how many equal folds each part gets: the coarsest of the best fits."""
    best: tuple[float, list[int]] = (float("inf"), [])
    for count in range(max(2, len(fractions)), most + 1):
        shares = [max(1, round(f * count)) for f in fractions]
        shares[shares.index(max(shares))] += count - sum(shares)
        error = max(abs(s / count - f) for s, f in zip(shares, fractions, strict=True))
        if min(shares) >= 1 and error < best[0] - 1e-9:
            best = (error, shares)
    return best[1]


def _made(dataset: Dataset, facts: Sequence[Facts], parts: Mapping[str, Sequence[int]], seed: int) -> Split:
    for part, indices in parts.items():
        if not indices:
            raise BadInput(
                f"The part '{part}' would be empty.",
                why="The groups (patients) are too few or too unequal.",
                hint="Ask for fewer parts, or try another seed.",
            )
    return Split({p: tuple(v) for p, v in parts.items()}, tuple(f.name for f in facts), dataset.fingerprint, seed)
