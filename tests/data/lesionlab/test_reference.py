"""Pictures drawn on one machine, kept: another machine draws them within one grey level.

`python -m tests.data.lesionlab.test_reference` writes them anew, which only a new VERSION of a kind may need.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray as Array
from PIL import Image

from pellucid.data.lesionlab import DISTRACTOR_TYPES, KINDS, LESION_TYPES, LesionLab, fundus, oct, xray

FOLDER = Path(__file__).parent / "reference"
IMAGES = 6


def sheet(kind: str) -> Array:
    """Six pictures of 64 pixels side by side, with all lesions, all distractors and a marker among them."""
    knobs = {
        "types": LESION_TYPES[kind], "distractor_types": DISTRACTOR_TYPES[kind], "lesions": (3, 5), "prevalence": 0.8,
    }  # fmt: skip
    data = LesionLab(kind, n_images=IMAGES, size=64, seed=1, marker="letter", knobs=knobs)
    return np.concatenate([data[i].image for i in range(IMAGES)], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_still_draws_what_its_version_drew(kind: str) -> None:
    with Image.open(FOLDER / f"{kind}.png") as kept:
        difference = np.abs(np.asarray(kept).astype(int) - sheet(kind))
    assert difference.max() <= 1


def test_the_references_are_those_of_these_versions_and_small() -> None:
    assert [module.VERSION for module in (fundus, oct, xray)] == ["fundus-1", "oct-1", "xray-1"]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 200_000


if __name__ == "__main__":
    for kind in KINDS:
        Image.fromarray(sheet(kind)).save(FOLDER / f"{kind}.png", optimize=True)
        print(f"Wrote {FOLDER / kind}.png")
