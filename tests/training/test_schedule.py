from __future__ import annotations

import pytest
import torch

from pellucid.training.config import TrainingConfig
from pellucid.training.schedule import learning_rate, momentum, penalty_share


def sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)


@pytest.mark.parametrize(("total", "warm_up"), [(40, 0.3), (7, 0.5), (11, 0.2), (100, 0.05)])
def test_one_cycle_equals_pytorch(total: int, warm_up: float) -> None:
    config = TrainingConfig(lr=5e-3, warm_up=warm_up)
    optimiser = sgd(1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=total, pct_start=warm_up)
    for step in range(total):
        group = optimiser.param_groups[0]
        assert learning_rate(config, step, total) == pytest.approx(group["lr"], rel=1e-9)
        assert momentum(config, step, total) == pytest.approx(group["momentum"], rel=1e-9)
        optimiser.step()
        if step + 1 < total:
            scheduler.step()


def test_cosine_equals_pytorch() -> None:
    optimiser = sgd(2e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20)
    config = TrainingConfig(lr=2e-3, schedule="cosine")
    for step in range(20):
        assert learning_rate(config, step, 20) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        scheduler.step()
    assert momentum(config, 3, 20) == 0.9


def test_cosine_clipped_is_the_published_schedule() -> None:
    """lr 1e-3, 50 epochs, clipped at 1e-4, which is reached at epoch 40."""
    config = TrainingConfig(lr=1e-3, schedule="cosine_clipped", epochs=50)
    rates = [learning_rate(config, epoch * 7 + 3, 350) for epoch in range(50)]
    assert rates[0] == 1e-3
    assert rates[25] == pytest.approx(5e-4)
    assert rates[39] > 1e-4
    assert rates[40:] == [1e-4] * 10
    assert learning_rate(config, 6, 350) == rates[0]


def test_warm_up_rises_to_the_rate() -> None:
    config = TrainingConfig(lr=1.0, schedule="constant", warm_up=0.5)
    assert [learning_rate(config, s, 8) for s in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "cosine_clipped", "constant"])
def test_a_single_step_has_a_rate(schedule: str) -> None:
    config = TrainingConfig(lr=1.0, schedule=schedule, epochs=1)  # type: ignore[arg-type]
    assert 0 < learning_rate(config, 0, 1) <= 1


def test_the_penalty_comes_late_and_rises() -> None:
    config = TrainingConfig(penalty="l1", strength=1, penalty_warm_up=0.5, penalty_ramp=0.25)
    assert [penalty_share(config, s, 8) for s in range(8)] == [0, 0, 0, 0, 0.5, 1, 1, 1]
    at_once = TrainingConfig(penalty="l1", strength=1, penalty_warm_up=0.5)
    assert [penalty_share(at_once, s, 4) for s in range(4)] == [0, 0, 1, 1]
    assert penalty_share(TrainingConfig(), 3, 4) == 0
