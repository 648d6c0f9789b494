"""Trees are judged on samples that neither they nor their network learned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as pl
from hybrids.conftest import held
from pellucid.errors import BadInput, OptionError
from pellucid.hybrids import hybrid
from pellucid.hybrids.tree import grow
from pellucid.networks import open_network
from pellucid.study import Study, open_study, seal, train_fold
from pellucid.training.config import TrainingConfig

CPU = torch.device("cpu")


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def test_nothing_is_learned_from_noise_even_when_groups_repeat(bright: nn.Module) -> None:
    """Every group holds six copies of one noise image under one random label: trees that saw a copy would know it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 6, 6, generator=generator).repeat_interleave(6, 0)
    labels = torch.randint(0, 2, (40,), generator=generator).repeat_interleave(6).tolist()
    data = held(x, labels, [f"p{i // 6}" for i in range(240)])
    found = hybrid.of_data(bright, data, learn="labels", progress=quiet)
    assert found.standing.accuracy.mean < 0.65
    assert found.standing.accuracy.groups == 40
    seen = found.tree.answers(found.descriptors) == found.descriptors.labels
    assert seen.mean() > 0.7  # the drawn tree, fitted to all, knows them by heart


def test_a_network_that_asks_for_its_strongest_place_is_copied(bright: nn.Module) -> None:
    """Images with one bright sample or none: the peak tells the network's answer."""
    x = torch.zeros(60, 1, 6, 6)
    x[::2, 0, 2, 3] = 36.0
    found = hybrid.of_data(bright, held(x, [1, 0] * 30), progress=quiet)
    assert found.standing.fidelity.mean == found.standing.accuracy.mean == 1.0
    assert found.tree.n == 60
    assert "5 trees, each scored on a part of the data" in found.about


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of a small network on pictures with one bright half or the other."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for k in range(32):
        image = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        if k % 2:
            image[:, :16] += 120
        place = folder / ("dark", "bright")[k % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{k}.png")
    out = tmp_path_factory.mktemp("runs") / "run"
    recipe = TrainingConfig(epochs=3, batch_size=8, lr=1e-2)
    study = Study(str(folder), {"size": 32, "crop": "resize"}, "pellucid:s8", None, 2, False, False, recipe)
    data = open_study(study, out)
    for fold in data.folds:
        train_fold(study, data, fold, out, progress=False)
    seal(out)
    return out


def test_a_run_has_a_tree_per_fold_fitted_on_its_training_samples(run: Path) -> None:
    found = hybrid.of_run(run, depth=2, device=CPU, progress=quiet)
    study = Study.load(run)
    data = open_study(study, run)
    same = []
    for fold in data.folds:
        assert fold.test is not None
        network = open_network(str(fold.folder(run)), weights=None, device=CPU)
        tree, other = grow(pl.describe(network, fold.train), depth=2), pl.describe(network, fold.test)
        same += (tree.answers(other) == other.answers).tolist()
    assert found.standing.fidelity.mean == pytest.approx(np.mean(same))
    assert len(found.descriptors) == 32
    assert len(set(found.descriptors.samples)) == 32
    assert "2 trees, one per fold" in found.about


def test_what_is_saved_comes_back_for_a_report(run: Path, tmp_path: Path) -> None:
    found = hybrid.of_run(run, device=CPU, progress=quiet)
    found.save(tmp_path)
    block = hybrid.block(tmp_path)
    assert block.rows == found.standing.rows()
    assert block.text == str(found.tree)
    assert block.picture == (tmp_path / "tree.svg").read_bytes()
    stored = json.loads((tmp_path / "tree.json").read_text())
    del stored["tree"]["root"]
    (tmp_path / "tree.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput, match="describes no tree"):
        hybrid.block(tmp_path)


def test_a_run_on_all_data_is_refused(tmp_path: Path) -> None:
    recipe = TrainingConfig(epochs=1)
    study = Study("lesionlab:fundus", {"n_images": 8, "size": 64}, "pellucid:s8", None, 0, False, False, recipe)
    open_study(study, tmp_path)
    with pytest.raises(OptionError, match="trained on all of its data"):
        hybrid.of_run(tmp_path, device=CPU, progress=quiet)
