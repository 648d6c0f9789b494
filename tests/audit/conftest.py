"""A small run of `train` to be audited: two folds of LesionLab pictures with a letter that goes with the label."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid import study
from pellucid.training.config import TrainingConfig

READING = {"n_images": 40, "size": 64, "rho": 0.9, "marker": "letter"}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "eyes"
    recipe = TrainingConfig(epochs=1, batch_size=8, lr=0.01)
    made = study.Study("lesionlab:fundus", READING, "pellucid:s8", None, 2, False, False, recipe)
    study.train_study(made, out, progress=False)
    return out
