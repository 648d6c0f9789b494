from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pellucid.errors import BadInput, OptionError
from pellucid.training import PENALTIES
from pellucid.training.config import TrainingConfig


def test_unknown_key_suggests_the_nearest() -> None:
    with pytest.raises(OptionError, match="Did you mean 'batch_size'"):
        TrainingConfig(batchsize=3)


def test_unknown_choice_suggests_the_nearest() -> None:
    with pytest.raises(OptionError, match="Did you mean 'adamw'"):
        TrainingConfig(optimiser="adam")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="Did you mean 'elastic_net'"):
        TrainingConfig(penalty="elasticnet", strength=1.0)
    with pytest.raises(OptionError, match="Did you mean 'transpose'"):
        TrainingConfig(augment=["transposed"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": -1},
        {"val_fraction": 1.0},
        {"epochs": "many"},
        {"class_weights": (-1.0, 1.0)},
        {"strength": 0.1},
    ],
)
def test_impossible_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        TrainingConfig(**wrong)


def test_paper_code_sums_over_all_classes() -> None:
    assert TrainingConfig(penalty="l1", compat="paper-code").reduction == "paper_sum"
    with pytest.raises(OptionError, match="sums over all classes"):
        TrainingConfig(penalty="l1", compat="paper-code", reduction="mean")
    with pytest.raises(OptionError, match="sums over all classes"):
        TrainingConfig(penalty="l1", compat="paper-code", penalty_classes="target")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"penalty": "hoyer", "compat": "paper-code"}, "no penalty 'hoyer'"),
        ({"penalty": "l1", "compat": "paper-code", "accumulate": 2}, "in one piece"),
        ({"focal_gamma": 2, "label_smoothing": 0.1}, "no smoothed labels"),
        ({"sampling": "balanced", "class_weights": "balanced"}, "balanced twice"),
        ({"crop_scale": (1.0, 0.5)}, "smaller one first"),
        ({"jitter": (0.1, 0.1, 0.1, 0.9)}, "at most 0.5"),
    ],
)
def test_settings_that_exclude_each_other(values: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as error:
        TrainingConfig(**values)
    assert message in f"{error.value.message} {error.value.why}"


def test_warm_up_depends_on_the_schedule() -> None:
    assert TrainingConfig().warm_up == 0.3
    assert TrainingConfig(schedule="cosine").warm_up == 0.0
    assert TrainingConfig(schedule="cosine", warm_up=0.1).warm_up == 0.1


def test_yaml_gives_back_the_same_settings(tmp_path: Path) -> None:
    config = TrainingConfig(
        lr=3e-5,
        penalty="l1",
        compat="paper-code",
        strength=5e-5,
        augment="hflip, vflip",
        class_weights=[1, 2],
        precision="32",
        freeze=["trunk"],
    )
    text = config.to_yaml(tmp_path / "config.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "config.yaml") == config
    assert text.splitlines()[0] == "epochs: 10"


def test_yaml_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("lr: 1e-4\nprecision: 32\naugment: [rotate90]\n")
    config = TrainingConfig.from_yaml(path)
    assert (config.lr, config.precision, config.augment) == (1e-4, "32", ("rotate90",))
    path.write_text("")
    assert TrainingConfig.from_yaml(path) == TrainingConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "holds no settings"),
        ("a: [", "is not YAML"),
        ("epoch: 3\n", "Did you mean 'epochs'"),
        ("1: 2\n", "holds no settings"),
    ],
)
def test_yaml_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        TrainingConfig.from_yaml(path)


def test_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        TrainingConfig.from_yaml(tmp_path / "none.yaml")


def test_changed_is_checked() -> None:
    assert TrainingConfig().changed(epochs=3).epochs == 3
    with pytest.raises(OptionError):
        TrainingConfig().changed(epochs=-3)
    with pytest.raises(Exception, match="frozen"):
        TrainingConfig().epochs = 4  # type: ignore[misc]


def test_what_decides_leaves_out_where_and_how_fast() -> None:
    assert TrainingConfig(device="cpu", workers=2).decides() == TrainingConfig().decides()
    assert TrainingConfig(seed=1).decides() != TrainingConfig().decides()


def test_settings_load_no_torch() -> None:
    code = "import sys; from pellucid.training.config import TrainingConfig; TrainingConfig(penalty='l1'); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_registry_rows_lead_to_their_penalties() -> None:
    assert {"l1", "l2", "l2_norm", "elastic_net", "log_sum", "hoyer", "total_variation", "entropy", "mask"} == set(
        PENALTIES
    )
    assert all(row.load().__name__ == name for name, row in PENALTIES.items())
