"""The record of decisions: what it says adds up, and no byte of the chain can change unseen."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from audit.kit import SLOPE, MeanNet, Plain, noise
from pellucid.audit.decisions import START, check_chain, decided, write_chain
from pellucid.errors import IntegrityError

RECORDS = [{"record": k, "answer": "lesion", "log_odds": k / 3, "name": "Ä"} for k in range(4)]


def test_each_record_names_the_digest_of_the_one_before(tmp_path: Path) -> None:
    head = write_chain(tmp_path / "d.jsonl", RECORDS)
    lines = (tmp_path / "d.jsonl").read_bytes().splitlines()
    previous = [json.loads(line)["previous"] for line in lines]
    assert previous == [START, *(sha256(line).hexdigest() for line in lines[:-1])]
    assert head == sha256(lines[-1]).hexdigest()
    assert [json.loads(line)["log_odds"] for line in lines] == [r["log_odds"] for r in RECORDS]
    assert check_chain(tmp_path / "d.jsonl", head) == 4


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    head = write_chain(path, RECORDS)
    whole = path.read_bytes()
    for k in range(len(whole)):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :])
        with pytest.raises(IntegrityError):
            check_chain(path, head)


@pytest.mark.parametrize("kept", [[0, 1, 3], [0, 1, 2], [0, 2, 1, 3], [1, 2, 3], [0, 1, 2, 3, 3], []])
def test_records_left_out_added_or_exchanged_are_found(tmp_path: Path, kept: list[int]) -> None:
    path = tmp_path / "d.jsonl"
    head = write_chain(path, RECORDS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[k] for k in kept))
    with pytest.raises(IntegrityError):
        check_chain(path, head)


def test_the_changed_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    head = write_chain(path, RECORDS)
    lines = path.read_text().splitlines(keepends=True)
    for k in range(4):
        changed = [line.replace("lesion", "health") if j == k else line for j, line in enumerate(lines)]
        path.write_text("".join(changed))
        with pytest.raises(IntegrityError, match=f"record {k + 1} is not the one"):
            check_chain(path, head)


def test_what_is_on_record_adds_up_to_the_log_odds() -> None:
    x = torch.stack([noise(k) for k in range(3)])
    for one, found in zip(x, decided(MeanNet(), x), strict=True):
        record = found["explanation"]
        logits = MeanNet()(one[None])[0].detach()
        answer = int(logits.argmax())
        assert record["score"] == pytest.approx(float(logits[answer] - logits[1 - answer]), abs=1e-6)
        assert sum(row["value"] for row in record["ledger"]) == pytest.approx(record["score"], abs=1e-5)
        assert abs(record["residual"]) < 1e-5
        cells = torch.nn.functional.avg_pool2d(one, 2)[0] * (SLOPE if answer else -SLOPE) / 16
        digest = sha256(cells.contiguous().numpy().tobytes()).hexdigest()
        assert len(record["map_sha256"]) == len(digest) == 64
        assert record["text"]["short"]


def test_of_a_network_without_evidence_nothing_is_made_up() -> None:
    assert decided(Plain(), torch.zeros(2, 1, 8, 8)) == [{"explanation": None}] * 2
