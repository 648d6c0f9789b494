"""The published recipe, figure by figure."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from pellucid.data.image_file import Preparation
from pellucid.errors import OptionError
from pellucid.training import penalties
from pellucid.training.config import TrainingConfig
from pellucid.training.recipes import names, settings_of
from pellucid.training.schedule import learning_rate

SIDES = {"softcam-paper": (512, 5e-5), "softcam-paper-oct": (496, 9e-4)}


@pytest.mark.parametrize("name", names())
def test_the_published_recipe(name: str) -> None:
    side, strength = SIDES[name]
    settings = settings_of(name)
    reading = {k: v for k, v in settings.items() if k not in TrainingConfig.model_fields}
    assert reading == {"size": side, "shorter_side": side, "crop": "centre"}
    assert set(reading) <= {f.name for f in fields(Preparation)}
    config = TrainingConfig(**{k: v for k, v in settings.items() if k not in reading})
    assert (config.epochs, config.batch_size, config.optimiser, config.weight_decay) == (50, 12, "sgd", 5e-4)
    rates = [learning_rate(config, epoch * 7, 350) for epoch in range(50)]
    assert rates[0] == 1e-3
    assert rates[40:] == [pytest.approx(1e-4)] * 10
    A = torch.randn(4, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    found = config.strength * penalties.of_config(config, A, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(found, strength * torch.norm(A[0], 1))


def test_unknown_recipes() -> None:
    with pytest.raises(OptionError, match="softcam-paper") as error:
        settings_of("softcam-papr")
    assert "softcam-paper" in error.value.hint
