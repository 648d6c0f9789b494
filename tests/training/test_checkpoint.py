from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from pellucid.errors import IntegrityError
from pellucid.training import checkpoint


def state(step: int) -> dict[str, Any]:
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    return {
        "step": step,
        "rate": 0.1 + step,
        "names": ["a", None, True],
        "betas": (0.9, 0.99),
        "model": {"w": weights, "n": torch.tensor(step), "h": weights.bfloat16()},
        0: {},
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return checkpoint.digest({k: v for k, v in a.items() if k != "format"}) == checkpoint.digest(b)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    checkpoint.save(tmp_path, state(1))
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found["betas"] == (0.9, 0.99)
    assert torch.equal(found["model"]["w"], state(1)["model"]["w"])
    assert same(found, state(1))


def test_the_one_before_is_kept_and_used(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    checkpoint.save(tmp_path, state(2))
    last = tmp_path / "last.pt"
    whole = last.read_bytes()
    chance = random.Random(0)
    for damaged in (whole[: len(whole) // 2], b"", b"PK not a checkpoint", whole[:-1]):
        last.write_bytes(damaged)
        found = checkpoint.load(tmp_path)
        assert found is not None
        assert same(found, state(1))
    for _ in range(40):
        bit = chance.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        last.write_bytes(flipped)
        found = checkpoint.load(tmp_path)
        assert found is not None
        assert same(found, state(1)) or same(found, state(2))  # padding of the archive carries nothing
    last.unlink()
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert same(found, state(1))


def test_a_flipped_weight_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(3))
    whole = path.read_bytes()
    payload = state(3)["model"]["w"].numpy().tobytes()
    place = whole.index(payload)
    for offset in range(0, len(payload), 7):
        flipped = bytearray(whole)
        flipped[place + offset] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(IntegrityError, match="is damaged"):
            checkpoint.read(path)


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_code_in_a_state_is_not_run(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"format": 1, "model": Malice(tmp_path / "made")}, stream)
    (tmp_path / "last.pt").write_bytes(stream.getvalue())
    with pytest.raises(IntegrityError, match=r"state in .* is damaged"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "made").exists()


def test_digest_sees_every_difference() -> None:
    base = checkpoint.digest(state(1))
    assert checkpoint.digest(state(1)) == base
    for change in ({"step": 2}, {"betas": (0.9, 0.98)}, {"names": ["a", None, False]}, {"model": {}}, {"new": 1}):
        assert checkpoint.digest({**state(1), **change}) != base
    strided = {
        **state(1),
        "model": {k: v.t().contiguous().t() if v.ndim == 2 else v for k, v in state(1)["model"].items()},
    }
    assert checkpoint.digest(strided) == base


def test_a_copy_does_not_follow() -> None:
    weights = torch.ones(2)
    copy = checkpoint.to_cpu({"w": [weights]})
    weights += 1
    assert torch.equal(copy["w"][0], torch.ones(2))


def test_forgotten(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    checkpoint.save(tmp_path, state(2))
    checkpoint.remove(tmp_path)
    assert checkpoint.load(tmp_path) is None
