"""Learning rate, momentum and the penalty's strength as functions of the step: nothing to store, so a resumed training cannot drift."""

from __future__ import annotations

from math import cos, pi

from pellucid.training.config import TrainingConfig

# The one-cycle policy of Smith and Topin (2019) with the constants that PyTorch made common.
_START, _END = 1 / 25, 1 / 25 / 1e4
_LOW_MOMENTUM, _HIGH_MOMENTUM = 0.85, 0.95
_MOMENTUM = 0.9
_CLIP = 0.1


def learning_rate(config: TrainingConfig, step: int, total: int) -> float:
    """The learning rate of step 0 to total - 1. The SoftCAM authors' schedule is cosine_clipped at lr 1e-3."""
    lr = config.lr
    if config.schedule == "one_cycle":
        return _one_cycle(config, step, total, lr * _START, lr, lr * _END)
    warm = (config.warm_up or 0.0) * total
    if step < warm:
        return lr * min((step + 1) / warm, 1.0)
    if config.schedule == "constant":
        return lr
    if config.schedule == "cosine":
        return _between(lr, 0.0, (step - warm) / (total - warm))
    epoch = step * config.epochs // total
    return max(_between(lr, 0.0, epoch / config.epochs), _CLIP * lr)


def momentum(config: TrainingConfig, step: int, total: int) -> float:
    """Momentum (sgd) or the first beta (adamw): against the learning rate in one_cycle, else 0.9."""
    if config.schedule != "one_cycle":
        return _MOMENTUM
    return _one_cycle(config, step, total, _HIGH_MOMENTUM, _LOW_MOMENTUM, _HIGH_MOMENTUM)


def penalty_share(config: TrainingConfig, step: int, total: int) -> float:
    """How much of its strength the penalty has: 0 before its warm-up is over, then rising in a line to 1."""
    since = step - config.penalty_warm_up * total
    if config.penalty == "none" or since < 0:
        return 0.0
    return min((since + 1) / max(config.penalty_ramp * total, 1.0), 1.0)


def _one_cycle(config: TrainingConfig, step: int, total: int, first: float, middle: float, last: float) -> float:
    turn = (config.warm_up or 0.0) * total - 1
    if step <= turn:
        return _between(first, middle, step / turn if turn > 0 else 1.0)
    turn = max(turn, 0.0)
    return _between(middle, last, (step - turn) / max(total - 1 - turn, 1.0))


def _between(first: float, last: float, share: float) -> float:
    """From first to last along half a cosine."""
    return last + (first - last) * (1 + cos(pi * share)) / 2


__all__ = ["learning_rate", "momentum", "penalty_share"]
