"""Chance: one independent stream per component and instance, so that dropping one moves no other."""

from __future__ import annotations

from zlib import crc32

import numpy as np


def stream(root: int, name: str, instance: int = 0) -> np.random.Generator:
    """The generator of component `name`, number `instance`, of whatever `root` stands for."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([root, crc32(name.encode()), instance])))


def derive(*parts: int | str) -> int:
    """A 64-bit root from numbers and names (a set's seed, its split, a patient, an image)."""
    words = [crc32(p.encode()) if isinstance(p, str) else p for p in parts]
    low, high = np.random.SeedSequence([len(words), *words]).generate_state(2)
    return int(low) | int(high) << 32
