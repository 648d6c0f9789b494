"""What a training would do, decided from made data whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pellucid.errors import BadInput, OptionError
from pellucid.plan import Plan, plan_for
from pellucid.training.config import TrainingConfig


def pictures(root: Path, counts: dict[str, int], *, side: int = 40, grey: bool = False, name: str = "{k}") -> str:
    chance = np.random.default_rng(len(counts))
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for k in range(count):
            shape = (side, side + 10) if grey else (side, side + 10, 3)
            Image.fromarray(chance.integers(0, 256, shape, np.uint8)).save(root / folder / f"{name.format(k=k)}.png")
    return str(root)


def test_a_small_folder(tmp_path: Path) -> None:
    plan = plan_for(pictures(tmp_path / "d", {"a": 20, "b": 20}), {})
    assert (plan.model, plan.folds, plan.task, plan.samples) == ("pellucid:s8", 5, "multiclass", 40)
    assert plan.reading == {"size": 32}  # 40 pixels, to the nearest multiple of 32
    assert plan.inputs == [3, 32, 32]
    assert "class_weights" not in plan.recipe
    assert plan.recipe["epochs"] * 40 / plan.recipe["batch_size"] == pytest.approx(300, rel=0.05)
    assert (plan.recipe["val_fraction"], plan.recipe["keep_best"]) == (0.15, "val_loss")
    assert any("patients are not known" in warning for warning in plan.warnings)
    assert TrainingConfig(**plan.recipe)


def test_unequal_classes_of_large_grey_pictures(tmp_path: Path) -> None:
    plan = plan_for(pictures(tmp_path / "d", {"a": 9, "b": 3}, side=500, grey=True), {})
    assert plan.reading == {"size": 224, "grey": True}
    assert plan.inputs == [1, 224, 224]
    assert plan.recipe["class_weights"] == "balanced"
    assert plan.folds == 3  # the rarer class is found in three groups
    assert "val_fraction" not in plan.recipe
    said = " ".join(plan.warnings)
    assert "2 times as large as the inputs" in said
    assert "2 of the classes have fewer than 10 samples" in said
    kept = plan_for(str(tmp_path / "d"), {"size": 64, "grey": False})
    assert (kept.reading, kept.inputs) == ({"size": 64, "grey": False}, [3, 64, 64])


def test_sides_and_patients_and_a_published_split(tmp_path: Path) -> None:
    counts = {"train/left": 12, "train/right": 12, "test/left": 4, "test/right": 4}
    source = pictures(tmp_path / "d", counts, name="p{k}_x")
    plan = plan_for(source, {"group": r"(p\d+)_"})
    assert (plan.folds, plan.parts, plan.samples) == (0, {"train": 24, "test": 8}, 24)
    assert plan.classes == {"left": 12, "right": 12}  # of the part that is learnt from
    said = " ".join(plan.warnings)
    assert "train and test share 4 groups and 0 inputs" in said
    assert "augment=hflip" in said
    assert "patients are not known" not in said


@pytest.mark.parametrize(("kept", "chooses"), [(4, True), (0, False)])
def test_a_published_validation_part_chooses_the_weights_if_it_is_large_enough(
    tmp_path: Path, kept: int, chooses: bool
) -> None:
    counts = {"train/a": 40, "train/b": 40, "val/a": kept, "val/b": 1, "test/a": 4, "test/b": 4}
    plan = plan_for(pictures(tmp_path / "d", counts), {})
    assert plan.validation == ("val" if chooses else None)
    assert plan.recipe["keep_best"] == "val_loss"
    assert ("val_fraction" in plan.recipe) is not chooses
    assert (("validation", "the part 'val'") in plan.rows()) is chooses
    assert Plan.read(plan.write(tmp_path / "plan.json")) == Plan(**Plan.read(tmp_path / "plan.json").__dict__)


def test_several_classes_at_once(tmp_path: Path) -> None:
    labels = (np.random.default_rng(0).random((60, 4)) < 0.3).astype(np.uint8)
    np.savez(
        tmp_path / "m.npz",
        train_images=np.random.default_rng(1).integers(0, 256, (60, 28, 28), np.uint8),
        train_labels=labels,
    )
    plan = plan_for(str(tmp_path / "m.npz"), {})
    assert (plan.task, plan.classes) == ("multilabel", {str(k): int(labels[:, k].sum()) for k in range(4)})
    assert "class_weights" not in plan.recipe


def test_volumes(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    from data.scans import nifti_file

    for k in range(8):
        nifti_file(
            tmp_path / "d" / "ab"[k % 2] / f"{k}.nii.gz",
            np.random.default_rng(k).random((20, 90, 100)).astype(np.float32),
        )
    plan = plan_for(str(tmp_path / "d"), {})
    assert (plan.reading, plan.inputs) == ({"size": 32}, [1, 32, 32, 32])


def test_written_and_read_again(tmp_path: Path) -> None:
    plan = plan_for(pictures(tmp_path / "d", {"a": 4, "b": 4}), {})
    path = plan.write(tmp_path / "plan.json")
    again = Plan.read(path)
    assert again.rows() == plan.rows()
    again.check(plan.source, {})
    again.check(plan.source, {"size": 64})  # read in another way than planned: nothing to compare
    plan.write(path)  # over itself
    pictures(tmp_path / "d" / "more", {"a": 1})
    with pytest.raises(BadInput, match="other data"):
        again.check(plan.source, {})
    with pytest.raises(BadInput, match="other data"):
        again.check(str(tmp_path), {})
    for text in ("[]", "{}", '{"format": "pellucid-plan-1"}', "x"):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(BadInput):
            Plan.read(tmp_path / "other.json")
        with pytest.raises(OptionError, match="is no plan") if "plan-1" not in text else pytest.raises(BadInput):
            plan.write(tmp_path / "other.json") if "plan-1" not in text else Plan.read(tmp_path / "other.json")


@pytest.mark.parametrize("counts", [{"a": 3}, {}])
def test_nothing_to_learn(tmp_path: Path, counts: dict[str, Any]) -> None:
    source = pictures(tmp_path / "d", counts) if counts else pictures(tmp_path, {"flat": 2}) + "/flat"
    with pytest.raises(BadInput, match="no classes to learn"):
        plan_for(source, {})
