from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from pellucid.models.certificate import Certificate, EffectiveField, Leakage

PLAIN: dict[str, Any] = {
    "kind": "exact", "cut": "the output of 'layer4'", "head": "fc", "classes": 3, "images": 2, "parity": 1e-6, "parity_relative": 2e-7, "flips": 0,
    "affinity": 1e-15, "head_error": 0.0, "grid": [7, 7], "input_size": [224, 224], "stride": [32.0, 32.0], "start": [0.0, 0.0], "jump": [32.0, 32.0],
    "receptive_field": [435.0, 435.0], "whole_input": False, "sized": False, "notes": ["one", "two"],
}  # fmt: skip
FULL = replace(
    Certificate.from_dict(PLAIN),
    constant_share=0.25, cells_share=0.9, agreement=(0.5, 0.96875), p99=5e-7, kl=3e-12, global_context=("a.se (SqueezeExcitation)",),
    effective_field=EffectiveField(187.0, 91.0, 8, 4, (224, 224)), leakage=Leakage(0.0, 32, 0.8, 0.1, 8, 4, (224, 224)),
)  # fmt: skip


def words(certificate: Certificate) -> dict[str, str]:
    return dict(certificate.rows())


def test_what_an_older_version_wrote_is_read_with_nothing_measured() -> None:
    found = Certificate.from_dict(PLAIN)
    assert (found.grid, found.notes) == ((7, 7), ("one", "two"))
    later = [f.name for f in fields(Certificate) if f.name not in PLAIN]
    assert {getattr(found, name) for name in later} == {None, ()}
    assert not {"effective field", "leakage", "warning", "outside the receptive field"} & set(words(found))


@pytest.mark.parametrize("certificate", [Certificate.from_dict(PLAIN), FULL])
def test_it_outlives_json(certificate: Certificate) -> None:
    again = Certificate.from_dict(json.loads(json.dumps(certificate.as_dict())))
    assert again == certificate
    assert hash(again) == hash(certificate)  # tuples all through


def test_the_table_says_the_figures() -> None:
    said = words(FULL)
    assert said["kind"].startswith("exact: ")
    for figure in ("1e-06 at most", "2e-07 of their spread", "99 % of them by at most 5e-07", "KL 3e-12", "0 of 2"):
        assert figure in said["logits differ by"]
    assert said["receptive field"] == "435 x 435 samples"
    assert "187 samples hold 95 %" in said["effective field"]
    assert "91 hold 50 %" in said["effective field"]
    assert "cut off" not in said["effective field"]
    assert said["outside the receptive field"] == "nothing changes a cell (32 tried)"
    assert said["leakage"].startswith("0.8 outside one stride, 0.1 outside the effective field")
    assert said["spread over the logits'"].startswith("cells 0.9, constant 0.25")
    assert said["answers like the original"] == "50.0% before distillation, 96.9% after"
    assert "a.se (SqueezeExcitation)" in said["warning"]


def test_every_kind_is_explained_and_an_unknown_one_is_shown() -> None:
    for kind in ("exact", "exact_at_this_image", "retrain"):
        assert words(replace(FULL, kind=kind))["kind"].startswith(f"{kind}: ")
    assert words(replace(FULL, kind="new"))["kind"] == "new"


def test_frozen_gates_are_a_warning_of_their_own() -> None:
    assert not [v for n, v in FULL.rows() if n == "warning" and "gates" in v]
    frozen = replace(FULL, kind="exact_at_this_image").rows()
    assert [v.split(",")[0] for n, v in frozen if n == "warning"] == [
        "the head's gates",
        "every cell sees the whole input",
    ]


def test_what_was_not_found_is_said() -> None:
    assert FULL.leakage is not None
    assert FULL.effective_field is not None
    leaky = words(replace(FULL, leakage=replace(FULL.leakage, box=0.2)))
    assert leaky["outside the receptive field"].startswith("0.2 of a cell's change")
    untested = words(replace(FULL, leakage=replace(FULL.leakage, box=None, effective=None)))
    assert untested["outside the receptive field"].startswith("not tested: at 224 x 224")
    assert "effective" not in untested["leakage"]
    wide = words(replace(FULL, effective_field=replace(FULL.effective_field, side=301.0)))
    assert "cut off" in wide["effective field"]
    assert words(replace(FULL, receptive_field=None))["receptive field"] == "not known"
    assert words(replace(FULL, whole_input=True))["receptive field"] == "whole input"


def test_many_layers_are_counted() -> None:
    many = tuple(f"block.{k} (Gate)" for k in range(16))
    said = words(replace(FULL, global_context=many))["warning"]
    assert said.endswith("block.0 (Gate), block.1 (Gate), block.2 (Gate) and 13 more")
