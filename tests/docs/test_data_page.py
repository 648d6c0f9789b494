"""The page on data speaks of every reader, and its commands have the options that it shows."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from inspect import Parameter, signature
from pathlib import Path

import pytest

from pellucid.data import READERS
from pellucid.registry import Leaf
from pellucid.training.config import TrainingConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \|.*\| `(pellucid .*)` \|$", PAGE, flags=re.M))


def test_every_reader_has_a_row() -> None:
    assert list(ROWS) == list(READERS)


@pytest.mark.parametrize("name", READERS)
def test_commands_have_the_options_they_show(name: str) -> None:
    row = READERS[name]
    known = {p.name for p in signature(row.load()).parameters.values() if p.kind is Parameter.KEYWORD_ONLY}
    known |= {f.name for path in row.settings for f in fields(Leaf(path, "").load())} | set(TrainingConfig.model_fields)
    words = shlex.split(ROWS[name])
    assert words[1] in ("train", "explain")
    given = {word.partition("=")[0] for word in words[3:] if "=" in word}
    assert given <= known, given - known
    prefix, colon, _ = words[2].partition(":")
    assert not colon or prefix == name
