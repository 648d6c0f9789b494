"""Damaged copies of files, seeded: a quarter each truncated, with a changed head, a changed body, and inflated sizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

KINDS = ("truncated", "head", "body", "inflated")


def damaged(
    originals: Sequence[bytes],
    count: int,
    head: int,
    inflate: Callable[[bytearray, random.Random], None],
    seed: int = 0,
) -> Iterator[tuple[str, bytes]]:
    """`count` copies with the kind of their damage. head: bytes that count as the head of a file."""
    chance = random.Random(seed)
    for k in range(count):
        kind, copy = KINDS[k % len(KINDS)], bytearray(originals[(k // len(KINDS)) % len(originals)])
        if kind == "truncated":
            del copy[chance.randrange(len(copy)) :]
        elif kind == "head":
            _changed(copy, 0, min(head, len(copy)), chance)
        elif kind == "body":
            _changed(copy, min(head, len(copy) - 1), len(copy), chance)
        else:
            inflate(copy, chance)
        yield kind, bytes(copy)


def _changed(copy: bytearray, start: int, stop: int, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 3, 10, 50))):
        copy[chance.randrange(start, stop)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def inflate_dicom(copy: bytearray, chance: random.Random) -> None:
    """Large rows, columns, frames or bits, a long element, or a large picture in a compressed stream's own head."""
    large = chance.choice((b"\xff\xff", b"\x00\xf0", b"\xff\x7f"))
    tags = [
        tag
        for tag in (b"\x28\x00\x10\x00", b"\x28\x00\x11\x00", b"\x28\x00\x00\x01", b"\x28\x00\x02\x00")
        if tag in copy
    ]
    streams = [copy.find(mark) for mark in (b"\xff\x4f\xff\x51", b"\xff\xc0", b"\xff\xc1", b"\xff\xf7") if mark in copy]
    if streams and chance.random() < 0.3:
        at = chance.choice(streams) + 5
        copy[at : at + 8] = bytes(chance.choice((0, 0xFF, 0x7F)) for _ in range(8))
    elif chance.random() < 0.3:
        at = chance.randrange(132, len(copy) - 8)
        copy[at : at + 4] = b"\xf0\xff\xff\xff"
    for tag in chance.sample(tags, min(len(tags), chance.choice((1, 2)))):
        at = copy.find(tag) + 8
        copy[at : at + 2] = large
    frames = copy.find(b"\x28\x00\x08\x00")
    if frames > 0:
        copy[frames + 8 : frames + 10] = b"99"


def inflate_nifti(copy: bytearray, chance: random.Random) -> None:
    """Large sides, more axes, another type or a far offset in the head."""
    for _ in range(chance.choice((1, 2, 3))):
        at = chance.choice((40, 42, 44, 46, 48, 50, 70, 72, 108, 112))
        copy[at : at + 2] = chance.choice((b"\xff\x7f", b"\x00\x10", b"\x07\x00", b"\x00\x06", b"\xff\xff"))
