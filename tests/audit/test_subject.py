"""What is audited of which folder: the networks, the samples each did not see, and what is known of their making."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pellucid import files, study
from pellucid.audit.subject import open_subject, training_notes
from pellucid.errors import OptionError
from pellucid.training.config import TrainingConfig

CPU = torch.device("cpu")


def test_of_folds_each_network_has_what_it_did_not_see(trained: Path) -> None:
    subject = open_subject(trained, None, {}, device=CPU)
    split = json.loads((trained / "splits.json").read_text())["parts"]
    assert subject.folds
    assert [part.name for part in subject.parts] == ["fold-0", "fold-1"]
    for k, part in enumerate(subject.parts):
        assert {part.dataset.facts(i).name for i in range(len(part.dataset))} == set(split[str(k)])
    assert subject.hashes["weights of fold-0"] == files.sha256(trained / "fold-0" / "model.safetensors")
    assert subject.hashes["splits"] == files.sha256(trained / "splits.json")
    assert subject.scored is None
    assert training_notes(subject)["seed"] == 0


def test_of_one_network_the_data_are_those_named_and_in_its_order_of_classes(trained: Path) -> None:
    reading = {"n_images": 6, "size": 64, "split": "test"}
    subject = open_subject(trained / "fold-0", "lesionlab:fundus", reading, device=CPU)
    assert len(subject.parts[0].dataset) == 6
    assert subject.classes == ("healthy", "lesion")
    assert subject.learnt is None  # a network of a fold does not know its data
    assert not subject.folds


def test_trainings_of_several_seeds(trained: Path, tmp_path: Path) -> None:
    """Two seeds are two trainings; the first is what is audited."""
    recipe = TrainingConfig(epochs=1, batch_size=8, lr=0.01)
    for seed in range(2):
        made = study.Study(
            "lesionlab:fundus", {"n_images": 16, "size": 64}, "pellucid:s8", None, 2, False, False, recipe.changed(seed=seed, split_seed=0)
        )  # fmt: skip
        study.train_study(made, tmp_path / f"seed-{seed}", progress=False)
    subject = open_subject(tmp_path, None, {}, device=CPU)
    assert len(subject.trainings) == 2
    assert subject.parts is subject.trainings[0]
    first, second = (next(parts[0].network.parameters()) for parts in subject.trainings)
    assert not torch.equal(first, second)
    names = [
        [part.dataset.facts(i).name for part in parts for i in range(len(part.dataset))] for parts in subject.trainings
    ]
    assert sorted(names[0]) == sorted(names[1])


def test_data_without_classes_cannot_judge(trained: Path, tmp_path: Path) -> None:
    from cli.kit import picture

    picture(tmp_path / "a.png")
    with pytest.raises(OptionError):
        open_subject(trained / "fold-0", str(tmp_path / "a.png"), {}, device=CPU)
