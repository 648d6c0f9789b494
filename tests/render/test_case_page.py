"""One decision on one page."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid as pl
from pellucid.errors import OptionError
from pellucid.models import zoo
from pellucid.models.convert import convert
from pellucid.render.case_page import case_page


def explained(rank: int, names: tuple[str, ...] = ("no", "yes")) -> pl.Explanation:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network: Any = zoo.build("pellucid:s8", num_classes=2, channels=(4, 4, 4), strides=(2, 2, 1), in_channels=1, rank=rank)  # fmt: skip
        x = torch.randn(2, 1, *(16,) * rank)
    return pl.explain(convert(network.eval(), x, classes=names), x)


def words(data: bytes, folder: Path) -> str:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed")
    (folder / "case.pdf").write_bytes(data)
    return subprocess.run(["pdftotext", "-layout", folder / "case.pdf", "-"], capture_output=True, text=True, check=True).stdout  # fmt: skip


def test_signals_pictures_and_volumes(rank: int, tmp_path: Path) -> None:
    e = explained(rank)[0]
    said = words(case_page(e, name="case 7"), tmp_path)
    assert said.count("\f") == 1
    assert "case 7" in said
    assert f"{float(e.score[0]):+.4f}" in said


def test_answers_are_sorted_and_none_is_certain(tmp_path: Path) -> None:
    answers, calibrated = {"a": 0.00001, "b": 0.99989, "c": 0.0001}, {"a": 0.1, "b": 0.7, "c": 0.2}
    said = words(case_page(explained(2)[0], name="x", answers=answers, calibrated=calibrated), tmp_path)
    rows = [line.split() for line in said.splitlines() if "calibrated" in line]
    assert rows == [
        ["b", ">", "99.9", "%", "calibrated", "70.0", "%"],
        ["c", "<", "0.1", "%", "calibrated", "20.0", "%"],
        ["a", "<", "0.1", "%", "calibrated", "10.0", "%"],
    ]


def test_names_of_any_kind(tmp_path: Path) -> None:
    """Letters that the font lacks become boxes, dollars are no mathematics, and long names are cut."""
    e = explained(2, ("$no$", "肺炎 x_2^3"))[0]
    said = words(case_page(e, name="\\frac $x$ " + "long " * 60, facts={"site": "€ 5 & <b>"}), tmp_path)
    assert "\\frac $x$ long" in said
    assert "…" in said
    assert "site: € 5 & <b>" in " ".join(said.split())


def test_one_input_at_a_time() -> None:
    with pytest.raises(OptionError):
        case_page(explained(2), name="x")
