"""Splits: no group in two parts, classes in proportion, and what is on disk is what was split."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.data.splits import Split, folds, split
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Facts, Sample


@dataclass(frozen=True)
class Rows:
    """A data set of facts only."""

    rows: tuple[tuple[int | None, str], ...]
    classes: tuple[str, ...] = ("healthy", "ill", "worse")
    fingerprint: str = "f"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("splits must not read samples")

    def facts(self, index: int) -> Facts:
        label, group = self.rows[index]
        return Facts(f"n{index}", label, group)


def random_rows(seed: int, groups: int = 60, classes: int = 2) -> Rows:
    generator = np.random.default_rng(seed)
    rows = [(int(generator.integers(classes)), f"p{g}") for g in range(groups) for _ in range(generator.integers(1, 5))]
    return Rows(tuple(rows))


def check(data: Rows, made: Split) -> None:
    """Every sample in exactly one part, and no group in two."""
    assert sorted(i for part in made.parts.values() for i in part) == list(range(len(data)))
    owner: dict[str, str] = {}
    for part, indices in made.parts.items():
        for i in indices:
            group = data.rows[i][1]
            if group:
                assert owner.setdefault(group, part) == part


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 3), st.integers(40, 70))
def test_groups_are_never_split(seed: int, k: int, classes: int, groups: int) -> None:
    data = random_rows(seed, groups, classes)
    check(data, folds(data, k, seed=seed))
    check(data, split(data, seed=seed))


@pytest.mark.parametrize("seed", range(5))
def test_classes_and_sizes_are_in_proportion(seed: int) -> None:
    data = random_rows(seed, groups=200)
    share = np.mean([label for label, _ in data.rows])
    for made, wanted in ((folds(data, 5, seed=seed), [0.2] * 5), (split(data, seed=seed), [0.7, 0.1, 0.2])):
        for part, fraction in zip(made.parts.values(), wanted, strict=True):
            assert len(part) / len(data) == pytest.approx(fraction, abs=0.03)
            assert np.mean([data.rows[i][0] for i in part]) == pytest.approx(share, abs=0.06)


def test_equal_seeds_split_equally_and_others_do_not() -> None:
    data = random_rows(1)
    assert folds(data, 5, seed=3).parts == folds(data, 5, seed=3).parts
    assert folds(data, 5, seed=3).parts != folds(data, 5, seed=4).parts
    assert split(data, seed=3).parts != split(data, seed=4).parts


def test_unknown_groups_are_single_samples_and_labels_may_be_absent() -> None:
    made = folds(Rows(tuple((None, "") for _ in range(10))), 5)
    assert [len(p) for p in made.parts.values()] == [2] * 5
    named = Rows((*(((0, "sample 1"),) * 3), *(((0, ""),) * 3)))
    check(named, folds(named, 2))


def test_other_fractions() -> None:
    made = split(random_rows(0, 100), {"fit": 0.5, "look": 0.5})
    assert list(made.parts) == ["fit", "look"]
    assert len(made.parts["fit"]) == pytest.approx(len(made.parts["look"]), abs=6)


def test_small_and_impossible_sets_are_refused_clearly() -> None:
    lonely = Rows(((0, "a"), (0, "b"), (0, "c"), (1, "d"), (1, "d")))
    with pytest.raises(BadInput, match="'ill' has samples of 1 group"):
        folds(lonely, 2)
    with pytest.raises(BadInput, match="3 parts"):
        split(lonely)
    with pytest.raises(BadInput, match="empty"):
        folds(Rows(()), 2)
    with pytest.raises(OptionError):
        folds(random_rows(0), 1)
    for fractions in ({"a": 1.0}, {"a": 0.5, "b": 0.6}, {"a": 1.5, "b": -0.5}):
        with pytest.raises(OptionError):
            split(random_rows(0), fractions)


def test_a_split_comes_back_from_disk_also_in_another_order(tmp_path: Path) -> None:
    data = random_rows(2)
    made = split(data)
    path = made.write(tmp_path / "split.json")
    assert Split.read(path, data) == made
    before = path.read_bytes()
    assert Split.read(path, data).write(path).read_bytes() == before

    class Backwards(Rows):
        def facts(self, index: int) -> Facts:
            return data.facts(len(data) - 1 - index)

    turned = Split.read(path, Backwards(data.rows))
    for part, indices in made.parts.items():
        assert {len(data) - 1 - i for i in turned.parts[part]} == set(indices)
    assert made.subset(data, "test").facts(0) == data.facts(made.parts["test"][0])


def test_a_split_of_something_else_is_refused(tmp_path: Path) -> None:
    data = random_rows(2)
    path = split(data).write(tmp_path / "split.json")
    with pytest.raises(BadInput, match="does not fit"):
        Split.read(path, Rows(data.rows[:-1]))
    value = json.loads(path.read_text())
    value["parts"]["test"].append(value["parts"]["train"][0])
    path.write_text(json.dumps(value))
    with pytest.raises(BadInput, match="does not fit"):
        Split.read(path, data)
    for text in ("{}", "[]", '{"order": ["a"], "parts": 3}', "no json"):
        path.write_text(text)
        with pytest.raises(BadInput):
            Split.read(path, data)
