"""Policies from YAML: what they say, the lines of their limits, and answers to what they cannot say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid.audit.policy import Limit, Policy, read_policy
from pellucid.errors import BadInput, OptionError

TEXT = """\
title: Spring
purpose:
  intended_use: Second reader.
zones: [corners, "sample:marker"]
limits:
  performance.auc: {at_least: 0.8}

  shortcut.corners.effect:
    at_most: 0.25
  data.same_inputs: {at_least: 0, at_most: 3}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def test_a_policy_and_the_lines_of_its_limits(tmp_path: Path) -> None:
    policy, lines = read_policy(write(tmp_path, TEXT))
    assert policy.zones == ("corners", "sample:marker")
    assert policy.purpose.intended_use == "Second reader."
    assert policy.purpose.intended_user is None  # nothing is made up
    assert {key: str(limit) for key, limit in policy.limits.items()} == {
        "performance.auc": "at least 0.8",
        "shortcut.corners.effect": "at most 0.25",
        "data.same_inputs": "at least 0 and at most 3",
    }
    text = TEXT.splitlines()
    assert all(key in text[line - 1] for key, line in lines.items())
    assert list(lines.values()) == [6, 8, 10]


def test_an_empty_file_is_the_usual_policy(tmp_path: Path) -> None:
    assert read_policy(write(tmp_path, "# nothing yet\n")) == (Policy(), {})


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("limts: {}", "no key 'limts'", "limits"),
        ("purpose: {intended_users: x}", "no key 'purpose.intended_users'", "intended_user"),
        ("limits: {performance.auc: {at_last: 1}}", "no key 'limits.performance.auc.at_last'", "at_least"),
        ("limits: {performance.auc: {}}", "'limits.performance.auc' cannot be", "docs/audit.md"),
        ("limits: {performance.auc: 0.8}", "'limits.performance.auc' cannot be 0.8", "docs/audit.md"),
        ("threshold: 1.5", "'threshold' cannot be 1.5", "docs/audit.md"),
        ("judged_by: eye", "'judged_by' cannot be 'eye'", "docs/audit.md"),
        ("minimum_n: many", "'minimum_n' cannot be 'many'", "docs/audit.md"),
        ("- a\n- b", "holds no policy", "key: value"),
        ("a: [", "is not YAML", "key: value"),
        ("zones: corners", "'zones' cannot be 'corners'", "docs/audit.md"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str, hint: str) -> None:
    with pytest.raises(OptionError) as error:
        read_policy(write(tmp_path, text))
    assert said in error.value.message
    assert hint in error.value.hint


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_policy(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        read_policy(tmp_path / "bytes.yaml")


def test_changed_is_checked_like_a_new_one() -> None:
    policy = Policy(limits={"performance.auc": Limit(at_least=0.5)})
    assert policy.changed(zones=("border",)).zones == ("border",)
    assert policy.changed(zones=("border",)).limits == policy.limits
    with pytest.raises(OptionError):
        policy.changed(zone=("border",))
