"""What the tests of the command line share: how a command ended, and small files for it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import pellucid
from pellucid.models import zoo
from pellucid.models.s8 import S8

CLASSES = ("apple", "pear", "plum")


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.err.strip().splitlines()


Run = Callable[..., Ended]


def fresh(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own."""
    source = str(Path(pellucid.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def picture(path: Path, seed: int = 0, side: int = 80) -> Path:
    """A smooth coloured pattern."""
    x, y = np.meshgrid(np.linspace(0, 6, side), np.linspace(0, 5, side + 8))
    waves = np.stack([np.sin(x * (1 + seed % 7) + c) * np.cos(y + seed) for c in range(3)], -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(((waves + 1) * 127).astype(np.uint8)).save(path)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path: Path, side: int = 50_000) -> Path:
    """A small PNG file, whole and valid, of side x side black pixels."""
    packer, row = zlib.compressobj(1), bytes(1 + side // 8)
    data = b"".join([packer.compress(row * 100) for _ in range(side // 100)] + [packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def small(classes: int = 3) -> S8:
    """S8 with few channels; its head is large enough for answers to differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = zoo.build("pellucid:s8", num_classes=classes, channels=(8, 8, 8), strides=(2, 2, 2))
        assert isinstance(net, S8)
        net.head.weight.data.normal_(0, 3)
    return net.eval()
